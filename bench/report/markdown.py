"""to_markdown(): the report as Markdown, with a table that fits into a README."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.measure.accuracy.task_metric import HEADS, NAMES, score_cells
from bench.report.cascade_report import CascadeReport
from bench.report.escape import code, markdown
from bench.report.mlperf import mlperf_sentence
from bench.report.report_schema import EngineReport, Report, Setting

NO_REFERENCE = "no engine of the full model ran"
CASCADE_HEADS = ["stage", "rows", "share", "accuracy", "student's accuracy there", "ECE"]


def to_markdown(report: Report) -> str:
    """Return report.md."""
    lines = [
        f"# {markdown(report.data)}: bundle {report.bundle}",
        "",
        *[f"- {markdown(sentence)}" for sentence in report.verdicts],
        "",
        engines_table(report),
        "",
        *cascade_lines(report),
        f"Reference: {f'`{report.reference}`' if report.reference else NO_REFERENCE}, "
        f"{report.reference_architecture.summary()}. "
        f"Ours: {report.architecture.summary()}.",
        f"{report.rows} rows for {NAMES[report.metric]}; {report.texts_timed} texts at their own lengths, "
        f"{report.rounds} rounds, engines in turn; times and speed-ups are the model's, from token ids to logits "
        "(tfidf: from text).",
        *padding_sentences(report),
        *([sentence] if (sentence := mlperf_sentence(report)) else []),
        *([report.openings.sentence(report.reference)] if report.openings and report.reference else []),
        "",
        machine_sentence(report),
        "",
        f"Command: {code(report.command)} ({report.started}, {report.seconds:.0f} s).",
    ]
    return "\n".join(lines) + "\n"


def cascade_lines(report: Report) -> list[str]:
    """Return the section about the two stages of a cascade; nothing if the bundle has no gate."""
    cascade = report.cascade
    if cascade is None:
        return []
    return [
        "## Cascade",
        "",
        table(CASCADE_HEADS, cascade_cells(cascade)),
        "",
        *cascade_sentences(cascade),
        "",
    ]


def cascade_cells(cascade: CascadeReport) -> list[list[str]]:
    """Return the cells of a table with one row for each stage (CASCADE_HEADS)."""

    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.1%}"

    return [
        [
            one.stage, str(one.rows), f"{one.share:.1%}", percent(one.accuracy), percent(one.student_accuracy),
            "" if one.calibration_error is None else f"{one.calibration_error:.3f}",
        ]
        for one in cascade.stages
    ]  # fmt: skip


def cascade_sentences(cascade: CascadeReport) -> list[str]:
    """Return the times and the losses of a cascade in sentences."""
    percentiles = [f"{name} {ms:.3g}" for name, ms in (
        ("mean", cascade.mean_ms), ("p50", cascade.p50_ms), ("p95", cascade.p95_ms), ("p99", cascade.p99_ms)
    ) if ms is not None]  # fmt: skip
    speed = "" if cascade.speedup_mean is None or cascade.student_speedup_mean is None else (
        f" Mean times are {cascade.speedup_mean:.1f} times as short as the reference's; "
        f"{cascade.student_speedup_mean:.1f} times without a gate."
    )  # fmt: skip
    sentences = [
        f"Milliseconds a text, from token ids to the answer: {', '.join(percentiles)}. The 95th percentile of a "
        f"cascade is that of its {cascade.slowest}.{speed}",
        f"The threshold {cascade.threshold:.4g} was found on {cascade.threshold_rows} rows: with "
        f"{cascade.confidence:.0%} confidence the cascade loses at most {cascade.max_loss:g} points against the "
        f"{cascade.bounded_against}.",
    ]
    if cascade.added is not None:
        low, high = cascade.added.loss_interval
        sentences.append(
            f"On these rows the gate costs {cascade.added.loss_points:+.2f} points against the student alone "
            f"(95 % interval {low:+.2f} to {high:+.2f})."
        )
    return sentences


def padding_sentences(report: Report) -> list[str]:
    """Return sentences with the tokens that the models computed for one request of several texts."""
    sentences = []
    for setting in report.shown:
        padded = {e.name: t for e in report.engines if (t := e.at(setting)) and t.mean_padded_tokens and t.batch > 1}
        if padded:
            parts = [f"{name} {t.mean_padded_tokens:.0f} ({t.mean_tokens:.0f})" for name, t in padded.items()]
            sentences.append(f"Tokens a request with padding (and without), {setting.words()}: {', '.join(parts)}.")
    return sentences


def engines_table(report: Report) -> str:
    """Return the table of engines."""
    heads = ["engine", *HEADS[report.metric], "loss, points [95 %]", speedup_head(report, "speed-up [95 %]")]
    heads += [time_head(setting) for setting in report.shown] + ["MB"]
    return table(heads, [_row(engine, report) for engine in report.engines])


def speedup_head(report: Report, title: str) -> str:
    """Return the title of the speed-up column; it names the setting unless that is one text at a time."""
    first = report.headline
    is_usual = first is None or first == Setting(batch=1, tokens=None, threads=1, grouping=first.grouping)
    return title if is_usual or first is None else f"{title}, {first.words()}"


def time_head(setting: Setting) -> str:
    """Return the title of a column of times."""
    title = f"p50 / p95 ms, batch {setting.batch}"
    title += f" {setting.grouping}" if setting.batch > 1 and setting.grouping else ""
    title += f", {setting.tokens} tokens" if setting.tokens else ""
    return title + (f", {setting.threads} threads" if setting.threads > 1 else "")


def time_cell(engine: EngineReport, setting: Setting) -> str:
    """Return median and 95th percentile; a dash where there were too few requests for a percentile."""
    timing = engine.at(setting)
    if timing is None:
        return ""
    return f"{timing.p50_ms:.2f} / {'-' if timing.p95_ms is None else f'{timing.p95_ms:.2f}'}"


def points_lost(points: float, interval: Sequence[float]) -> str:
    """Return a loss with its 95 % interval, as tables have it: `+0.50 [-0.12, +1.13]`."""
    low, high = interval
    return f"{points:+.2f} [{low:+.2f}, {high:+.2f}]"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(engine: EngineReport, report: Report) -> list[str]:
    if engine.status != "ok":
        problem = f"{engine.name}: {engine.status} ({markdown(engine.problem or '')})"
        return [problem] + [""] * (len(report.shown) + 5)
    loss = engine.difference
    cells = [f"**{engine.name}**" if engine.name == "ours" else engine.name]
    cells += score_cells(engine.score)
    cells.append(points_lost(loss.loss_points, loss.loss_interval) if loss else "")
    if engine.name == report.reference:
        cells[-1] = "reference"
    interval = engine.speedup_interval
    without = "1" if engine.name == report.reference else ""  # of others it is not known
    cells.append(f"{engine.speedup:.2f}x [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else without)
    for setting in report.shown:
        timing = engine.at(setting)
        cells.append(time_cell(engine, setting) + (" noisy" if timing and timing.noisy else ""))
    cells.append(f"{(engine.bytes or 0) / 1e6:.1f}")
    return cells


def machine_sentence(report: Report) -> str:
    """Describe the machine in one sentence."""
    card = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    flags = " ".join(card["flags"]) or "no vector flags known here"
    processors = ", ".join([card["processor"], *card.get("gpus", ())])
    return (
        f"Machine: {processors}, {card['cores']} cores, {flags}; load {card['load_average']:.2f} before and "
        f"{report.load_after:.2f} after; {card['pinning'] + '; ' if 'pinning' in card else ''}{_clocks(card)}"
        f"Python {card['python']}, {versions}."
    )


def _clocks(card: Mapping[str, Any]) -> str:
    """Return what was counted as time; reports before this key existed counted wall time."""
    clocks = card.get("clocks", {}).items()
    named = [f"{clock} with {threads} thread{'' if threads == '1' else 's'}" for threads, clock in clocks]
    return f"times are {', '.join(named)}; " if named else ""
