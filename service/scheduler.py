"""Scheduler: which texts run next, and who is refused. Rules only: no thread, no clock, no asyncio.

A text waits in the bucket of its model and length. A runner that is free takes the fullest bucket, or the one whose
first text waited longer than the age limit; nothing ever waits for company. A text whose deadline passed, or whose
client has gone, is dropped before it costs anything. A request is refused when it would wait too long.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from models.record import Record

PATIENCE = 20  # times as long, and as many, may wait while models or workers are changed


class Overloaded(Exception):
    """A request that would wait too long; `reason` is one of a few words, `seconds` when the line will be gone."""

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.reason, self.seconds = reason, seconds


class Rules(Record):
    """What the scheduler goes by."""

    items: int  # texts in one run
    tokens: int  # tokens in one run, padding counted
    bucket: int  # tokens: width of a bucket
    age_limit: float  # seconds
    max_queue: int  # texts
    free_queue: int  # texts
    max_wait: float  # seconds
    runners: int = 1


class Served(Protocol):
    """What the scheduler must know of a model."""

    @property
    def serial(self) -> int:
        """Number of the model in this process."""

    @property
    def alone(self) -> bool:
        """Whether batch mates would change an answer, so that each text runs by itself."""


@dataclass(slots=True, eq=False)
class Job:
    """One text that waits; times are seconds of one clock that never goes back."""

    model: Any  # a Served
    work: Any  # what the model takes
    tokens: int
    cost: float  # predicted seconds
    arrived: float
    deadline: float
    gone: Callable[[], bool]  # whether nobody waits for the answer any more
    ticket: Any = None  # whom the answer goes to
    position: int = 0  # of the text in its request


@dataclass(frozen=True, slots=True)
class Before:
    """What waits ahead of a request before it comes into the line, in the tokenizer."""

    texts: int
    seconds: float  # predicted


NOTHING = Before(0, 0.0)


@dataclass(slots=True)
class Taken:
    """What a runner got: a batch, which may be empty, and those that were dropped on the way to it."""

    batch: list[Job] = field(default_factory=list)
    expired: list[Job] = field(default_factory=list)
    gone: list[Job] = field(default_factory=list)


class Scheduler:
    """The line of texts."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.waiting = 0  # texts
        self._buckets: dict[tuple[int, int], deque[Job]] = {}
        self._background: deque[Job] = deque()
        self._background_on: int | None = None  # the runner that has a text of it: one at a time
        self._queued = 0.0  # predicted seconds of all that waits
        self._running: dict[int, float] = {}  # runner → when it will be free
        self._patient_until = 0.0

    def be_patient(self, until: float) -> None:
        """Until then, let texts wait longer: what holds them up is a change that will be over soon."""
        self._patient_until = max(self._patient_until, until)

    def predicted_wait(self, now: float) -> float:
        """Return the seconds until a text that came now would start."""
        left = sum(max(0.0, end - now) for end in self._running.values())
        return (self._queued + left) / self.rules.runners if len(self._running) >= self.rules.runners else 0.0

    def add(self, jobs: list[Job]) -> None:
        """Let the texts of one request wait. It passed `check` before it was tokenized, and is not refused after that."""
        for job in jobs:
            self._buckets.setdefault(self._key(job), deque()).append(job)
            self._queued += job.cost
        self.waiting += len(jobs)

    def check(self, texts: int, deadline: float, now: float, before: Before = NOTHING) -> None:
        """Let pass what may wait; `before`: what waits ahead of it elsewhere.

        Raises:
            Overloaded: it would wait too long.
        """
        wait = self.predicted_wait(now) + before.seconds
        waiting = self.waiting + before.texts
        after = waiting + texts
        patience = PATIENCE if now < self._patient_until else 1
        if waiting and after > self.rules.max_queue:
            raise Overloaded("queue", wait)
        if waiting and after > patience * self.rules.free_queue and wait > patience * self.rules.max_wait:
            raise Overloaded("wait", wait)
        if wait and now + wait > deadline:
            raise Overloaded("deadline", wait)

    def add_in_background(self, job: Job, limit: int) -> bool:
        """Let a text wait that nobody waits for; False when `limit` of them wait already."""
        if len(self._background) >= limit:
            return False
        self._background.append(job)
        return True

    def take(self, runner: int, now: float) -> Taken:
        """Return the batch that `runner` shall run now."""
        taken = Taken()
        while self._buckets and not taken.batch:
            self._fill(taken, self._next_key(now), now)
        if not taken.batch and self._background and self._background_on is None:
            taken.batch.append(self._background.popleft())
            self._background_on = runner
        if taken.batch:
            self._running[runner] = now + sum(job.cost for job in taken.batch)
        return taken

    def idle(self) -> bool:
        """Whether nothing waits that somebody waits for, and nothing runs."""
        return not self.waiting and not self._running

    def take_alone(self, runner: int, job: Job, now: float) -> bool:
        """Let `runner` run a text that never waited; False when it must wait like others."""
        if not self.idle():
            return False
        self._running[runner] = now + job.cost
        return True

    def done(self, runner: int) -> None:
        """Note that `runner` is free."""
        self._running.pop(runner, None)
        if runner == self._background_on:
            self._background_on = None

    def expire(self, now: float) -> list[Job]:
        """Take out and return the texts whose deadline has passed."""
        expired: list[Job] = []
        for key in list(self._buckets):
            kept: deque[Job] = deque()
            for job in self._buckets[key]:
                (expired if job.deadline <= now else kept).append(job)
            self._keep(key, kept)
        self._forget(expired)
        return expired

    def clear(self) -> list[Job]:
        """Take out and return everything that waits."""
        found = [job for bucket in self._buckets.values() for job in bucket]
        self._buckets.clear()
        self._background.clear()
        self._forget(found)
        return found

    def _key(self, job: Job) -> tuple[int, int]:
        return job.model.serial, (job.tokens - 1) // self.rules.bucket

    def _next_key(self, now: float) -> tuple[int, int]:
        buckets = self._buckets
        oldest = min(buckets, key=lambda key: buckets[key][0].arrived)
        if now - buckets[oldest][0].arrived > self.rules.age_limit:
            return oldest
        return max(buckets, key=lambda key: (len(buckets[key]), -buckets[key][0].arrived))

    def _fill(self, taken: Taken, key: tuple[int, int], now: float) -> None:
        """Move texts of one bucket into the batch, the oldest first, as many as the rules allow."""
        bucket, longest, removed = self._buckets[key], 0, []
        most = 1 if bucket[0].model.alone else self.rules.items
        while bucket and len(taken.batch) < most:
            job = bucket[0]
            if job.deadline <= now or job.gone():
                (taken.expired if job.deadline <= now else taken.gone).append(job)
            else:
                longest = max(longest, job.tokens)
                if taken.batch and longest * (len(taken.batch) + 1) > self.rules.tokens:
                    break
                taken.batch.append(job)
            removed.append(bucket.popleft())
        self._keep(key, bucket)
        self._forget(removed)

    def _keep(self, key: tuple[int, int], bucket: deque[Job]) -> None:
        if bucket:
            self._buckets[key] = bucket
        else:
            self._buckets.pop(key, None)

    def _forget(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self.waiting -= 1
            self._queued -= job.cost
        if not self.waiting:
            self._queued = 0.0  # what rounding left
