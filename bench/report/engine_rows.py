"""engine_report(): makes an engine's row of the report from its raw results."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.measure.accuracy.difference import Answers, Indices
from bench.measure.accuracy.error_analysis import quality
from bench.measure.accuracy.task_metric import paired_loss, score_of
from bench.measure.engine_spec import describe
from bench.measure.latency.request_batches import resolved
from bench.measure.latency.timing import mean_seconds, median_interval, speedup, spread, typical_seconds
from bench.measure.latency.worker_pool import Cell, Times
from bench.report.report_schema import PERCENTS, EngineReport, Listed, Timing
from models.task import Task

NOISY = 0.15  # variation between rounds above which a timing is marked as noisy


@dataclass(frozen=True, slots=True)
class Measured:
    """Raw results by engine."""

    answers: dict[str, NDArray[np.float32]]  # logits (rows, labels)
    times: dict[Cell, Times]  # the cell of the headline first
    requests: dict[Cell, int]  # number of different requests
    opened: dict[str, dict[str, float]]  # start-up seconds, size of the files, peak memory
    operators: dict[str, dict[str, float]]  # milliseconds by operator
    problems: dict[str, tuple[str, str]]  # status, message
    exporters: dict[str, str]  # what exported the graph of an engine


@dataclass(frozen=True, slots=True)
class Rows:
    """The data that the engines answered."""

    truth: Answers | None  # None: the data has no labels
    lengths: Indices  # in tokens
    task: Task


def engine_report(name: str, measured: Measured, rows: Rows, reference: str | None) -> EngineReport:
    """Return the row of one engine; `reference` is the engine to compare it with."""
    base = EngineReport(
        name=name, description=describe(name, rows.task.kind, measured.exporters.get(name, "optimum"))
    )
    if name in measured.problems:
        status, message = measured.problems[name]
        return base.model_copy(update={"status": status, "problem": message})
    fields: dict[str, Any] = dict(measured.opened[name])
    fields["bytes"] = int(fields["bytes"])
    fields["operators_ms"] = measured.operators.get(name)
    fields |= _answers(name, measured, rows, reference)
    fields["timed"] = "text" if name == "tfidf" else "model"
    fields["timings"] = tuple(
        _timing(cell, name, times, measured.requests[cell])
        for cell, times in measured.times.items()
        if name in times.seconds
    )
    first = next(iter(measured.times.values())).seconds
    if reference is not None and name != reference and {reference, name} <= first.keys():
        of = mean_seconds if name == "cascade" else typical_seconds  # a cascade's typical text is an easy one
        fields["speedup"], fields["speedup_interval"] = speedup(first[reference], first[name], of=of)
    return base.model_copy(update=fields)


def _answers(name: str, measured: Measured, rows: Rows, reference: str | None) -> dict[str, Any]:
    logits, task = measured.answers[name], rows.task
    answers = task.decide(task.scores(logits))
    fields: dict[str, Any] = {"answers": listed(answers)} if name == "ours" else {}
    if rows.truth is not None:
        fields["score"] = score_of(task, rows.truth, answers)
        if task.kind == "single":
            fields["quality"] = quality(rows.truth, logits, task, rows.lengths)
        if reference is not None and name != reference:
            reference_answers = task.decide(task.scores(measured.answers[reference]))
            fields["difference"] = paired_loss(task.kind, rows.truth, reference_answers, answers)
    return fields


def listed(answers: Answers) -> Listed:
    """Return answers as nested tuples, as they are stored in a report."""
    if answers.ndim == 1:
        return tuple(answers.tolist())
    return tuple(tuple(row) for row in answers.astype(int).tolist())


def _timing(cell: Cell, name: str, times: Times, requests: int) -> Timing:
    milliseconds = times.seconds[name] * 1e3
    variation = spread(times.seconds[name])
    tokens = [count / milliseconds.shape[1] for count in times.tokens.get(name, ())]
    percentiles = [float(np.percentile(milliseconds, p)) if resolved(p, requests) else None for p in PERCENTS]
    return Timing(
        batch=cell.batch, tokens=cell.tokens, threads=cell.threads, grouping=cell.grouping, requests=requests,
        mean_tokens=tokens[0] if tokens else None, mean_padded_tokens=tokens[1] if tokens else None,
        p50_ms=float(np.median(milliseconds)), p50_interval=median_interval(milliseconds),
        p95_ms=percentiles[PERCENTS.index(95)], percentiles_ms=tuple(percentiles),
        spread=variation, noisy=variation > NOISY,
    )  # fmt: skip
