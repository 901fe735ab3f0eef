"""A text on which the model or the tokenizer fails costs no other text its answer: the batch runs again without it.

A batch that fails is halved until the texts at fault are alone (group testing: Dorfman 1943, Hwang 1972): at most
2n - 1 runs for n texts, all of them at fault, and about 2 log2 n for one. A session that fails on everything would
multiply work that way. So after `SICK_AFTER` failures in a row the model is run on a text that it answered when it
was loaded. When that fails too, the model is sick: batches are no longer halved, and `/livez` and `/readyz` answer
503 until a text is answered.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.tokens import Encoded

log = logging.getLogger("prunella")
SICK_AFTER = 8  # texts in a row on which the model failed, none answered between them
Item = TypeVar("Item")
Result = TypeVar("Result")
Logits = list[float]


class Health:
    """Whether a model's session still answers. Threads may share it: a lost update costs one more probe."""

    def __init__(self) -> None:
        self.sick = False
        self._failures = 0  # texts since the last one that was answered

    def passed(self) -> None:
        """Note that a text was answered."""
        self._failures = 0
        if self.sick:
            self.sick = False
            log.warning("the model answers again")

    def failed(self, works: Callable[[], bool]) -> None:
        """Note that a text was not answered; `works` says whether one that was answered at the start still is."""
        self._failures += 1
        if self.sick or self._failures < SICK_AFTER:
            return
        if works():
            self._failures = 0
            return
        self.sick = True
        log.critical("the model fails on every text, also on one that it answered when it was loaded")

    def trouble(self) -> str | None:
        """Return why the model cannot answer any more, or None."""
        return "the model fails on every text" if self.sick else None


class Model(Protocol):
    """What must be known of a model to run it."""

    @property
    def health(self) -> Health:
        """What is known of its session."""

    @property
    def probe(self) -> Encoded:
        """A text that it answered when it was loaded."""

    def infer(self, encoded: Sequence[Encoded]) -> NDArray[np.float32]:
        """Return logits (texts, labels)."""


def answer(model: Model, work: Sequence[Encoded]) -> list[Logits | None]:
    """Return the logits of each text; None where the model fails on the text, or answers with NaN or infinity."""
    answers = _run(model, work)
    missing = [i for i, row in enumerate(answers) if row is None]
    if not missing:
        model.health.passed()
        return answers
    if len(missing) < len(work):
        model.health.passed()
        parts = [missing]
    elif len(work) > 1:
        parts = [missing[: len(missing) // 2], missing[len(missing) // 2 :]]
    else:
        model.health.failed(lambda: _run(model, [model.probe])[0] is not None)
        return answers
    for part in parts:
        if model.health.sick:
            break
        for i, row in zip(part, answer(model, [work[i] for i in part]), strict=True):
            answers[i] = row
    return answers


def each(function: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result | None]:
    """Return what `function` makes of all items together, or else of each by itself; None where it fails on one."""
    try:
        return list(function(items))
    except Exception:
        if len(items) == 1:
            log.exception("the tokenizer failed on a text")
            return [None]
    return [one for item in items for one in each(function, [item])]


def _run(model: Model, work: Sequence[Encoded]) -> list[Logits | None]:
    """Return the logits of each text in one run of the model; None where they are not finite, or the run failed."""
    try:
        logits = model.infer(work)
        if len(logits) != len(work):
            raise ValueError(f"the model gave {len(logits)} answers to {len(work)} texts")
    except Exception:
        log.exception("the model failed on a batch of %d texts", len(work))
        return [None] * len(work)
    rows: list[Logits | None] = logits.tolist()
    finite: list[bool] = np.asarray(np.isfinite(logits).all(axis=1)).tolist()
    if not all(finite):
        log.error("the model answered %d of %d texts with NaN or infinity", finite.count(False), len(work))
        rows = [row if fine else None for row, fine in zip(rows, finite, strict=True)]
    return rows
