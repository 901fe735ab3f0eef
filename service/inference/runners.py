"""Runners: threads that take batches from the scheduler, run the model and deliver the outcome."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.inference.scheduler import NOTHING_AHEAD, Dispatch, Job, QueuedAhead, Rules, Scheduler
from service.model import isolation
from service.protocols import BadRequest

INLINE = -1  # runner number of the event loop's thread, which runs a text when the process is otherwise idle


@dataclass(slots=True)
class Outcome:
    """Result of a batch. Times are of `time.perf_counter`."""

    dispatch: Dispatch
    answers: list[list[float] | None]  # logits of each text; None where the model failed on it
    begun: float
    ended: float


class PendingRequest:
    """The texts of one request in the model: collects their logits and resolves a future when all are there."""

    __slots__ = ("begun", "future", "infer", "remaining", "rows")

    def __init__(self, count: int, future: "asyncio.Future[None]") -> None:
        self.future, self.remaining = future, count
        # logits; None where the text is not answered yet or the model failed on it
        self.rows: list[list[float] | None] = [None] * count
        self.begun, self.infer = 0.0, 0.0  # start of the last batch, and seconds of the slowest

    def fail(self, problem: BadRequest) -> None:
        """Answer the request with an error."""
        if not self.future.done():
            self.future.set_exception(problem)

    def take(self, job: Job, outcome: Outcome, row: list[float] | None) -> None:
        """Store the logits of one text, None where the model failed on it; the last text resolves the future."""
        self.rows[job.position] = row
        self.begun = max(self.begun, outcome.begun)
        self.infer = max(self.infer, outcome.ended - outcome.begun)
        self.remaining -= 1
        if not self.remaining and not self.future.done():
            self.future.set_result(None)


class Runners:
    """Thread pool around the scheduler. Thread-safe."""

    def __init__(self, rules: Rules, deliver: Callable[[Outcome], None]) -> None:
        self._scheduler = Scheduler(rules)
        self._deliver = deliver
        self._condition = threading.Condition()  # guards the scheduler
        self._closed = False
        self._since: dict[int, float] = {}  # runner → start of its batch
        self._batches: dict[int, list[Job]] = {}
        self._threads = [
            threading.Thread(target=self._work, args=(i,), name=f"runner-{i}", daemon=True)
            for i in range(rules.runners)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def check(
        self,
        texts: int,
        deadline: float,
        now: float,
        ahead: QueuedAhead = NOTHING_AHEAD,
        listed: bool | None = None,
    ) -> None:
        """Check that a request may wait; see `Scheduler.check`.

        Raises:
            Overloaded: it would wait too long.
        """
        with self._condition:
            self._scheduler.check(texts, deadline, now, ahead, listed)

    def check_tokenizer(self, texts: int, deadline: float, now: float, ahead: QueuedAhead) -> None:
        """Check that a request may wait for the tokenizer; see `Scheduler.check_tokenizer`.

        Raises:
            Overloaded: it would wait too long.
        """
        with self._condition:
            self._scheduler.check_tokenizer(texts, deadline, now, ahead)

    def put(self, jobs: list[Job], listed: bool | None = None) -> None:
        """Queue the texts of one request that passed `check`; `listed` is as there."""
        with self._condition:
            self._scheduler.add(jobs, listed)
            self._condition.notify(len(jobs))

    def run_inline(self, job: Job) -> Outcome | None:
        """Run a text in the calling thread, which saves two thread switches; None when the scheduler is not idle."""
        with self._condition:
            if not self._scheduler.take_alone(INLINE, job, job.arrived):
                return None
        outcome = self._run(INLINE, Dispatch(batch=[job]))
        with self._condition:
            self._scheduler.done(INLINE)
        return outcome

    def stuck_inline(self, patience: float) -> bool:
        """Whether an inline text has run for more than `patience` seconds."""
        since = self._since.get(INLINE)
        return since is not None and time.perf_counter() - since > patience

    def put_in_background(self, job: Job, limit: int) -> bool:
        """Queue a text that runs when no other text waits; return False when `limit` such texts wait already."""
        with self._condition:
            accepted = self._scheduler.add_in_background(job, limit)
            self._condition.notify()
            return accepted

    def be_patient(self, seconds: float) -> None:
        """Relax the limits on waiting for `seconds`, while a model or worker is replaced."""
        with self._condition:
            self._scheduler.be_patient(time.perf_counter() + seconds)

    def expire(self) -> list[Job]:
        """Remove and return the queued texts whose deadline has passed."""
        with self._condition:
            return self._scheduler.expire(time.perf_counter())

    def overdue(self) -> list[Job]:
        """Return the running texts whose deadline has passed, so that their clients can be answered now."""
        now = time.perf_counter()
        return [job for batch in list(self._batches.values()) for job in batch if job.deadline <= now]

    def waiting(self) -> int:
        """Return the number of queued texts."""
        return self._scheduler.waiting

    def predicted_wait(self) -> float:
        """Return the predicted seconds until a text that arrived now would start."""
        with self._condition:
            return self._scheduler.predicted_wait(time.perf_counter())

    def trouble(self, patience: float) -> str | None:
        """Return what is wrong with a thread: it ended, or its batch has run for more than `patience` seconds."""
        now = time.perf_counter()
        for i, thread in enumerate(self._threads):
            if not thread.is_alive() and not self._closed:
                return f"runner {i} has ended"
            since = self._since.get(i)
            if since is not None and now - since > patience:
                return f"runner {i} has run one batch for {now - since:.0f} s"
        return None

    def close(self) -> list[Job]:
        """End the threads after their current batches.

        Returns:
            the texts that were still queued, and those of batches that did not end in time: the caller must answer
                them.
        """
        with self._condition:
            self._closed = True
            queued = self._scheduler.clear()
            self._condition.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)
        return queued + [job for batch in list(self._batches.values()) for job in batch]

    def _work(self, runner: int) -> None:
        while True:
            with self._condition:
                self._scheduler.done(runner)
                dispatch = self._scheduler.take(runner, time.perf_counter())
                while not (dispatch.batch or dispatch.expired or dispatch.gone or self._closed):
                    self._condition.wait()
                    dispatch = self._scheduler.take(runner, time.perf_counter())
            if not (dispatch.batch or dispatch.expired or dispatch.gone):
                return  # closed, and nothing is left to deliver
            self._deliver(self._run(runner, dispatch))

    def _run(self, runner: int, dispatch: Dispatch) -> Outcome:
        """Run the batch. An error of the model becomes the answer of the failing text and does not end the thread."""
        begun = self._since[runner] = time.perf_counter()
        batch = self._batches[runner] = dispatch.batch
        answers = isolation.infer_isolated(batch[0].model, [job.work for job in batch]) if batch else []
        ended = time.perf_counter()
        del self._since[runner], self._batches[runner]
        if batch and None not in answers:
            longest = max(job.tokens for job in batch)
            batch[0].model.latency.note(longest, len(batch), ended - begun)
        return Outcome(dispatch, answers, begun, ended)
