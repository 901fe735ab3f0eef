"""summary(): the result of a report as the commands print it, and as /info returns it."""

from typing import Any

from bench.report.cascade_report import CascadeReport
from bench.report.report_schema import EngineReport, Report
from models.store.units import rounded


def summary(report: Report) -> dict[str, Any]:
    """Return the result of a measured bundle: the JSON that every command prints and /info returns."""
    ours = report.engine("ours")
    result: dict[str, Any] = {"rows": report.rows, "reference": report.reference}
    result["architecture"] = report.architecture.summary()
    if ours is None:
        return result
    result["bytes"] = ours.bytes
    first, running = report.headline, [e for e in report.engines if e.status == "ok"]
    if first and ours.at(first):  # the setting of the speed-up below
        result |= first.model_dump()
        result["p50_ms"] = {e.name: rounded(t.p50_ms) for e in running if (t := e.at(first))}
        result["speedup"] = _speedups(report, ours)
        if ours.speedup_interval:
            result["speedup_interval"] = [rounded(x) for x in ours.speedup_interval]
        if result["speedup"]:
            result["speedup_of"] = "model"  # from token ids to logits
        if report.openings and report.openings.text and report.reference:
            result["text_to_answer"] = report.openings.text.summary(report.reference)
    if report.cascade:
        result["cascade"] = _cascade_summary(report, report.cascade)
    base = report.engine(report.reference) if report.reference else None
    if ours.score:
        result |= ours.score.model_dump(exclude={"rows", "pearson_interval"})
    if base and base.score:
        result[f"reference_{report.metric}"] = base.score.value
    if ours.difference:
        result["loss_is"] = report.metric
        result["loss_points"] = rounded(ours.difference.loss_points)
        result["loss_interval"] = [rounded(x) for x in ours.difference.loss_interval]
    return result


def _cascade_summary(report: Report, cascade: CascadeReport) -> dict[str, Any]:
    """Return what the last line says of a cascade; losses are against the reference."""
    row, added = report.engine("cascade"), cascade.added
    lost = None if row is None else row.difference
    return {
        "share": cascade.stages[0].share, "threshold": cascade.threshold, "bound_points": cascade.bound_points,
        "confidence": cascade.confidence, "rows": cascade.threshold_rows, "mean_ms": rounded(cascade.mean_ms),
        "p50_ms": rounded(cascade.p50_ms), "p95_ms": None if cascade.p95_ms is None else rounded(cascade.p95_ms),
        "speedup_mean": None if cascade.speedup_mean is None else rounded(cascade.speedup_mean),
        "core_seconds_per_million": rounded(cascade.core_seconds_per_million),
        "loss_points": None if lost is None else rounded(lost.loss_points),
        "loss_interval": None if lost is None else [rounded(x) for x in lost.loss_interval],
        "added_loss_points": None if added is None else rounded(added.loss_points),
    }  # fmt: skip


def _speedups(report: Report, ours: EngineReport) -> dict[str, float]:
    """Return our speed-up over each other engine: the ratio of the two speed-ups over the reference."""
    if ours.speedup is None or report.reference is None:
        return {}
    # the speed-up of a cascade is one of mean times, which cannot be divided by those of typical times
    others = {e.name: e.speedup for e in report.engines if e.speedup and e.name not in ("ours", "cascade")}
    return {name: rounded(ours.speedup / speedup) for name, speedup in {report.reference: 1.0, **others}.items()}
