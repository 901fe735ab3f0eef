"""Desk: Request → Answer. Checks texts, tokenizes, lets them wait for the model, and collects what comes back."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from models.tokens import Encoded, Row
from service.dialects import Answer, BadRequest, Request, decisions, ranked
from service.engine import Cut, Engine
from service.isolation import each
from service.rotation import Rotation
from service.rows import answerable, answered, check_rows
from service.runners import Outcome, Runners
from service.scheduler import NOTHING, Job, Overloaded
from service.settings import Settings
from service.shadow import MOST, Shadow
from service.telemetry import Telemetry
from service.tokenizing import Lane, Tokenizing, Waiting, count_chars, ending, expired, gone, late, pieces_of

SWEEP_SECONDS = 0.05  # between looks for texts whose deadline passed while every runner is busy
PROBE_SECONDS = 1.0  # between looks whether a sick model answers again
REFUSED = {"queue": "the queue is full", "wait": "the wait is too long", "deadline": "the deadline would pass"}


@dataclass(slots=True)
class Caller:
    """Who asks: when, until when (`time.perf_counter`), and whether still."""

    arrived: float
    deadline: float
    gone: Callable[[], bool]
    is_alone: Callable[[], bool] = lambda: False  # whether no other request is in the process


class Ticket:
    """One request's texts on their way."""

    __slots__ = ("begun", "future", "infer", "left", "rows")

    def __init__(self, count: int, future: "asyncio.Future[None]") -> None:
        self.future, self.left = future, count
        self.rows: list[list[float] | None] = [None] * count  # logits; None: not yet, or the model failed on it
        self.begun, self.infer = 0.0, 0.0

    def fail(self, problem: BadRequest) -> None:
        """Answer the request with an error."""
        if not self.future.done():
            self.future.set_exception(problem)

    def take(self, job: Job, outcome: Outcome, row: list[float] | None) -> None:
        """Take one text's answer, None where the model failed on it; the last one answers the request."""
        self.rows[job.position] = row
        self.begun = max(self.begun, outcome.begun)
        self.infer = max(self.infer, outcome.ended - outcome.begun)
        self.left -= 1
        if not self.left and not self.future.done():
            self.future.set_result(None)


class Desk:
    """The engine room behind every dialect, in one process."""

    def __init__(self, engine: Engine, settings: Settings, worker: int = 0) -> None:
        self.settings, self.telemetry = settings, Telemetry()
        self.rotation = Rotation(engine, settings.runtime(worker), self.telemetry.serves)
        self.telemetry.serves(engine)
        self.rules = settings.rules(engine.choice.got)
        self.runners = Runners(self.rules, self._from_runner)
        self.shadow = Shadow(self.rotation, self.runners, self.telemetry)
        self.tokenizing = Tokenizing(self._count)
        self.draining = False
        self._inline_seconds = settings.inline_ms / 1e3
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the runners; the loop that calls this is the one that gets their answers."""
        self._loop = asyncio.get_running_loop()
        self.runners.start()
        self._sweeper = self._loop.create_task(self._sweep())

    async def stop(self) -> None:
        """End the runners; what still waits is refused."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        self._ended = True  # what comes out of the tokenizer now would wait for nobody
        await self.tokenizing.close()
        await self.shadow.close()
        for job in await asyncio.to_thread(self.runners.close):
            job.ticket.fail(ending())

    async def answer(self, request: Request, caller: Caller) -> Answer:
        """Return the answer to a request.

        Raises:
            BadRequest: it cannot be answered; the error says why.
        """
        engine = self.rotation.current  # this one to the end, whatever changes meanwhile
        places, problems = check_rows(request, engine.bundle.task, self.settings)
        rows = [request.rows[i] for i in places]
        cut: Cut = request.direction if request.truncate else "never"
        chars = count_chars(rows)
        lane = self.tokenizing.lane(chars, cut)
        try:  # before it is tokenized: a request that is admitted is not refused later, when it has cost something
            before = NOTHING if lane is None else lane.before()
            self.runners.check(len(rows), caller.deadline, time.perf_counter(), before)
            begun = time.perf_counter()
            encoded = await self._tokenize(engine, rows, cut, caller, lane)
            places, kept = answerable(engine.bundle.task, request, places, encoded, problems)
            tokenized = time.perf_counter()
            ticket = await self._infer(engine, kept, caller)
        except Overloaded as refused:
            self._count(refused.reason)
            waiting, why = self.waiting(), REFUSED[refused.reason]
            told = f"{why}: {waiting} texts wait; retry after {refused.seconds:.3f} s"
            raise BadRequest(429, told, "Overloaded", refused.seconds) from None
        found = answered(request, places, ticket.rows, problems)
        if self.rotation.candidate is not None:
            self._later(self.shadow.maybe, request, places, ticket.rows)
        done = time.perf_counter()
        self._later(self.telemetry.waited, tokenized - begun, ticket.begun - tokenized)
        times = {
            "tokenize": tokenized - begun, "queue": ticket.begun - tokenized, "infer": ticket.infer,
            "total": done - caller.arrived,
        }  # fmt: skip
        task = engine.bundle.task
        return Answer(
            model=engine.bundle.id,
            name=engine.bundle.info.name,
            labels=task.labels,
            predictions=[None if row is None else ranked(task, row, request) for row in found],
            decisions=decisions(task, found),
            problems=problems,
            times_ms={name: round(seconds * 1e3, 3) for name, seconds in times.items()},
            tokens=sum(len(one.ids) for one in kept),
            characters=chars,
            compute=f"{engine.choice.got}+{engine.variant_name}",
        )

    def trouble(self) -> str | None:
        """Return why this process cannot answer any more, or None."""
        return self.runners.trouble(self.settings.stuck_after_s) or self.rotation.current.health.trouble()

    def waiting(self) -> int:
        """Return how many texts wait, for the tokenizer or for the model."""
        return self.runners.waiting() + self.tokenizing.before().texts

    def set_gauges(self) -> None:
        """Bring the gauges of the line up to date."""
        self.telemetry.depth.set(self.waiting())
        self.telemetry.wait.set(self.runners.predicted_wait() + self.tokenizing.before().seconds)

    async def _tokenize(
        self, engine: Engine, rows: list[Row], cut: Cut, caller: Caller, lane: Lane | None
    ) -> list[Encoded | None]:
        """Return the rows as tokens; None where the tokenizer fails on one."""
        if lane is None:
            return each(partial(engine.tokenize, cut=cut), rows)
        assert self._loop is not None, "start() comes before the first request"
        future: asyncio.Future[list[Encoded | None]] = self._loop.create_future()
        seconds = engine.rate.expect(engine.chars(rows, cut))
        lane.put(Waiting(engine, rows, cut, caller.deadline, caller.gone, future, seconds, pieces_of(rows)))
        return await future

    async def _infer(self, engine: Engine, encoded: list[Encoded], caller: Caller) -> Ticket:
        assert self._loop is not None, "start() comes before the first request"
        if self._ended:
            raise ending()
        now = time.perf_counter()
        ticket = Ticket(len(encoded), self._loop.create_future())
        expect = engine.pace.expect
        jobs = [
            Job(engine, one, n := len(one.ids), expect(n), now, caller.deadline, caller.gone, ticket, i)
            for i, one in enumerate(encoded)
        ]
        if len(jobs) == 1 and jobs[0].cost <= self._inline_seconds and caller.is_alone():
            outcome = self.runners.run_here(jobs[0])
            if outcome is not None:
                self._deliver(outcome)
                await ticket.future
                return ticket
        self.runners.put(jobs)
        await ticket.future
        return ticket

    def _from_runner(self, outcome: Outcome) -> None:
        assert self._loop is not None, "start() comes before the runners"
        if not self._loop.is_closed():  # else the process is ending, and nobody waits
            self._loop.call_soon_threadsafe(self._deliver, outcome)

    def _deliver(self, outcome: Outcome) -> None:
        taken = outcome.taken
        self._drop(taken.expired, "expired", expired)
        self._drop(taken.gone, "gone", gone)
        if taken.batch:
            self._later(self.telemetry.ran, outcome)
        for job, logits in zip(taken.batch, outcome.answers, strict=True):
            job.ticket.take(job, outcome, logits)

    def _later(self, note: Callable[..., None], *what: object) -> None:
        """Count when the answer is on its way: uvloop writes before it calls what was put off."""
        assert self._loop is not None, "start() comes before the first request"
        self._loop.call_soon(note, *what)

    def _count(self, reason: str) -> None:
        self.telemetry.shed.labels(reason).inc()

    def _drop(self, jobs: list[Job], reason: str, problem: Callable[[], BadRequest]) -> None:
        for job in jobs:
            self._count(reason)
            job.ticket.fail(problem())

    async def _sweep(self) -> None:
        """Answer those whose deadline passed, also while a runner is stuck; keep the gauges fresh."""
        probed = 0.0
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.set_gauges()
            now = time.perf_counter()
            self.tokenizing.expire(now)
            if self.runners.waiting():
                self._drop(self.runners.expire(), "expired", expired)
            for job in self.runners.overdue():
                job.ticket.fail(late())
            if self.rotation.current.health.sick and now - probed > PROBE_SECONDS:
                probed = now
                self._probe(self.rotation.current)

    def _probe(self, engine: Engine) -> None:
        """Let a model that is sick answer a text that it knows: when it can, it is well again."""
        assert self._loop is not None, "start() comes before the sweeper"
        nobody = Ticket(1, self._loop.create_future())
        probe = Job(engine, engine.probe, len(engine.probe.ids), 0.0, 0.0, math.inf, lambda: False, nobody)
        self.runners.put_in_background(probe, MOST)
