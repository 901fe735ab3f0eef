"""verdicts(): the findings of a report in sentences, which stand before the tables."""

from collections.abc import Iterator

from bench.measure.accuracy.task_metric import NAMES, format_metric
from bench.measure.engine_spec import simple_model
from bench.report.compare_reports import disturbance
from bench.report.report_schema import EngineReport, Report

TOLERANCE = 0.05  # share by which a measured speed-up may differ from the requested one


def verdicts(report: Report) -> Iterator[str]:
    """Yield the sentences of a report."""
    ours = report.engine("ours")
    if ours is None:
        yield "The bundle itself did not run: nothing below says anything about it."
        return
    yield from _loss(report, ours)
    if report.cascade is not None:
        yield report.cascade.sentence()
    yield from _faster_engines(report, ours)
    yield from _requested_speedup(report, ours)
    yield from _simple_baseline(report, ours)
    noisy = sorted({e.name for e in report.engines for t in e.timings if t.noisy})
    if noisy:
        verb = "was" if len(noisy) == 1 else "were"
        yield (
            f"The machine's speed changed while {', '.join(noisy)} {verb} timed: "
            "rows marked noisy should be measured again."
        )
    if report.openings and (reason := disturbance(report.openings)):
        yield f"The times mean little, because {reason}: measure again on a quiet machine."


def _loss(report: Report, ours: EngineReport) -> Iterator[str]:
    if ours.score is None:
        yield f"The data has no labels: {NAMES[report.metric]} was not measured."
        return
    if ours.difference is None:
        return
    low, high = ours.difference.loss_interval
    name = NAMES[report.metric]
    lost = f"{ours.difference.loss_points:+.2f} points of {name} (95 % interval {low:+.2f} to {high:+.2f})"
    if low > 0:
        yield f"Compression cost {name}: it lost {lost}."
    elif high < 0:
        yield f"The compressed model answers better than its reference: the loss is {lost}."
    else:
        yield f"No loss can be told from chance on these {report.rows} rows: the loss is {lost}."


def _faster_engines(report: Report, ours: EngineReport) -> Iterator[str]:
    our_timing = ours.timing(1)
    for name in (report.reference, "stock_int8"):
        other = report.engine(name) if name else None
        timing = other.timing(1) if other else None
        if our_timing is None or timing is None or timing.p50_ms >= our_timing.p50_ms:
            continue
        yield f"{name} is faster than the compressed model here: compression does not earn its cost on this machine."


def _requested_speedup(report: Report, ours: EngineReport) -> Iterator[str]:
    """Compare the speed-up with the one that was requested; only a pruned model can be faster than necessary."""
    if report.asked_speedup is None or ours.speedup is None:
        return
    share = ours.speedup / report.asked_speedup
    measured = f"A speed-up of {report.asked_speedup:g}x was asked for; measured here is {ours.speedup:.2f}x"
    if ours.speedup_interval:
        measured += " (95 % interval {:.2f} to {:.2f})".format(*ours.speedup_interval)
    if share < 1 - TOLERANCE:
        yield f"{measured}, {1 - share:.0%} less."
    elif share > 1 + TOLERANCE and report.architecture.layers != report.reference_architecture.layers:
        yield f"{measured}, {share - 1:.0%} more: more was cut than the target needed, which may have cost answers."


def _simple_baseline(report: Report, ours: EngineReport) -> Iterator[str]:
    simple = report.engine("tfidf")
    base = report.engine(report.reference) if report.reference else None
    if simple is None or simple.score is None or ours.score is None or simple.difference is None:
        return
    reached = f"TF-IDF with {simple_model(report.kind)} reaches {format_metric(report.metric, simple.score.value)}"
    if base and base.score and simple.difference.loss_interval[0] <= 0:
        better = simple.difference.loss_interval[1] < 0
        yield (
            f"{reached}, which {'is better than' if better else 'cannot be told from'} the full encoder's "
            f"{format_metric(report.metric, base.score.value)}: on this data an encoder does not earn its cost."
        )
    elif simple.score.value >= ours.score.value:
        yield (
            f"{reached}, the compressed model {format_metric(report.metric, ours.score.value)}: compressed this far, "
            "the encoder does not earn its cost."
        )
