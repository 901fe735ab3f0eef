"""Shadow: a candidate answers a share of the requests too, when nothing else waits; what differs is counted."""

import math
import random
from dataclasses import dataclass

from service.dialects import FUNCTIONS, BadRequest, Request, score
from service.rotation import Rotation
from service.runners import Outcome, Runners
from service.scheduler import Job
from service.telemetry import Telemetry

MOST = 256  # texts that wait in the background; more are not compared


@dataclass(slots=True)
class _Comparison:
    """Stands where a request's ticket would: takes the candidate's answer to one text."""

    shadow: "Shadow"
    wanted: list[float]  # the logits of what the client got
    serial: int

    def fail(self, problem: BadRequest) -> None:
        """Leave the text out: the log has what failed."""

    def take(self, job: Job, outcome: Outcome, row: list[float]) -> None:  # noqa: ARG002
        """Compare."""
        self.shadow.compare(self.serial, self.wanted, row)


class Shadow:
    """Compares the candidate's scores with those that clients got."""

    def __init__(self, rotation: Rotation, runners: Runners, telemetry: Telemetry) -> None:
        self._rotation, self._runners, self._telemetry = rotation, runners, telemetry
        self._chance = random.Random(0)
        self.restart()

    def restart(self) -> None:
        """Forget what was compared."""
        self.compared = self.disagreed = self.skipped = 0
        self.largest = self._sum = 0.0

    def maybe(self, request: Request, places: list[int], rows: list[list[float] | None]) -> None:
        """Let the candidate answer the texts of a request too, by chance."""
        candidate = self._rotation.candidate
        if candidate is None or self._chance.random() >= self._rotation.share:
            return
        encoded = candidate.tokenize([request.rows[i] for i in places], request.direction)
        for one, row in zip(encoded, rows, strict=True):
            assert row is not None, "a ticket is done when every row is there"
            ticket = _Comparison(self, row, candidate.serial)
            job = Job(candidate, one, len(one.ids), 0.0, 0.0, math.inf, lambda: False, ticket)
            if not self._runners.put_in_background(job, MOST):
                self.skipped += 1

    def compare(self, serial: int, wanted: list[float], found: list[float]) -> None:
        """Take in the logits behind what a client got, and those of the candidate."""
        candidate = self._rotation.candidate
        if candidate is None or candidate.serial != serial:
            return  # an answer of a candidate that was taken away meanwhile
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

    def told(self) -> dict[str, float | int]:
        """Return what was found so far; drift is the largest change of a score of a text."""
        return {
            "compared": self.compared,
            "disagreed": self.disagreed,
            "skipped": self.skipped,
            "mean_drift": self._sum / self.compared if self.compared else 0.0,
            "largest_drift": self.largest,
        }
