"""Shadow traffic: a candidate model also answers a share of the requests, and the differences are counted.

The comparison starts after the live answer was sent. Its texts are tokenized in a separate thread and run one at a
time, on a runner that has no other work: a live text waits for at most one of them. If too many texts wait already,
new ones are skipped.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from models.tokenizer import Encoded, Row
from service.inference.background import answer_in_background
from service.inference.runners import Runners
from service.inference.tokenizer_queue import count_chars
from service.model.engine import Engine
from service.operations.model_slots import ModelSlots
from service.operations.prometheus_metrics import Telemetry
from service.protocols import Request, score

log = logging.getLogger("prunella")
MOST = 256  # texts that wait in the background; further texts are not compared
# of a request, 20 ms in the tokenizer; longer requests are not compared, because that takes a core from live ones
MOST_CHARS = 40_000


class Shadow:
    """Compares the candidate's scores with those of the live model."""

    def __init__(self, model_slots: ModelSlots, runners: Runners, telemetry: Telemetry) -> None:
        self._model_slots, self._runners, self._telemetry = model_slots, runners, telemetry
        self._random = random.Random(0)
        self._pool = ThreadPoolExecutor(1, "shadow")
        self._tokenizing = 0  # texts that are being tokenized or wait for it
        self.restart()

    def restart(self) -> None:
        """Reset the counts, for a new candidate."""
        self.compared = self.disagreed = self.skipped = self.failed = 0
        self.largest = self._sum = 0.0

    async def close(self) -> None:
        """End the thread."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    def maybe(self, request: Request, positions: list[int], rows: list[list[float] | None]) -> None:
        """Compare the candidate on a random share of the requests; called after the live answer was sent.

        Args:
            request: the request.
            positions: indices of the request's rows that went to the live model.
            rows: their logits; None where the live model failed.
        """
        candidate = self._model_slots.candidate
        if candidate is None or self._random.random() >= self._model_slots.share:
            return
        answered = [(request.rows[i], row) for i, row in zip(positions, rows, strict=True) if row is not None]
        texts, live = [text for text, _ in answered], [row for _, row in answered]
        if self._tokenizing + len(texts) > MOST or count_chars(texts) > MOST_CHARS:
            self._skip(len(texts))
            return
        self._tokenizing += len(texts)
        work = asyncio.get_running_loop().run_in_executor(self._pool, _tokenize, candidate, texts, request)
        work.add_done_callback(lambda done: self._enqueue(candidate, live, done))

    def compare(self, serial: int, live_logits: list[float], candidate_logits: list[float] | None) -> None:
        """Compare the logits of the live model with those of the candidate, and count; None: the candidate failed."""
        if candidate_logits is None:
            self.fail(1)
            return
        candidate = self._model_slots.candidate
        if candidate is None or candidate.serial != serial:
            return  # the candidate that gave this answer has been removed
        if len(live_logits) != len(candidate_logits):
            self._skip(1)  # a model with other labels has been swapped in
            return
        function = candidate.bundle.task.function
        live, shadow = score(function, live_logits), score(function, candidate_logits)
        drift = max(abs(a - b) for a, b in zip(live, shadow, strict=True))
        disagrees = max(range(len(live)), key=live.__getitem__) != max(range(len(shadow)), key=shadow.__getitem__)
        self.compared += 1
        self.disagreed += disagrees
        self.largest = max(self.largest, drift)
        self._sum += drift
        self._telemetry.shadowed.inc()
        self._telemetry.disagreed.inc(disagrees)
        self._telemetry.drift.observe(drift)

    def fail(self, texts: int) -> None:
        """Count texts on which the candidate failed."""
        self.failed += texts
        self._telemetry.shadow_failures.inc(texts)

    def report(self) -> dict[str, float | int]:
        """Return the counts so far; the drift of a text is its largest difference of a score."""
        return {
            "compared": self.compared,
            "disagreed": self.disagreed,
            "skipped": self.skipped,
            "failed": self.failed,
            "mean_drift": self._sum / self.compared if self.compared else 0.0,
            "largest_drift": self.largest,
        }

    def _enqueue(
        self, candidate: Engine, live: list[list[float]], done: "asyncio.Future[list[Encoded] | None]"
    ) -> None:
        """Queue the tokenized texts in the background of the runners."""
        self._tokenizing -= len(live)
        if done.cancelled():
            return  # the server is shutting down
        encoded = done.result()
        if encoded is None:
            self.fail(len(live))
            return
        for text, row in zip(encoded, live, strict=True):
            compare = partial(self.compare, candidate.serial, row)
            if not answer_in_background(self._runners, candidate, text, MOST, compare):
                self._skip(1)

    def _skip(self, texts: int) -> None:
        self.skipped += texts
        self._telemetry.shadow_skipped.inc(texts)


def _tokenize(candidate: Engine, texts: Sequence[Row], request: Request) -> list[Encoded] | None:
    """Tokenize the texts for the candidate; return None if its tokenizer fails."""
    try:
        return candidate.tokenize(texts, request.direction)
    except Exception:
        log.exception("the candidate's tokenizer failed on a request")
        return None
