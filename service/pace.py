"""Pace and Rate: moving averages of how long model and tokenizer take for a text of some length."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.tokens import Encoded

SHARE = 0.1  # of a new measurement in the running mean
STEP = 16  # tokens: lengths that share a mean
GUESS = 0.005  # seconds, before anything was measured
SECONDS_PER_CHAR = 5e-7  # of the tokenizer, likewise
HORIZON = 200_000  # characters that weigh as much as all before them


class Pace:
    """Running means of seconds a text, by length."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._per_token = 0.0

    def note(self, tokens: int, texts: int, seconds: float) -> None:
        """Take in that `texts` texts of about `tokens` tokens took `seconds` together."""
        each = seconds / texts
        key = tokens // STEP
        known = self._seconds.get(key)
        self._seconds[key] = each if known is None else known + SHARE * (each - known)
        rate = each / max(tokens, 1)
        self._per_token = rate if not self._per_token else self._per_token + SHARE * (rate - self._per_token)

    def expect(self, tokens: int) -> float:
        """Return the seconds that a text of `tokens` tokens will take."""
        known = self._seconds.get(tokens // STEP)
        if known is not None:
            return known
        return self._per_token * tokens or GUESS

    def timed(
        self, infer: Callable[[Sequence[Encoded]], NDArray[np.float32]], encoded: Sequence[Encoded]
    ) -> NDArray[np.float32]:
        """Return `infer(encoded)`, and note how long it took."""
        begun = time.perf_counter()
        logits = infer(encoded)
        self.note(max(len(one.ids) for one in encoded), len(encoded), time.perf_counter() - begun)
        return logits


class Rate:
    """Moving average of the tokenizer's seconds per character."""

    def __init__(self) -> None:
        self._seconds = SECONDS_PER_CHAR

    def note(self, chars: int, seconds: float) -> None:
        """Take in that `chars` characters, one or more, took `seconds`; the more they are, the more they weigh."""
        self._seconds += (seconds - chars * self._seconds) / (chars + HORIZON)

    def expect(self, chars: int) -> float:
        """Return the seconds that `chars` characters will take."""
        return chars * self._seconds
