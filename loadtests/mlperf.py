"""The four scenarios of MLPerf Inference, after MLPerf's definitions, not a submission.

The definitions are those of the MLPerf Inference rules (github.com/mlcommons/inference_policies, since version 2.0):

- single stream: a query has one text, and follows the answer to the query before it; result: the 90th percentile;
- multi stream: the same with queries of eight texts; result: the 99th percentile of the time of a query;
- server: queries of one text arrive at random times (a Poisson process); result: the highest rate at which the 99th
  percentile is within a limit;
- offline: all texts are there at once; result: texts a second.

Two things differ. A run takes --duration, not 600 seconds or more. And a query of the scenario offline is sent as
requests of 32 texts, of which --users are on their way at any time, because the server limits the texts of a request.
`--client loadgen` runs MLCommons' own generator instead.
"""

from dataclasses import replace
from typing import Any

from loadtests.payloads import BATCH_TEXTS, lists
from loadtests.phase import Phase, Target, measure
from loadtests.scenarios import Outcome, ScenarioSettings, find_knee

NOTE = "after MLPerf's definitions, not a submission"
STREAMS = 8  # texts in a query of multi stream


def single_stream(target: Target, settings: ScenarioSettings, outcome: Outcome) -> None:
    """One text after the other: the 90th percentile."""
    measure(target, Phase("warm-up", 1.0, users=1))
    result = measure(target, Phase("single stream", settings.seconds, users=1))
    outcome.phases.append(result)
    outcome.figures |= _figures("90th percentile of the latency, ms", result.p90_ms)


def multi_stream(target: Target, settings: ScenarioSettings, outcome: Outcome) -> None:
    """Eight texts after the other eight: the 99th percentile."""
    target = replace(target, bodies=lists(settings.texts, STREAMS))
    measure(target, Phase("warm-up", 1.0, users=1))
    result = measure(target, Phase(f"multi stream, {STREAMS} texts", settings.seconds, users=1))
    outcome.phases.append(result)
    outcome.figures |= _figures("99th percentile of the latency, ms", result.p99_ms)


def server(target: Target, settings: ScenarioSettings, outcome: Outcome) -> None:
    """Queries at random times: the highest rate with the 99th percentile within --slo-ms."""
    knee = find_knee(target, settings, outcome)
    outcome.figures |= _figures(f"queries a second, p99 within {settings.slo_ms:g} ms", round(knee, 1))


def offline(target: Target, settings: ScenarioSettings, outcome: Outcome) -> None:
    """All texts at once: texts a second."""
    target = replace(target, bodies=lists(settings.texts, BATCH_TEXTS))
    measure(target, Phase("warm-up", 1.0, users=settings.users))
    result = measure(target, Phase(f"offline, lists of {BATCH_TEXTS} texts", settings.seconds, users=settings.users))
    outcome.phases.append(result)
    outcome.figures |= _figures("texts a second", round(result.requests_per_second * BATCH_TEXTS, 1))


def _figures(metric: str, value: float | None) -> dict[str, Any]:
    return {"mlperf_metric": metric, "mlperf_result": value, "mlperf_note": NOTE}


MLPERF = {"single-stream": single_stream, "multi-stream": multi_stream, "server": server, "offline": offline}
