"""Runners: threads that take batches from the scheduler, run the model and hand the outcome back."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from service import isolation
from service.scheduler import NOTHING, Before, Job, Rules, Scheduler, Taken

HERE = -1  # the number of the event loop's thread, where a text that is alone runs


@dataclass(slots=True)
class Outcome:
    """What became of a batch. Times are of `time.perf_counter`."""

    taken: Taken
    answers: list[list[float] | None]  # logits of each text; None where the model failed on it
    begun: float
    ended: float


class Runners:
    """The line and those who work on it. Every method may be called from any thread."""

    def __init__(self, rules: Rules, deliver: Callable[[Outcome], None]) -> None:
        self._scheduler = Scheduler(rules)
        self._deliver = deliver
        self._line = threading.Condition()
        self._closed = False
        self._since: dict[int, float] = {}  # runner → when its batch began
        self._batches: dict[int, list[Job]] = {}
        self._threads = [
            threading.Thread(target=self._work, args=(i,), name=f"runner-{i}", daemon=True)
            for i in range(rules.runners)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def check(self, texts: int, deadline: float, now: float, before: Before = NOTHING) -> None:
        """Let pass what may wait; `before`: what waits ahead of it elsewhere.

        Raises:
            Overloaded: it would wait too long.
        """
        with self._line:
            self._scheduler.check(texts, deadline, now, before)

    def put(self, jobs: list[Job]) -> None:
        """Let the texts of one request wait, which passed `check`."""
        with self._line:
            self._scheduler.add(jobs)
            self._line.notify(len(jobs))

    def run_here(self, job: Job) -> Outcome | None:
        """Run a text in the calling thread, without the way to a runner and back; None when others are there."""
        with self._line:
            if not self._scheduler.take_alone(HERE, job, job.arrived):
                return None
        outcome = self._run(HERE, Taken(batch=[job]))
        with self._line:
            self._scheduler.done(HERE)
        return outcome

    def stuck_here(self, patience: float) -> bool:
        """Whether a text that runs in the calling thread takes longer than `patience` seconds."""
        since = self._since.get(HERE)
        return since is not None and time.perf_counter() - since > patience

    def put_in_background(self, job: Job, limit: int) -> bool:
        """Let a text wait until nothing else does; False when too many do already."""
        with self._line:
            accepted = self._scheduler.add_in_background(job, limit)
            self._line.notify()
            return accepted

    def be_patient(self, seconds: float) -> None:
        """For so long, let texts wait longer than the rules say: a model or a worker is being changed."""
        with self._line:
            self._scheduler.be_patient(time.perf_counter() + seconds)

    def expire(self) -> list[Job]:
        """Take out and return the texts whose deadline has passed."""
        with self._line:
            return self._scheduler.expire(time.perf_counter())

    def overdue(self) -> list[Job]:
        """Return the texts in the model whose deadline has passed: their clients need wait no longer."""
        now = time.perf_counter()
        return [job for batch in list(self._batches.values()) for job in batch if job.deadline <= now]

    def waiting(self) -> int:
        """Return how many texts wait."""
        return self._scheduler.waiting

    def predicted_wait(self) -> float:
        """Return the seconds until a text that came now would start."""
        with self._line:
            return self._scheduler.predicted_wait(time.perf_counter())

    def trouble(self, patience: float) -> str | None:
        """Return what is wrong with a thread: it ended, or its batch runs longer than `patience` seconds."""
        now = time.perf_counter()
        for i, thread in enumerate(self._threads):
            if not thread.is_alive() and not self._closed:
                return f"runner {i} has ended"
            since = self._since.get(i)
            if since is not None and now - since > patience:
                return f"runner {i} has run one batch for {now - since:.0f} s"
        return None

    def close(self) -> list[Job]:
        """End the threads after the batches they run.

        Returns:
            the texts that were still waiting, and those of runs that did not end in time: nobody else answers them.
        """
        with self._line:
            self._closed = True
            left = self._scheduler.clear()
            self._line.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)
        return left + [job for batch in list(self._batches.values()) for job in batch]

    def _work(self, runner: int) -> None:
        while True:
            with self._line:
                self._scheduler.done(runner)
                taken = self._scheduler.take(runner, time.perf_counter())
                while not (taken.batch or taken.expired or taken.gone or self._closed):
                    self._line.wait()
                    taken = self._scheduler.take(runner, time.perf_counter())
            if not (taken.batch or taken.expired or taken.gone):
                return  # closed, and nothing is left to hand over
            self._deliver(self._run(runner, taken))

    def _run(self, runner: int, taken: Taken) -> Outcome:
        """Run the batch; an error of the model is the text's on which it fails, not the thread's."""
        begun = self._since[runner] = time.perf_counter()
        self._batches[runner] = taken.batch
        answers = isolation.answer(taken.batch[0].model, [job.work for job in taken.batch]) if taken.batch else []
        ended = time.perf_counter()
        del self._since[runner], self._batches[runner]
        if taken.batch and None not in answers:
            longest = max(job.tokens for job in taken.batch)
            taken.batch[0].model.pace.note(longest, len(taken.batch), ended - begun)
        return Outcome(taken, answers, begun, ended)
