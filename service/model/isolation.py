"""Isolation of failing texts: a text on which the model or tokenizer fails does not fail the rest of its batch.

A batch that fails is halved until the failing texts are single (group testing: Dorfman 1943, Hwang 1972): at most
2n - 1 runs for n texts when all of them fail, and about 2 log2 n when one does. A session that fails on every text
would multiply the work in that way. So after `UNHEALTHY_AFTER` consecutive failures the model is run on a probe text
that it answered when it was loaded. When that fails too, the model is unhealthy: batches are no longer halved, and
`/livez` and `/readyz` answer 503 until the model answers a text again.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.tokenizer import Encoded

log = logging.getLogger("prunella")
UNHEALTHY_AFTER = 8  # consecutive texts on which the model failed
Item = TypeVar("Item")
Result = TypeVar("Result")
Logits = list[float]


class Health:
    """Whether a model's session still answers.

    Threads share it without a lock: a lost update costs one more probe.
    """

    def __init__(self) -> None:
        self.unhealthy = False
        self._failures = 0  # texts since the last one that was answered

    def passed(self) -> None:
        """Record that a text was answered."""
        self._failures = 0
        if self.unhealthy:
            self.unhealthy = False
            log.warning("the model answers again")

    def failed(self, works: Callable[[], bool]) -> None:
        """Record that a text was not answered; `works` runs the probe text and returns whether it was answered."""
        self._failures += 1
        if self.unhealthy or self._failures < UNHEALTHY_AFTER:
            return
        if works():
            self._failures = 0
            return
        self.unhealthy = True
        log.critical("the model fails on every text, also on one that it answered when it was loaded")

    def trouble(self) -> str | None:
        """Return why the model cannot answer any more, or None."""
        return "the model fails on every text" if self.unhealthy else None


class Model(Protocol):
    """The attributes of a model that running it in isolation needs."""

    @property
    def health(self) -> Health:
        """Health of its session."""

    @property
    def probe(self) -> Encoded:
        """A text that it answered when it was loaded."""

    def infer(self, encoded: Sequence[Encoded]) -> NDArray[np.float32]:
        """Return logits (texts, labels)."""


def infer_isolated(model: Model, work: Sequence[Encoded]) -> list[Logits | None]:
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
        if model.health.unhealthy:
            break
        for i, row in zip(part, infer_isolated(model, [work[i] for i in part]), strict=True):
            answers[i] = row
    return answers


def apply_isolated(function: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result | None]:
    """Return the results of the tokenizer's `function` for all items.

    The function is called once for all items. If that fails, it is called for each item; None where it fails again.
    """
    try:
        return list(function(items))
    except Exception:
        if len(items) == 1:
            log.exception("the tokenizer failed on a text")
            return [None]
    return [result for item in items for result in apply_isolated(function, [item])]


def _run(model: Model, work: Sequence[Encoded]) -> list[Logits | None]:
    """Return the logits of each text from one run of the model; None where they are not finite or the run failed."""
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
        rows = [row if is_finite else None for row, is_finite in zip(rows, finite, strict=True)]
    return rows
