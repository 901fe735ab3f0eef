"""Scheduler: decides which texts run next and which requests are refused. It uses no thread, clock or asyncio.

A text waits in the bucket of its model and length. A free runner takes the fullest bucket, or the bucket whose oldest
text has waited longer than the age limit. There is no batching delay: a free runner takes what is there. A text whose
deadline has passed, or whose client has disconnected, is dropped before any work is done for it. A request is refused
when its predicted wait is too long.

The texts of a request of several (a list) wait apart from single texts: where both wait, batches are taken from the
two in turn. So a list may wait until its deadline, while a single text waits for other single texts and for every
second batch only.
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
    listed: bool = False  # whether the request had several texts


@dataclass(frozen=True, slots=True)
class QueuedAhead:
    """Texts that wait for the tokenizer and so come before a request that arrives now."""

    texts: int
    seconds: float  # predicted


NOTHING_AHEAD = QueuedAhead(0, 0.0)
Key = tuple[bool, int, int]  # of a bucket: whether its texts are of lists, model, length


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
        self._listed = 0  # texts of lists among them
        self._buckets: dict[Key, deque[Job]] = {}
        self._background: deque[Job] = deque()
        self._background_runner: int | None = None  # the runner with a background text: at most one at a time
        self._queued_seconds = 0.0  # predicted, of all waiting texts
        self._listed_seconds = 0.0  # the part of the lists
        self._lists_next = False  # whether the next batch is one of a list, where single texts wait too
        self._busy_until: dict[int, float] = {}  # runner → predicted end of its batch
        self._relaxed_until = 0.0

    def be_patient(self, until: float) -> None:
        """Relax the limits on waiting until then: a model or worker is being replaced, which ends soon."""
        self._relaxed_until = max(self._relaxed_until, until)

    def predicted_wait(self, now: float) -> float:
        """Return the predicted seconds until all texts that wait now have started."""
        return self._seconds_of_runners(self._queued_seconds, now)

    def _wait_of_single(self, now: float) -> float:
        """Return the predicted seconds until a single text that arrived now would start.

        Only the other single texts are before it, and as many batches of lists, if any wait.
        """
        single = self._queued_seconds - self._listed_seconds
        return self._seconds_of_runners(single + min(single, self._listed_seconds), now)

    def _seconds_of_runners(self, queued_seconds: float, now: float) -> float:
        if len(self._busy_until) < self.rules.runners:
            return 0.0
        running_seconds = sum(max(0.0, end - now) for end in self._busy_until.values())
        return (queued_seconds + running_seconds) / self.rules.runners

    def add(self, jobs: list[Job], listed: bool | None = None) -> None:
        """Queue the texts of one request, which passed `check`; `listed` is as there."""
        listed = len(jobs) > 1 if listed is None else listed
        for job in jobs:
            job.listed = listed
            self._buckets.setdefault(self._key(job), deque()).append(job)
            self._queued_seconds += job.cost
            if listed:
                self._listed += 1
                self._listed_seconds += job.cost
        self.waiting += len(jobs)

    def check(
        self,
        texts: int,
        deadline: float,
        now: float,
        ahead: QueuedAhead = NOTHING_AHEAD,
        listed: bool | None = None,
    ) -> None:
        """Check that a request may wait: a list until its deadline, a single text not longer than `max_wait`.

        Args:
            texts: number of texts that the request queues.
            deadline: of the request.
            now: the current time.
            ahead: texts that wait for the tokenizer before the request.
            listed: whether the request is a list; None: if it queues several texts. A list of which the gate of a
                cascade has answered all texts but one is still a list.

        Raises:
            Overloaded: it would wait too long.
        """
        if not self.waiting and ahead is NOTHING_AHEAD and len(self._busy_until) < self.rules.runners:
            return  # a runner is free
        listed = texts > 1 if listed is None else listed
        wait = (self.predicted_wait(now) if listed else self._wait_of_single(now)) + ahead.seconds
        waiting = (self.waiting if listed else self.waiting - self._listed) + ahead.texts
        self._check(texts, listed, QueuedAhead(waiting, wait), deadline, now)

    def check_tokenizer(self, texts: int, deadline: float, now: float, ahead: QueuedAhead) -> None:
        """Check that a request may wait for the tokenizer; texts that the gate answers need no runner.

        `check` follows for the others. The arguments and the error are those of `check`.
        """
        self._check(texts, texts > 1, ahead, deadline, now)

    def _check(self, texts: int, listed: bool, ahead: QueuedAhead, deadline: float, now: float) -> None:
        """Check that `texts` more texts may wait behind those that are ahead of them."""
        waiting, wait = ahead.texts, ahead.seconds
        after = waiting + texts
        factor = RELAXATION if now < self._relaxed_until else 1
        if waiting and after > self.rules.max_queue:
            raise Overloaded("queue", wait)
        is_long = wait > factor * self.rules.max_wait and after > factor * self.rules.free_queue
        if waiting and is_long and not listed:
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

    def _key(self, job: Job) -> Key:
        return job.listed, job.model.serial, (job.tokens - 1) // self.rules.bucket

    def _next_key(self, now: float) -> Key:
        buckets, keys = self._buckets, list(self._buckets)
        if 0 < self._listed < self.waiting:  # lists and single texts in turn
            keys = [key for key in keys if key[0] == self._lists_next]
        next_key = min(keys, key=lambda key: buckets[key][0].arrived)
        if now - buckets[next_key][0].arrived <= self.rules.age_limit:
            next_key = max(keys, key=lambda key: (len(buckets[key]), -buckets[key][0].arrived))
        self._lists_next = not next_key[0]
        return next_key

    def _fill(self, dispatch: Dispatch, key: Key, now: float) -> None:
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

    def _set_bucket(self, key: Key, bucket: deque[Job]) -> None:
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
            if job.listed:
                self._listed -= 1
                self._listed_seconds -= job.cost
        if not self._listed:
            self._listed_seconds = 0.0  # removes the accumulated rounding error
        if not self.waiting:
            self._queued_seconds = 0.0


def plan_batches(model: SchedulableModel, lengths: Sequence[int], rules: Rules) -> list[list[int]]:
    """Return the batches, as positions in `lengths`, that one request of texts of these lengths is answered in.

    They are those of an idle service, whatever the number of texts.
    """
    scheduler, batches = Scheduler(rules), []
    scheduler.add([Job(model, i, n, 0.0, 0.0, math.inf, lambda: False) for i, n in enumerate(lengths)])
    while scheduler.waiting:
        batches.append([int(job.work) for job in scheduler.take(0, 0.0).batch])
    return batches
