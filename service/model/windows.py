"""TextWindows: a text longer than the model's limit is cut into overlapping windows, whose scores are combined.

Each window has the special tokens of a text. Windows overlap by a quarter or more, so that what stands at the edge
of one is inside another. They are spread evenly: the last one ends where the text ends. Of a text that needs more
windows than are allowed, the rest is cut.
"""

import math
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError
from models.task import Combine, Task
from models.tokenizer import Encoded

OVERLAP = 0.25  # share of a window that is also in the one before it, at least
LEAST_ROOM = 8  # tokens of a text that a window must hold
CHARS_PER_TOKEN = 4  # for the estimate of the number of windows before a text is tokenized


class TextWindows:
    """Cuts tokenized texts into windows and combines the logits of the windows of a text."""

    def __init__(self, task: Task, affixes: tuple[int, int], most: int, combine: Combine) -> None:
        """Plan the windows.

        Args:
            task: of the model: its limit of tokens, and the function of its scores.
            affixes: number of special tokens before and after a text.
            most: largest number of windows of a text, 2 or more.
            combine: `mean` or `max` of the scores of the windows.

        Raises:
            InputError: the model takes pairs, or its limit of tokens is too small.
        """
        self._task, self._affixes, self.most, self.combine = task, affixes, most, combine
        self.room = task.max_tokens - sum(affixes)
        if task.pair:
            raise InputError("windows are for models of single texts, and this one takes pairs: leave --windows out")
        if self.room < LEAST_ROOM:
            raise InputError(f"a window has {self.room} tokens of a text: wanted {LEAST_ROOM} or more")
        self._stride = self.room - math.ceil(OVERLAP * self.room)
        self.max_tokens = task.max_tokens + (most - 1) * self._stride  # of a text, special tokens included

    @classmethod
    def of(cls, task: Task, affixes: tuple[int, int], most: int | None, combine: Combine | None) -> Self | None:
        """Return the windows that the settings ask for, or the task where they do not say; None: there are none.

        Raises:
            InputError: the model cannot have windows.
        """
        most = most or task.windows or 1
        return None if most == 1 else cls(task, affixes, most, combine or task.windows_combine or "mean")

    def expected(self, chars: int) -> int:
        """Estimate the number of windows of a text of so many characters."""
        beyond = max(0, chars / CHARS_PER_TOKEN - self.room)
        return min(self.most, 1 + math.ceil(beyond / self._stride))

    def cut(self, text: Encoded) -> list[Encoded]:
        """Return the windows of a text of at most `max_tokens` tokens, from its beginning to its end."""
        before, after = self._affixes
        end = len(text.ids) - after
        surplus = end - before - self.room
        if surplus <= 0:
            return [text]
        count = 1 + math.ceil(surplus / self._stride)
        starts = (before + round(i * surplus / (count - 1)) for i in range(count))

        def window(values: list[int], start: int) -> list[int]:
            return [*values[:before], *values[start : start + self.room], *values[end:]]

        return [Encoded(window(text.ids, start), window(text.types, start)) for start in starts]

    def combined(self, rows: Sequence[list[float]]) -> list[float]:
        """Return logits whose scores are the mean or the maximum of the scores of the windows.

        A single window keeps its logits. Of a model with one label per text the maxima are divided by their sum,
        because softmax gives scores whose sum is 1.

        Args:
            rows: logits of each window.
        """
        if len(rows) == 1:
            return rows[0]
        return combine_logits(np.array(rows, dtype=np.float64), self._task, self.combine).tolist()

    def answers(self, parts: Sequence[list[Encoded]], rows: Sequence[list[float] | None]) -> list[list[float] | None]:
        """Return the logits of each text; None where the model failed on one of its windows.

        Args:
            parts: the windows of each text.
            rows: logits of all windows, in the same order.
        """
        answers: list[list[float] | None] = []
        remaining = iter(rows)
        for windows in parts:
            own = [next(remaining) for _ in windows]
            known = [row for row in own if row is not None]
            answers.append(self.combined(known) if len(known) == len(own) else None)
        return answers

    def logits(
        self, texts: Sequence[Encoded], infer: Callable[[list[Encoded]], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return the logits (texts, labels) of texts whose windows `infer` computes, those of one text at a time."""
        return np.array([self.combined(infer(self.cut(text)).tolist()) for text in texts], dtype=np.float32)


def combine_logits(windows: NDArray[np.float64], task: Task, combine: Combine) -> NDArray[np.float64]:
    """Return logits (labels,) whose scores are the mean or maximum of the scores of logits (windows, labels)."""
    if task.function == "none":
        return windows.mean(0) if combine == "mean" else windows.max(0)
    if task.function == "sigmoid":
        if combine == "max":  # the sigmoid grows with the logit
            return windows.max(0)
        return _log_mean(-np.logaddexp(0, -windows)) - _log_mean(-np.logaddexp(0, windows))  # log p - log(1 - p)
    scores = windows - np.logaddexp.reduce(windows, axis=1, keepdims=True)
    return _log_mean(scores) if combine == "mean" else scores.max(0)


def _log_mean(logarithms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithm of the mean over the rows of the numbers whose logarithms are given."""
    return np.asarray(np.logaddexp.reduce(logarithms, axis=0) - math.log(len(logarithms)))
