"""The report of a compression: JSON keys, a Markdown table and a figure of the candidates."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.measure.accuracy.task_metric import NAMES, format_metric
from compress.candidates import Candidate, TeacherLoss
from models.architecture import shape_in
from models.errors import CheckError
from models.store.atomic import write_text
from models.store.folder import REPORT
from models.store.units import rounded


def summary(candidate: Candidate, max_loss: float) -> dict[str, Any]:
    """Return the keys of a candidate in the output of the command and in the bundle's report.json.

    They refer to the reported rows, except `choosing_loss_points`, the loss on the rows that select.
    """
    chosen = {} if candidate.choosing is None else {"choosing_loss_points": candidate.choosing.loss_points}
    measured, difference = candidate.measured, candidate.difference
    interval = measured.interval
    return {
        "asked": candidate.target.describe(), "target_met": candidate.met,
        candidate.metric: candidate.score, f"reference_{candidate.metric}": candidate.reference_score,
        "loss_is": candidate.metric, "loss_points": rounded(difference.loss_points),
        "loss_interval": [rounded(x) for x in difference.loss_interval],
        "loss_is_inside": candidate.verdict(max_loss), "max_loss": max_loss, "rows": difference.rows,
        "rows_to_be_sure": difference.rows_needed(max_loss), **chosen,
        "collapsed_labels": [label.model_dump() for label in candidate.collapsed],
        "speedup": {"ort_fp32": rounded(measured.speedup)}, "reference": "ort_fp32",
        **({"speedup_interval": [rounded(x) for x in interval]} if interval else {}),
        "speedup_of": "model",
        "p50_ms": {"ours": rounded(measured.ours_ms), "ort_fp32": rounded(measured.reference_ms)},
        **({"text_to_answer": measured.text.summary("ort_fp32")} if measured.text else {}),
        **measured.load.model_dump(), "bytes": measured.bytes, "architecture": candidate.architecture,
        "embedding_bits": candidate.embedding_bits,
        **({"vocabulary": candidate.vocabulary} if candidate.vocabulary else {}),
        **({"teachers": [_teacher(one) for one in candidate.teachers]} if candidate.teachers else {}),
    }  # fmt: skip


def _teacher(loss: TeacherLoss) -> dict[str, Any]:
    entry: dict[str, Any] = {"teacher": loss.teacher, "models": loss.models}
    if loss.difference is None:
        return entry
    return entry | {
        loss.difference.metric: loss.score, "loss_points": rounded(loss.difference.loss_points),
        "loss_interval": [rounded(x) for x in loss.difference.loss_interval], "rows": loss.difference.rows,
    }  # fmt: skip


def write_candidates(
    candidates: Sequence[Candidate],
    best: Candidate | None,
    max_loss: float,
    folder: Path,
    rows: dict[str, Any] | None = None,
) -> None:
    """Write family.json, family.md and pareto.svg into `folder`, and each bundle's summary into its report.json.

    Args:
        candidates: the evaluated bundles.
        best: the selected one; None before the selection.
        max_loss: points that may be lost.
        folder: is created if necessary.
        rows: keys about the origin of the rows, added to each report.json.

    Raises:
        CheckError: a bundle no longer exists.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "max_loss": max_loss, "picked": best.id if best else None, "points": [c.model_dump() for c in candidates]
    }  # fmt: skip
    write_text(folder / "family.json", json.dumps(document, indent=2) + "\n")
    write_text(folder / "family.md", candidates_table(candidates, best, max_loss))
    draw_pareto(candidates, best, max_loss, folder / "pareto.svg")
    for candidate in candidates:
        path = Path(candidate.folder)
        if not path.is_dir():
            raise CheckError(f"{path} is gone: this run created it, and something removed it")
        write_text(path / REPORT, json.dumps(summary(candidate, max_loss) | (rows or {}), indent=2) + "\n")


def candidates_table(candidates: Sequence[Candidate], best: Candidate | None, max_loss: float) -> str:
    """Return a Markdown table with one row for each candidate; the target of the best one is bold."""
    name = NAMES[candidates[0].metric]
    lines = [
        f"| target | speed-up | ms a text | MB | {name} | loss, points [95 %] | inside {max_loss:g} | heads/ffn |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for c in candidates:
        loss, (low, high) = c.difference.loss_points, c.difference.loss_interval
        bold = "**" if best is not None and c.id == best.id else ""
        lines.append(
            f"| {bold}{c.target.describe()}{bold} | {c.measured.speedup:.2f}x | {c.measured.ours_ms:.2f} "
            f"| {c.measured.bytes / 1e6:.1f} | {format_metric(c.metric, c.score, 2)} "
            f"| {loss:+.2f} [{low:+.2f}, {high:+.2f}] "
            f"| {c.verdict(max_loss)} | {shape_in(c.architecture)} |"
        )
    return "\n".join(lines) + "\n"


def draw_pareto(candidates: Sequence[Candidate], best: Candidate | None, max_loss: float, path: Path) -> None:
    """Draw each candidate's metric with its confidence interval over milliseconds per text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "prunella", "font.size": 9}):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axis = figure.subplots()
        reference, measured = candidates[0].reference_score * 100, candidates[0].measured
        axis.axhline(reference, color="0.4", linewidth=1, label=f"unpruned, fp32: {measured.reference_ms:.2f} ms")
        axis.axhline(
            reference - max_loss, color="0.4", linewidth=1, linestyle=":", label=f"{max_loss:g} points below"
        )
        for c in candidates:
            low, high = (reference - loss for loss in reversed(c.difference.loss_interval))
            value = reference - c.difference.loss_points
            is_best = best is not None and c.id == best.id
            axis.errorbar(
                c.measured.ours_ms, value, yerr=[[max(value - low, 0)], [max(high - value, 0)]], fmt="o", capsize=3,
                color="tab:red" if is_best else "tab:blue",
            )  # fmt: skip
            axis.annotate(
                f"{c.measured.speedup:.1f}x", (c.measured.ours_ms, value), (4, 4), textcoords="offset points"
            )
        axis.set_xlabel(f"milliseconds a text, {measured.load.describe()} (median)")
        axis.set_ylabel(f"{NAMES[candidates[0].metric]} on the rows that are reported, hundredths")
        axis.grid(alpha=0.3)
        axis.legend()
        figure.savefig(path, metadata={"Date": None})
