"""mlperf_sentence(): what a report says in the scenarios of MLPerf Inference, after MLPerf's definitions.

Single stream: one text follows the other; the result is the 90th percentile. Offline: all texts are there at once;
the result is texts a second. A report times engines and no server: `prunella loadtest` has all four scenarios.
"""

from bench.report.report_schema import PERCENTS, EngineReport, Report, Timing


def mlperf_sentence(report: Report) -> str | None:
    """Return the sentence; None if neither of the two scenarios was measured."""
    streams = {e.name: ms for e in report.engines if (ms := _single_stream(e)) is not None}
    offline = {e.name: rate for e in report.engines if (rate := _offline(e)) is not None}
    parts = []
    if streams:
        listed = ", ".join(f"{name} {ms:.2f}" for name, ms in streams.items())
        parts.append(f"single stream (one text after the other), 90th percentile in ms: {listed}")
    if offline:
        listed = ", ".join(f"{name} {rate:.0f}" for name, rate in offline.items())
        parts.append(f"offline (from the median of {_largest(report)} texts at once), texts a second: {listed}")
    if not parts:
        return None
    return f"Scenarios after MLPerf's definitions, not a submission: {'; '.join(parts)}."


def _single_stream(engine: EngineReport) -> float | None:
    timing = engine.timing(1)
    return None if timing is None else timing.percentiles_ms[PERCENTS.index(90)]


def _offline(engine: EngineReport) -> float | None:
    """Return the texts a second in the largest batch, in the better of the two ways to split it."""
    timings = [t for t in engine.timings if t.batch > 1 and t.tokens is None and t.threads == 1]
    largest = max((t.batch for t in timings), default=None)
    return max((_rate(t) for t in timings if t.batch == largest), default=None)


def _rate(timing: Timing) -> float:
    return timing.batch / timing.p50_ms * 1e3


def _largest(report: Report) -> int:
    return max(t.batch for e in report.engines for t in e.timings if t.tokens is None and t.threads == 1)
