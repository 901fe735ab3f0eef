"""Scheduler: decides which texts run next and which requests are refused. It uses no thread, clock or asyncio.

A text waits in the bucket of its model and length. A free runner takes the fullest bucket, or the bucket whose oldest
text has waited longer than the age limit. There is no batching delay: a free runner takes what is there. A text whose
deadline has passed, or whose client has disconnected, is dropped before any work is done for it. A request is refused
when its predicted wait is too long.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from models.schema import Record

RELAXATION = 20  # factor on the limits of waiting texts and seconds while models or workers are replaced


class Overloaded(Exception):
    """The request would wait too long.

    `reason` is "queue", "wait" or "deadline"; `seconds` is the predicted wait, after which a retry makes sense.
    """

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.reason, self.seconds = reason, seconds


class Rules(Record):
    """Limits of the scheduler."""

    items: int  # texts in one batch
    tokens: int  # tokens in one batch, padding included
    bucket: int  # tokens: width of a bucket
    age_limit: float  # seconds
    max_queue: int  # texts
    free_queue: int  # texts
    max_wait: float  # seconds
    runners: int = 1


class SchedulableModel(Protocol):
    """The attributes of a model that the scheduler reads."""

    @property
    def serial(self) -> int:
        """Number of the model in this process."""

    @property
    def single_row_only(self) -> bool:
        """Whether the other texts of a batch would change an answer, so that each text needs a batch of its own."""


@dataclass(slots=True, eq=False)
class Job:
    """One text that waits. All times are seconds of one monotonic clock."""

    model: Any  # a SchedulableModel
    work: Any  # input of the model
    tokens: int
    cost: float  # predicted seconds
    arrived: float
    deadline: float
    gone: Callable[[], bool]  # whether the client has disconnected
    pending: Any = None  # receives the answer
    position: int = 0  # of the text in its request


@dataclass(frozen=True, slots=True)
class QueuedAhead:
    """Texts that wait for the tokenizer and so come before a request that arrives now."""

    texts: int
    seconds: float  # predicted


NOTHING_AHEAD = QueuedAhead(0, 0.0)


@dataclass(slots=True)
class Dispatch:
    """The batch for a runner, which may be empty, and the texts that were dropped while it was built."""

    batch: list[Job] = field(default_factory=list)
    expired: list[Job] = field(default_factory=list)
    gone: list[Job] = field(default_factory=list)


class Scheduler:
    """Queue of texts in buckets by model and length."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.waiting = 0  # texts
        self._buckets: dict[tuple[int, int], deque[Job]] = {}
        self._background: deque[Job] = deque()
        self._background_runner: int | None = None  # the runner with a background text: at most one at a time
        self._queued_seconds = 0.0  # predicted, of all waiting texts
        self._busy_until: dict[int, float] = {}  # runner → predicted end of its batch
        self._relaxed_until = 0.0

    def be_patient(self, until: float) -> None:
        """Relax the limits on waiting until then: a model or worker is being replaced, which ends soon."""
        self._relaxed_until = max(self._relaxed_until, until)

    def predicted_wait(self, now: float) -> float:
        """Return the predicted seconds until a text that arrived now would start."""
        if len(self._busy_until) < self.rules.runners:
            return 0.0
        running_seconds = sum(max(0.0, end - now) for end in self._busy_until.values())
        return (self._queued_seconds + running_seconds) / self.rules.runners

    def add(self, jobs: list[Job]) -> None:
        """Queue the texts of one request. The request passed `check` before tokenization, so none is refused here."""
        for job in jobs:
            self._buckets.setdefault(self._key(job), deque()).append(job)
            self._queued_seconds += job.cost
        self.waiting += len(jobs)

    def check(self, texts: int, deadline: float, now: float, ahead: QueuedAhead = NOTHING_AHEAD) -> None:
        """Check that a request may wait.

        Args:
            texts: number of texts of the request.
            deadline: of the request.
            now: the current time.
            ahead: texts that wait for the tokenizer before the request.

        Raises:
            Overloaded: it would wait too long.
        """
        wait = self.predicted_wait(now) + ahead.seconds
        waiting = self.waiting + ahead.texts
        after = waiting + texts
        factor = RELAXATION if now < self._relaxed_until else 1
        if waiting and after > self.rules.max_queue:
            raise Overloaded("queue", wait)
        if waiting and after > factor * self.rules.free_queue and wait > factor * self.rules.max_wait:
            raise Overloaded("wait", wait)
        if wait and now + wait > deadline:
            raise Overloaded("deadline", wait)

    def add_in_background(self, job: Job, limit: int) -> bool:
        """Queue a text with the lowest priority; return False when `limit` such texts wait already."""
        if len(self._background) >= limit:
            return False
        self._background.append(job)
        return True

    def take(self, runner: int, now: float) -> Dispatch:
        """Return the next batch for `runner`, and the texts dropped on the way."""
        dispatch = Dispatch()
        while self._buckets and not dispatch.batch:
            self._fill(dispatch, self._next_key(now), now)
        if not dispatch.batch and self._background and self._background_runner is None:
            dispatch.batch.append(self._background.popleft())
            self._background_runner = runner
        if dispatch.batch:
            self._busy_until[runner] = now + sum(job.cost for job in dispatch.batch)
        return dispatch

    def idle(self) -> bool:
        """Whether nothing runs and no text waits, except in the background."""
        return not self.waiting and not self._busy_until

    def take_alone(self, runner: int, job: Job, now: float) -> bool:
        """Mark `runner` busy with a text that bypasses the queue; return False when the scheduler is not idle."""
        if not self.idle():
            return False
        self._busy_until[runner] = now + job.cost
        return True

    def done(self, runner: int) -> None:
        """Mark `runner` as free."""
        self._busy_until.pop(runner, None)
        if runner == self._background_runner:
            self._background_runner = None

    def expire(self, now: float) -> list[Job]:
        """Remove and return the texts whose deadline has passed."""
        expired: list[Job] = []
        for key in list(self._buckets):
            remaining: deque[Job] = deque()
            for job in self._buckets[key]:
                (expired if job.deadline <= now else remaining).append(job)
            self._set_bucket(key, remaining)
        self._subtract(expired)
        return expired

    def clear(self) -> list[Job]:
        """Empty the queue and return its texts, without those in the background."""
        jobs = [job for bucket in self._buckets.values() for job in bucket]
        self._buckets.clear()
        self._background.clear()
        self._subtract(jobs)
        return jobs

    def _key(self, job: Job) -> tuple[int, int]:
        return job.model.serial, (job.tokens - 1) // self.rules.bucket

    def _next_key(self, now: float) -> tuple[int, int]:
        buckets = self._buckets
        oldest = min(buckets, key=lambda key: buckets[key][0].arrived)
        if now - buckets[oldest][0].arrived > self.rules.age_limit:
            return oldest
        return max(buckets, key=lambda key: (len(buckets[key]), -buckets[key][0].arrived))

    def _fill(self, dispatch: Dispatch, key: tuple[int, int], now: float) -> None:
        """Move texts of one bucket into the batch, oldest first, up to the limits of the rules."""
        bucket, longest, removed = self._buckets[key], 0, []
        max_items = 1 if bucket[0].model.single_row_only else self.rules.items
        while bucket and len(dispatch.batch) < max_items:
            job = bucket[0]
            if job.deadline <= now or job.gone():
                (dispatch.expired if job.deadline <= now else dispatch.gone).append(job)
            else:
                longest = max(longest, job.tokens)
                if dispatch.batch and longest * (len(dispatch.batch) + 1) > self.rules.tokens:
                    break
                dispatch.batch.append(job)
            removed.append(bucket.popleft())
        self._set_bucket(key, bucket)
        self._subtract(removed)

    def _set_bucket(self, key: tuple[int, int], bucket: deque[Job]) -> None:
        """Store a bucket, or delete its key when it is empty."""
        if bucket:
            self._buckets[key] = bucket
        else:
            self._buckets.pop(key, None)

    def _subtract(self, jobs: Iterable[Job]) -> None:
        """Subtract jobs that left the queue from its totals."""
        for job in jobs:
            self.waiting -= 1
            self._queued_seconds -= job.cost
        if not self.waiting:
            self._queued_seconds = 0.0  # removes the accumulated rounding error


def plan_batches(model: SchedulableModel, lengths: Sequence[int], rules: Rules) -> list[list[int]]:
    """Return the batches, as positions in `lengths`, that one request of texts of these lengths is answered in.

    They are those of an idle service, whatever the number of texts.
    """
    scheduler, batches = Scheduler(rules), []
    scheduler.add([Job(model, i, n, 0.0, 0.0, math.inf, lambda: False) for i, n in enumerate(lengths)])
    while scheduler.waiting:
        batches.append([int(job.work) for job in scheduler.take(0, 0.0).batch])
    return batches
