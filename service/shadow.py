"""Shadow: a candidate answers a share of the requests too, when nothing else waits; what differs is counted.

It begins when the live answer is on its way. Its texts are tokenized by a thread of their own and run one at a time,
in a runner that has nothing else to do: a live text waits for one of them at most. Where there is no room they are
skipped.
"""

import asyncio
import logging
import math
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from models.tokens import Encoded, Row
from service.dialects import FUNCTIONS, BadRequest, Request, score
from service.engine import Engine
from service.rotation import Rotation
from service.runners import Outcome, Runners
from service.scheduler import Job
from service.telemetry import Telemetry
from service.tokenizing import count_chars

log = logging.getLogger("prunella")
MOST = 256  # texts that wait in the background; more are not compared
MOST_CHARS = (
    40_000  # of a request, 20 ms in the tokenizer; longer ones are not compared: that takes a core from others
)


@dataclass(slots=True)
class _Comparison:
    """Stands where a request's ticket would: takes the candidate's answer to one text."""

    shadow: "Shadow"
    wanted: list[float]  # the logits of what the client got
    serial: int

    def fail(self, problem: BadRequest) -> None:
        """Leave the text out: the log has what failed."""

    def take(self, job: Job, outcome: Outcome, row: list[float] | None) -> None:  # noqa: ARG002
        """Compare."""
        if row is None:
            self.shadow.fail(1)
        else:
            self.shadow.compare(self.serial, self.wanted, row)


class Shadow:
    """Compares the candidate's scores with those that clients got."""

    def __init__(self, rotation: Rotation, runners: Runners, telemetry: Telemetry) -> None:
        self._rotation, self._runners, self._telemetry = rotation, runners, telemetry
        self._chance = random.Random(0)
        self._pool = ThreadPoolExecutor(1, "shadow")
        self._tokenizing = 0  # texts
        self.restart()

    def restart(self) -> None:
        """Forget what was compared."""
        self.compared = self.disagreed = self.skipped = self.failed = 0
        self.largest = self._sum = 0.0

    async def close(self) -> None:
        """End the thread."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    def maybe(self, request: Request, places: list[int], rows: list[list[float] | None]) -> None:
        """Let the candidate answer the texts of a request too, by chance. Called when the live answer is on its way.

        Args:
            request: what was asked.
            places: the rows that were answered.
            rows: their logits, None where the live model failed.
        """
        candidate = self._rotation.candidate
        if candidate is None or self._chance.random() >= self._rotation.share:
            return
        answered = [(request.rows[i], row) for i, row in zip(places, rows, strict=True) if row is not None]
        texts, wanted = [text for text, _ in answered], [row for _, row in answered]
        if self._tokenizing + len(texts) > MOST or count_chars(texts) > MOST_CHARS:
            self._skip(len(texts))
            return
        self._tokenizing += len(texts)
        work = asyncio.get_running_loop().run_in_executor(self._pool, _tokenize, candidate, texts, request)
        work.add_done_callback(lambda done: self._put(candidate, wanted, done))

    def compare(self, serial: int, wanted: list[float], found: list[float]) -> None:
        """Take in the logits behind what a client got, and those of the candidate."""
        candidate = self._rotation.candidate
        if candidate is None or candidate.serial != serial:
            return  # an answer of a candidate that was taken away meanwhile
        if len(wanted) != len(found):
            self._skip(1)  # a model with other labels was swapped in meanwhile
            return
        function = FUNCTIONS[candidate.bundle.task.kind]
        wanted, found = score(function, wanted), score(function, found)
        change = max(abs(a - b) for a, b in zip(wanted, found, strict=True))
        other = max(range(len(wanted)), key=wanted.__getitem__) != max(range(len(found)), key=found.__getitem__)
        self.compared += 1
        self.disagreed += other
        self.largest = max(self.largest, change)
        self._sum += change
        self._telemetry.shadowed.inc()
        self._telemetry.disagreed.inc(other)
        self._telemetry.drift.observe(change)

    def fail(self, texts: int) -> None:
        """Count texts on which the candidate failed."""
        self.failed += texts
        self._telemetry.shadow_failures.inc(texts)

    def told(self) -> dict[str, float | int]:
        """Return what was found so far; drift is the largest change of a score of a text."""
        return {
            "compared": self.compared,
            "disagreed": self.disagreed,
            "skipped": self.skipped,
            "failed": self.failed,
            "mean_drift": self._sum / self.compared if self.compared else 0.0,
            "largest_drift": self.largest,
        }

    def _put(
        self, candidate: Engine, wanted: list[list[float]], done: "asyncio.Future[list[Encoded] | None]"
    ) -> None:
        """Let the candidate's texts wait for a runner."""
        self._tokenizing -= len(wanted)
        if done.cancelled():
            return  # the server is ending
        encoded = done.result()
        if encoded is None:
            self.fail(len(wanted))
            return
        for one, row in zip(encoded, wanted, strict=True):
            ticket = _Comparison(self, row, candidate.serial)
            job = Job(
                candidate, one, len(one.ids), candidate.pace.expect(len(one.ids)), 0.0, math.inf, _never, ticket
            )
            if not self._runners.put_in_background(job, MOST):
                self._skip(1)

    def _skip(self, texts: int) -> None:
        self.skipped += texts
        self._telemetry.shadow_skipped.inc(texts)


def _tokenize(candidate: Engine, texts: Sequence[Row], request: Request) -> list[Encoded] | None:
    """Return the texts as the candidate's tokens; None when its tokenizer fails."""
    try:
        return candidate.tokenize(texts, request.direction)
    except Exception:
        log.exception("the candidate's tokenizer failed on a request")
        return None


def _never() -> bool:
    return False
