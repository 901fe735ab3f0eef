"""engine_report(): one engine's raw results → its row of the report."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.accuracy import Answers, Indices
from bench.engines import describe
from bench.judging import judge_loss, score_of
from bench.measure import Cell, Times
from bench.quality import quality
from bench.records import PERCENTS, EngineReport, Listed, Timing
from bench.requests import resolved
from bench.timing import median_interval, speedup, spread
from models.task import Task

NOISY = 0.15  # spread of the rounds above which a row is marked


@dataclass(frozen=True, slots=True)
class Measured:
    """Raw results by engine."""

    answers: dict[str, NDArray[np.float32]]  # logits (rows, labels)
    times: dict[Cell, Times]  # the headline's first
    requests: dict[Cell, int]  # different ones
    opened: dict[str, dict[str, float]]
    operators: dict[str, dict[str, float]]
    problems: dict[str, tuple[str, str]]  # status, sentence


@dataclass(frozen=True, slots=True)
class Rows:
    """The data that was answered: what should be, or None without labels, and lengths in tokens."""

    truth: Answers | None
    lengths: Indices
    task: Task


def engine_report(name: str, measured: Measured, rows: Rows, reference: str | None) -> EngineReport:
    """Return the row of one engine; `reference` is the engine that it is compared with."""
    base = EngineReport(name=name, description=describe(name, rows.task.kind))
    if name in measured.problems:
        status, told = measured.problems[name]
        return base.model_copy(update={"status": status, "problem": told})
    found: dict[str, Any] = dict(measured.opened[name])
    found["bytes"] = int(found["bytes"])
    found["operators_ms"] = measured.operators.get(name)
    found |= _answers(name, measured, rows, reference)
    found["timed"] = "text" if name == "tfidf" else "model"
    found["timings"] = tuple(
        _timing(cell, name, times, measured.requests[cell])
        for cell, times in measured.times.items()
        if name in times.seconds
    )
    first = next(iter(measured.times.values())).seconds
    if reference is not None and name != reference and {reference, name} <= first.keys():
        found["speedup"], found["speedup_interval"] = speedup(first[reference], first[name])
    return base.model_copy(update=found)


def _answers(name: str, measured: Measured, rows: Rows, reference: str | None) -> dict[str, Any]:
    logits, task = measured.answers[name], rows.task
    answers = task.decide(task.scores(logits))
    found: dict[str, Any] = {"answers": listed(answers)} if name == "ours" else {}
    if rows.truth is not None:
        found["score"] = score_of(task, rows.truth, answers)
        if task.kind == "single":
            found["quality"] = quality(rows.truth, logits, task, rows.lengths)
        if reference is not None and name != reference:
            other = task.decide(task.scores(measured.answers[reference]))
            found["difference"] = judge_loss(task.kind, rows.truth, other, answers)
    return found


def listed(answers: Answers) -> Listed:
    """Return answers as a report holds them."""
    if answers.ndim == 1:
        return tuple(answers.tolist())
    return tuple(tuple(row) for row in answers.astype(int).tolist())


def _timing(cell: Cell, name: str, times: Times, requests: int) -> Timing:
    milliseconds = times.seconds[name] * 1e3
    wavered = spread(times.seconds[name])
    tokens = [count / milliseconds.shape[1] for count in times.tokens.get(name, ())]
    percentiles = [float(np.percentile(milliseconds, p)) if resolved(p, requests) else None for p in PERCENTS]
    return Timing(
        batch=cell.batch, tokens=cell.tokens, threads=cell.threads, grouping=cell.grouping, requests=requests,
        mean_tokens=tokens[0] if tokens else None, mean_padded_tokens=tokens[1] if tokens else None,
        p50_ms=float(np.median(milliseconds)), p50_interval=median_interval(milliseconds),
        p95_ms=percentiles[PERCENTS.index(95)], percentiles_ms=tuple(percentiles),
        spread=wavered, noisy=wavered > NOISY,
    )  # fmt: skip
