"""Desk: Request → Answer. Checks texts, tokenizes, lets them wait for the model, and collects what comes back."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from models.tokens import Encoded, Row
from service.dialects import Answer, BadRequest, Request, ranked
from service.engine import Cut, Engine
from service.rotation import Rotation
from service.runners import Outcome, Runners
from service.scheduler import Job, Overloaded
from service.settings import Settings
from service.shadow import Shadow
from service.telemetry import Telemetry

INLINE_CHARS = 4000  # tokenized on the event loop: a hop to another thread costs more than so few
SWEEP_SECONDS = 0.05  # between looks for texts whose deadline passed while every runner is busy
REFUSED = {"queue": "the queue is full", "wait": "the wait is too long", "deadline": "the deadline would pass"}

EXPIRED = BadRequest(429, "the deadline passed while the request waited", "Timeout", 1.0)
LATE = BadRequest(504, "the deadline passed before the answer was there", "Timeout")


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
        self.rows: list[list[float] | None] = [None] * count  # logits
        self.begun, self.infer = 0.0, 0.0

    def fail(self, problem: BadRequest) -> None:
        """Answer the request with an error."""
        if not self.future.done():
            self.future.set_exception(problem)

    def take(self, job: Job, outcome: Outcome, row: list[float]) -> None:
        """Take one text's answer; the last one answers the request."""
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
        self.draining = False
        self._inline_seconds = settings.inline_ms / 1e3
        self._pool = ThreadPoolExecutor(1, "tokenizer")
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
        for job in await asyncio.to_thread(self.runners.close):
            job.ticket.fail(BadRequest(503, "the server is ending", "Unhealthy"))
        self._pool.shutdown()

    async def answer(self, request: Request, caller: Caller) -> Answer:
        """Return the answer to a request.

        Raises:
            BadRequest: it cannot be answered; the error says why.
        """
        engine = self.rotation.current  # this one to the end, whatever changes meanwhile
        places, problems = self._check(engine, request)
        try:  # before it is tokenized, which would be lost; and once more when it is put into the line
            self.runners.check(len(places), caller.deadline, caller.arrived)
            return await self._answer(engine, request, caller, places, problems)
        except Overloaded as refused:
            self.telemetry.shed.labels(refused.reason).inc()
            waiting, why = self.runners.waiting(), REFUSED[refused.reason]
            told = f"{why}: {waiting} texts wait; come back in {refused.seconds:.3f} s"
            raise BadRequest(429, told, "Overloaded", refused.seconds) from None

    async def _answer(
        self,
        engine: Engine,
        request: Request,
        caller: Caller,
        places: list[int],
        problems: dict[int, BadRequest],
    ) -> Answer:
        begun = time.perf_counter()
        encoded = await self._tokenize(engine, [request.rows[i] for i in places], request)
        if not request.truncate:
            places, encoded = _short_enough(engine, request, places, encoded, problems)
        tokenized = time.perf_counter()
        ticket = await self._infer(engine, encoded, caller)
        found: list[list[dict[str, object]] | None] = [None] * len(request.rows)
        for place, row in zip(places, ticket.rows, strict=True):
            assert row is not None, "a ticket is done when every row is there"
            found[place] = ranked(engine.bundle.task, row, request)
        if self.rotation.candidate is not None:
            self.shadow.maybe(request, places, ticket.rows)
        done = time.perf_counter()
        self._later(self.telemetry.waited, tokenized - begun, ticket.begun - tokenized)
        times = {
            "tokenize": tokenized - begun, "queue": ticket.begun - tokenized, "infer": ticket.infer,
            "total": done - caller.arrived,
        }  # fmt: skip
        return Answer(
            model=engine.bundle.id,
            name=engine.bundle.info.name,
            labels=engine.bundle.task.labels,
            predictions=found,
            problems=problems,
            times_ms={name: round(seconds * 1e3, 3) for name, seconds in times.items()},
            tokens=sum(len(one.ids) for one in encoded),
            characters=sum(len(part) for row in request.rows for part in row),
            compute=f"{engine.choice.got}+{engine.variant_name}",
        )

    def trouble(self) -> str | None:
        """Return why this process cannot answer any more, or None."""
        return self.runners.trouble(self.settings.stuck_after_s)

    def set_gauges(self) -> None:
        """Bring the gauges of the line up to date."""
        self.telemetry.depth.set(self.runners.waiting())
        self.telemetry.wait.set(self.runners.predicted_wait())

    def _check(self, engine: Engine, request: Request) -> tuple[list[int], dict[int, BadRequest]]:
        """Return the positions of the rows that can be answered, and what is wrong with the others."""
        limits = self.settings
        if len(request.rows) > limits.max_batch:
            raise BadRequest(413, f"{len(request.rows)} texts in one request, at most {limits.max_batch} are taken")
        places: list[int] = []
        problems: dict[int, BadRequest] = {}
        for i, row in enumerate(request.rows):
            problem = _problem(row, engine.bundle.task.pair, limits.max_text_chars)
            if problem is None:
                places.append(i)
            elif not request.per_item:
                raise problem
            else:
                problems[i] = problem
        if not places:
            raise next(iter(problems.values()))
        return places, problems

    async def _tokenize(self, engine: Engine, rows: list[Row], request: Request) -> list[Encoded]:
        cut: Cut = request.direction if request.truncate else "never"
        if cut == "right" and sum(len(part) for row in rows for part in row) <= INLINE_CHARS:
            return engine.tokenize(rows, cut)
        assert self._loop is not None, "start() comes before the first request"
        return await self._loop.run_in_executor(self._pool, engine.tokenize, rows, cut)

    async def _infer(self, engine: Engine, encoded: list[Encoded], caller: Caller) -> Ticket:
        assert self._loop is not None, "start() comes before the first request"
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
        self._drop(taken.expired, "expired", EXPIRED)
        self._drop(taken.gone, "gone", BadRequest(499, "the client has gone", "Gone"))
        if not taken.batch:
            return
        self._later(self.telemetry.ran, outcome)
        if outcome.answers is None:
            problem = BadRequest(500, "the model failed on this request; the log says why", "Backend")
            for job in taken.batch:
                job.ticket.fail(problem)
            return
        for job, logits in zip(taken.batch, outcome.answers, strict=True):
            job.ticket.take(job, outcome, logits)

    def _later(self, note: Callable[..., None], *what: object) -> None:
        """Count when the answer is on its way: uvloop writes before it calls what was put off."""
        assert self._loop is not None, "start() comes before the first request"
        self._loop.call_soon(note, *what)

    def _drop(self, jobs: list[Job], reason: str, problem: BadRequest) -> None:
        for job in jobs:
            self.telemetry.shed.labels(reason).inc()
            job.ticket.fail(problem)

    async def _sweep(self) -> None:
        """Answer those whose deadline passed, also while a runner is stuck; keep the gauges fresh."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.set_gauges()
            if self.runners.waiting():
                self._drop(self.runners.expire(), "expired", EXPIRED)
            for job in self.runners.overdue():
                job.ticket.fail(LATE)


def _problem(row: Row, takes_pairs: bool, max_chars: int) -> BadRequest | None:
    """Return what is wrong with a row, or None."""
    longest = 0
    for part in row:
        if not part or part.isspace():
            return BadRequest(422, "a text is empty", "Empty")
        longest = max(longest, len(part))
    if longest > max_chars:
        return BadRequest(413, f"a text has {longest} characters, at most {max_chars} are taken")
    if (len(row) == 2) != takes_pairs:
        found, wanted = ("a pair", "single texts") if len(row) == 2 else ("a single text", "pairs")
        return BadRequest(422, f"found {found}, this model takes {wanted}")
    return None


def _short_enough(
    engine: Engine, request: Request, places: list[int], encoded: list[Encoded], problems: dict[int, BadRequest]
) -> tuple[list[int], list[Encoded]]:
    """Return the rows that fit the model uncut; the others become problems, or the request's error."""
    most = engine.bundle.task.max_tokens
    kept = []
    for place, one in zip(places, encoded, strict=True):
        if len(one.ids) <= most:
            kept.append((place, one))
            continue
        told = f"a text has {len(one.ids)} tokens, the model takes {most}; allow truncation"
        problems[place] = BadRequest(422, told)
    if problems and (not request.per_item or not kept):
        raise next(iter(problems.values()))
    return [place for place, _ in kept], [one for _, one in kept]
