"""Protocols: convert JSON to a Request and an Answer to JSON.

Each protocol is one module with the functions `read`, `write` and `error`. The computation of scores, which all of
them share, is in this file.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.task import Task
from models.tokenizer import Row

Function = Literal["softmax", "sigmoid", "none"]
Prediction = dict[str, Any]  # {"label": …, "score": …}
FUNCTIONS: dict[str, Function] = {"single": "softmax", "multi": "sigmoid", "regression": "none"}  # by kind of task


@dataclass(frozen=True, slots=True)
class Request:
    """A request in the form that all protocols share."""

    rows: list[Row]
    single: bool  # the answer is one item instead of a list
    top_k: int | None = None
    threshold: float | None = None  # labels with a lower score are omitted
    raw_scores: bool = False
    function: Function | None = None  # default: the function of the task
    truncate: bool = True
    direction: Literal["left", "right"] = "right"
    per_item: bool = False  # the protocol has per-text errors: the other texts are answered
    extra: Any = None  # data of the protocol, for its `write`


class BadRequest(Exception):
    """A request, or one of its texts, that cannot be answered; each protocol writes it in its own format.

    `retry_after` is in seconds; `close` closes the connection, because the rest of the request is not read.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "Validation",
        retry_after: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.retry_after, self.close = retry_after, close


@dataclass(slots=True)
class Answer:
    """An answer in the form that all protocols share."""

    model: str  # id of the bundle
    name: str
    labels: tuple[str, ...]
    predictions: list[list[Prediction] | None]  # by row; None where `problems` has an error
    decisions: list[list[str] | None] | None = None  # by row, only for a multi-label task: assigned labels
    problems: dict[int, BadRequest] = field(default_factory=dict)
    times_ms: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    characters: int = 0
    compute: str = ""  # device and variant


def score(function: Function, logits: list[float]) -> list[float]:
    """Return the scores of one text. For so few numbers Python is faster than NumPy."""
    if function == "none":
        return logits
    return _softmax(logits) if function == "softmax" else [_sigmoid(x) for x in logits]


def ranked(task: Task, logits: list[float], request: Request) -> list[Prediction]:
    """Return labels and scores in descending order of score: at most `top_k`, none below `threshold`."""
    function = "none" if request.raw_scores else request.function or FUNCTIONS[task.kind]
    scores, labels = score(function, logits), task.labels
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: request.top_k]
    if request.threshold is not None:
        order = [i for i in order if scores[i] >= request.threshold]
    return [{"label": labels[i], "score": scores[i]} for i in order]


def decisions(task: Task, rows: list[list[float] | None]) -> list[list[str] | None] | None:
    """Return the labels that a multi-label task assigns to each row of logits, by the thresholds of the task.

    None for tasks of another kind.
    """
    if task.kind != "multi":
        return None
    return [None if row is None else _assigned_labels(task, row) for row in rows]


def _assigned_labels(task: Task, logits: list[float]) -> list[str]:
    assigned = task.decide(task.scores(np.array(logits, dtype=np.float32)))
    return [label for label, is_assigned in zip(task.labels, assigned, strict=True) if is_assigned]


def predictions(task: Task, logits: NDArray[np.float32], request: Request) -> list[list[Prediction]]:
    """Return the ranked labels of each row of `logits` (rows, labels)."""
    return [ranked(task, row, request) for row in logits.tolist()]


def _softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    powers = [math.exp(x - top) for x in logits]
    total = sum(powers)
    return [x / total for x in powers]


def _sigmoid(x: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * x))  # this form does not overflow
