"""Thin codecs: JSON in → Request, Answer → JSON out. One file a dialect."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.task import Task
from models.tokens import Row


@dataclass(frozen=True, slots=True)
class Request:
    """What every dialect asks for."""

    rows: list[Row]
    single: bool  # the answer is one item, not a list
    top_k: int | None = None
    raw_scores: bool = False
    truncate: bool = True
    direction: Literal["left", "right"] = "right"


class BadRequest(Exception):
    """A request that cannot be answered; every dialect words it in its own form."""

    def __init__(self, status: int, message: str, kind: str = "Validation", retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.retry_after = status, message, kind, retry_after


def predictions(task: Task, logits: NDArray[np.float32], request: Request) -> list[list[dict[str, Any]]]:
    """Return, for each row, `{label, score}` in descending order of score, at most `top_k` of them."""
    scores = logits if request.raw_scores else task.scores(logits)
    answers = []
    for row in scores.tolist():  # Python floats: the JSON writer takes no numpy scalars
        order = sorted(range(len(row)), key=lambda i: -row[i])[: request.top_k]
        answers.append([{"label": task.labels[i], "score": row[i]} for i in order])
    return answers


def text(value: object, where: str) -> str:
    """Return `value` when it is a text with something in it."""
    if not isinstance(value, str):
        raise BadRequest(422, f"{where} is {type(value).__name__}, wanted a text")
    if not value.strip():
        raise BadRequest(422, f"{where} is empty", "Empty")
    return value
