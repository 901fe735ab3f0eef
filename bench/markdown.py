"""to_markdown(): the report as a table that fits a README."""

from bench.judging import HEADS, NAMES, score_cells
from bench.records import EngineReport, Report


def to_markdown(report: Report) -> str:
    """Return report.md."""
    lines = [
        f"# {report.data}: bundle {report.bundle}",
        "",
        *[f"- {sentence}" for sentence in report.verdicts],
        "",
        engines_table(report),
        "",
        f"Reference: `{report.reference}`, {report.reference_architecture.summary()}. "
        f"Ours: {report.architecture.summary()}.",
        f"{report.rows} rows for {NAMES[report.metric]}; {report.texts_timed} texts at their own lengths, "
        f"{report.rounds} rounds, engines in turn; times from token ids to logits (tfidf: from text).",
        *([report.openings.sentence(report.reference)] if report.openings and report.reference else []),
        "",
        machine_sentence(report),
        "",
        f"Command: `{report.command}` ({report.started}, {report.seconds:.0f} s).",
    ]
    return "\n".join(lines) + "\n"


def engines_table(report: Report) -> str:
    """Return the table of engines."""
    batches = sorted({t.batch for e in report.engines for t in e.timings})
    heads = ["engine", *HEADS[report.metric], "loss, points [95 %]", "speed-up [95 %]"]
    heads += [f"p50 / p95 ms, batch {batch}" for batch in batches] + ["MB"]
    return table(heads, [_row(engine, batches, report.reference) for engine in report.engines])


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(engine: EngineReport, batches: list[int], reference: str | None) -> list[str]:
    if engine.status != "ok":
        return [f"{engine.name}: {engine.status} ({engine.problem})"] + [""] * (len(batches) + 5)
    lost = engine.difference
    cells = [f"**{engine.name}**" if engine.name == "ours" else engine.name]
    cells += score_cells(engine.score)
    cells.append(
        f"{lost.loss_points:+.2f} [{lost.loss_interval[0]:+.2f}, {lost.loss_interval[1]:+.2f}]" if lost else ""
    )
    if engine.name == reference:
        cells[-1] = "reference"
    interval = engine.speedup_interval
    cells.append(f"{engine.speedup:.2f}x [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "1")
    for batch in batches:
        timing = engine.timing(batch)
        noise = " noisy" if timing and timing.noisy else ""
        cells.append(f"{timing.p50_ms:.2f} / {timing.p95_ms:.2f}{noise}" if timing else "")
    cells.append(f"{(engine.bytes or 0) / 1e6:.1f}")
    return cells


def machine_sentence(report: Report) -> str:
    """Return what the machine was, in one sentence."""
    card = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    flags = " ".join(card["flags"]) or "no vector flags known here"
    processors = ", ".join([card["processor"], *card.get("gpus", ())])
    return (
        f"Machine: {processors}, {card['cores']} cores, {flags}; load {card['load_average']:.2f} before and "
        f"{report.load_after:.2f} after; {card['pinning'] + '; ' if 'pinning' in card else ''}"
        f"Python {card['python']}, {versions}."
    )
