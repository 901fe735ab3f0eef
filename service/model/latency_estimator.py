"""Latency estimators: moving averages of the model's seconds per text and the tokenizer's seconds per character."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.tokenizer import Encoded

SMOOTHING = 0.1  # weight of a new measurement in the exponential moving average
BUCKET_TOKENS = 16  # width of the length buckets: texts of one bucket share an average
INITIAL_SECONDS = 0.005  # per text, before the first measurement
INITIAL_SECONDS_PER_CHAR = 5e-7  # of the tokenizer, before the first measurement
HISTORY_CHARS = 200_000  # weight of the current average, in characters


class LatencyEstimator:
    """Moving average of the model's seconds per text, by length."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._per_token = 0.0

    def note(self, tokens: int, texts: int, seconds: float) -> None:
        """Record that a batch of `texts` texts took `seconds`; `tokens` is the length of the longest."""
        per_text = seconds / texts
        key = tokens // BUCKET_TOKENS
        known = self._seconds.get(key)
        self._seconds[key] = per_text if known is None else known + SMOOTHING * (per_text - known)
        rate = per_text / max(tokens, 1)
        self._per_token = rate if not self._per_token else self._per_token + SMOOTHING * (rate - self._per_token)

    def expect(self, tokens: int) -> float:
        """Return the predicted seconds for a text of `tokens` tokens."""
        known = self._seconds.get(tokens // BUCKET_TOKENS)
        if known is not None:
            return known
        return self._per_token * tokens or INITIAL_SECONDS

    def timed(
        self, infer: Callable[[Sequence[Encoded]], NDArray[np.float32]], encoded: Sequence[Encoded]
    ) -> NDArray[np.float32]:
        """Return `infer(encoded)` and record how long it took."""
        begun = time.perf_counter()
        logits = infer(encoded)
        self.note(max(len(row.ids) for row in encoded), len(encoded), time.perf_counter() - begun)
        return logits


class TokenizerRate:
    """Moving average of the tokenizer's seconds per character."""

    def __init__(self) -> None:
        self._seconds = INITIAL_SECONDS_PER_CHAR

    def note(self, chars: int, seconds: float) -> None:
        """Record that `chars` characters took `seconds`; the weight of a measurement grows with `chars`."""
        self._seconds += (seconds - chars * self._seconds) / (chars + HISTORY_CHARS)

    def expect(self, chars: int) -> float:
        """Return the predicted seconds for `chars` characters."""
        return chars * self._seconds
