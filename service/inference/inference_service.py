"""InferenceService: Request → Answer, for all protocols.

It validates the rows, checks admission, tokenizes, queues the texts for the runners, and collects their logits.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from models.tokenizer import Encoded, Row
from service.cascade.cascade_stages import Gated, ask, may_answer, stages
from service.cascade.gate import Gate
from service.cascade.gate_check import GateCheck
from service.inference.engine import Cut, Engine
from service.inference.isolation import apply_isolated
from service.inference.request_rows import (
    check_encoded,
    check_rows,
    check_token_ids,
    collect_logits,
    fit_prompts,
    given_tokens,
)
from service.inference.runners import Outcome, PendingRequest, Runners
from service.inference.scheduler import NOTHING_AHEAD, Job, Overloaded
from service.inference.tokenizer_queue import (
    Lane,
    QueuedRequest,
    TokenizerQueues,
    client_gone_error,
    count_chars,
    expired_error,
    late_error,
    pieces_of,
    shutting_down_error,
)
from service.inference.windows import TextWindows
from service.operations.model_slots import ModelSlots
from service.operations.prometheus_metrics import Telemetry
from service.operations.shadow import MOST, Shadow
from service.protocols import Answer, BadRequest, Request, decisions, ranked
from service.settings import Settings

SWEEP_SECONDS = 0.05  # interval of the search for texts whose deadline passed while every runner is busy
PROBE_SECONDS = 1.0  # interval of the probes of an unhealthy model
REFUSED = {"queue": "the queue is full", "wait": "the wait is too long", "deadline": "the deadline would pass"}


@dataclass(slots=True)
class RequestContext:
    """Times of a request (`time.perf_counter`) and the state of its connection."""

    arrived: float
    deadline: float
    gone: Callable[[], bool]  # whether the client has disconnected
    is_alone: Callable[[], bool] = lambda: False  # whether no other request is in the process
    asks_for_student: Callable[[], bool] = lambda: False  # whether a header excludes the gate; for a bundle with one


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the rows of a request are tokenized and answered."""

    engine: Engine
    rows: list[Row]
    cut: Cut
    chars: int
    lane: Lane | None  # of the tokenizer's queue; None: they are tokenized at once
    gate: Gate | None  # asked first
    windows: TextWindows | None  # of long texts

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens of a text."""
        return self.engine.bundle.task.max_tokens if self.windows is None else self.windows.max_tokens

    def expected_texts(self) -> int:
        """Estimate the number of texts that the model computes, windows counted, before they are tokenized."""
        if self.windows is None:
            return len(self.rows)
        return sum(self.windows.expected(len(row[0])) for row in self.rows)


class InferenceService:
    """Admission, tokenization, inference and post-processing for all protocols, in one process."""

    def __init__(self, engine: Engine, settings: Settings, worker: int = 0) -> None:
        self.settings, self.telemetry = settings, Telemetry(settings.served_as)
        self.model_slots = ModelSlots(engine, settings.runtime(worker), self._serves)
        self.telemetry.serves(engine)
        self.rules = settings.rules(engine.choice.got)
        self.runners = Runners(self.rules, self._from_runner)
        self.shadow = Shadow(self.model_slots, self.runners, self.telemetry)
        self.gate_check = GateCheck(self.model_slots, self.runners, self.telemetry, settings.gate_check_share)
        self.tokenizer_queues = TokenizerQueues(self._count_shed)
        self.draining = False
        self._inline_seconds = settings.inline_ms / 1e3
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the runners; they deliver their answers to the event loop that calls this."""
        self._loop = asyncio.get_running_loop()
        self.runners.start()
        self._sweeper = self._loop.create_task(self._sweep())

    async def stop(self) -> None:
        """End the runners; requests that still wait are answered with an error."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        self._ended = True  # from here on, tokenized requests are refused: no runner would take them
        await self.tokenizer_queues.close()
        await self.shadow.close()
        for job in await asyncio.to_thread(self.runners.close):
            job.pending.fail(shutting_down_error())

    async def answer(self, request: Request, context: RequestContext) -> Answer:
        """Return the answer to a request.

        Raises:
            BadRequest: it cannot be answered; the message says why.
        """
        engine = self.model_slots.current  # the request keeps this model, even when models are swapped meanwhile
        positions, problems = self._check(engine, request)
        plan = self._plan(engine, request, [request.rows[i] for i in positions], context)
        try:
            self._admit(plan, context)
            begun = time.perf_counter()
            encoded = await self._encode(plan, request, positions, context)
            positions, valid = check_encoded(request, positions, encoded, problems, plan.max_tokens)
            parts = None if plan.windows is None else engine.parts(valid)
            if parts is not None:
                valid = [window for part in parts for window in part]
            queued = tokenized = time.perf_counter()
            gated, left, listed = None, valid, len(valid) > 1
            if plan.gate is not None:
                gated = await ask(plan.gate, valid)
                left, queued = gated.left(valid), time.perf_counter()
                if left:
                    self.runners.check(len(left), context.deadline, queued, listed=listed)
            pending = await self._infer(engine, left, context, listed)
        except Overloaded as refused:
            raise self._refusal(refused) from None
        rows = pending.rows if gated is None else gated.merged(pending.rows)
        answers = rows if parts is None else engine.joined(parts, rows)
        logits = collect_logits(request, positions, answers, problems)
        by_student = answers if gated is None else gated.of_student(pending.rows)
        self._let_shadow_answer(request, positions, by_student, parts)
        times = {"tokenize": tokenized - begun}
        if engine.gate is not None:
            times["gate"] = queued - tokenized
            self._call_soon(self._count_stages, engine, valid, gated)
        times |= {"queue": pending.begun - queued if left else 0.0, "infer": pending.infer}
        times["total"] = time.perf_counter() - context.arrived
        self._call_soon(self.telemetry.waited, times["tokenize"], times["queue"] if left else None)
        task = engine.bundle.task
        return Answer(
            model=engine.bundle.id,
            name=self.name(engine),
            labels=task.labels,
            predictions=[None if row is None else ranked(task, row, request) for row in logits],
            decisions=decisions(task, logits),
            problems=problems,
            times_ms={name: round(seconds * 1e3, 3) for name, seconds in times.items()},
            tokens=sum(len(row.ids) for row in valid),
            characters=plan.chars,
            windows=None if parts is None else _counts(len(request.rows), positions, parts),
            compute=f"{engine.choice.got}+{engine.variant_name}",
            stages=None if engine.gate is None else stages(len(request.rows), positions, answers, gated),
        )

    def _plan(self, engine: Engine, request: Request, rows: list[Row], context: RequestContext) -> "_Plan":
        """Return how the rows of a request that the model can answer are tokenized and answered."""
        is_text = request.prompt is None and request.token_ids is None
        cut: Cut = request.direction if request.truncate else "never"
        if is_text:
            cut = engine.cut_of(cut)
        elif request.prompt is not None and not request.prompt.special_tokens:
            cut = "never"  # the model's limit then holds more tokens of the text
        chars = count_chars(rows)
        gate = None if engine.gate is None else self._gate_for(engine, request, context)
        windows = engine.windows if is_text else None
        return _Plan(engine, rows, cut, chars, self.tokenizer_queues.lane(chars, cut), gate, windows)

    def _admit(self, plan: "_Plan", context: RequestContext) -> None:
        """Admit a request to the tokenizer's queue and the model's.

        Raises:
            Overloaded: it would not be answered before its deadline, or too many texts wait.
        """
        ahead = NOTHING_AHEAD if plan.lane is None else plan.lane.ahead()
        now = time.perf_counter()
        if plan.gate is None:  # before tokenization: an admitted request is not refused after work was done for it
            self.runners.check(plan.expected_texts(), context.deadline, now, ahead)
        else:  # the model's queue counts after the gate, for what it leaves
            self.runners.check_tokenizer(len(plan.rows), context.deadline, now, ahead)

    async def _encode(
        self, plan: "_Plan", request: Request, positions: list[int], context: RequestContext
    ) -> list[Encoded | None]:
        """Return the tokens of each row; None where the tokenizer fails."""
        if request.token_ids is None:
            encoded = await self._tokenize(plan.engine, plan.rows, plan.cut, context, plan.lane)
        else:
            encoded = given_tokens(request.token_ids, positions)
        if request.prompt is None and request.token_ids is None:
            return encoded
        return fit_prompts(request, plan.engine.bundle.task, encoded, plan.engine.tokenizer)

    def _let_shadow_answer(
        self,
        request: Request,
        positions: list[int],
        rows: Sequence[list[float] | None],
        parts: list[list[Encoded]] | None,
    ) -> None:
        """Let the candidate, if there is one, answer the student's texts too.

        Texts of several windows are left out.
        """
        if self.model_slots.candidate is None or request.token_ids is not None or request.prompt is not None:
            return
        if parts is not None:
            rows = [row if len(part) == 1 else None for row, part in zip(rows, parts, strict=True)]
        self._call_soon(self.shadow.maybe, request, positions, rows)

    def _check(self, engine: Engine, request: Request) -> tuple[list[int], dict[int, BadRequest]]:
        """Return the positions of the rows that the model can answer, and the errors of the others.

        Raises:
            BadRequest: it can answer none, or the request is for another model.
        """
        if request.model is not None:
            self.check_name(request.model)
        if request.check is not None:
            request.check(engine.bundle.task)
        if request.token_ids is None:
            return check_rows(request, engine.bundle.task, self.settings)
        table = engine.bundle.architecture.vocabulary
        return check_token_ids(request, engine.bundle.task, table, self.settings)

    def _serves(self, engine: Engine) -> None:
        """Begin to count for a model that has become the current one."""
        self.gate_check.restart()
        self.telemetry.serves(engine)

    def _gate_for(self, engine: Engine, request: Request, context: RequestContext) -> Gate | None:
        """Return the gate of a model that has one, or None where the student must answer."""
        wants_student = context.asks_for_student()  # always, so that an invalid header is an error everywhere
        may = self.settings.cascade and not wants_student and may_answer(request, engine.bundle.task)
        return engine.gate if may else None

    def _count_stages(self, engine: Engine, encoded: list[Encoded], gated: Gated | None) -> None:
        """Count by which stage the texts of a request were answered, and check some of the gate's answers."""
        if gated is None:
            self.telemetry.bypassed(len(encoded))
            return
        self.telemetry.gated(gated.seconds, len(encoded), gated.rows.count(None))
        self.gate_check.maybe(engine, encoded, gated.rows)

    def name(self, engine: Engine) -> str:
        """Return the name under which a model is served."""
        return self.settings.served_as or engine.bundle.info.name

    def check_name(self, name: str | None) -> None:
        """Check that the model that a client names is the current one; None stands for whatever is served.

        Raises:
            BadRequest: 404, it is another one.
        """
        engine = self.model_slots.current
        if name is not None and name not in (self.name(engine), engine.bundle.id):
            served = self.name(engine)
            message = f"the model {name[:100]!r} does not exist: this server has {served!r} (--name sets its name)"
            raise BadRequest(404, message, "NotFound")

    async def tokenize(self, text: str, context: RequestContext) -> tuple[Engine, Encoded]:
        """Return the tokens of a text that is not truncated, and the model whose tokenizer made them.

        Raises:
            BadRequest: the text is too long, the server is busy, or the tokenizer failed.
        """
        engine = self.model_slots.current
        if len(text) > self.settings.max_text_chars:
            message = f"a text has {len(text)} characters, at most {self.settings.max_text_chars} are accepted"
            raise BadRequest(413, message)
        lane = self.tokenizer_queues.lane(len(text), "never")
        try:
            ahead = NOTHING_AHEAD if lane is None else lane.ahead()
            self.runners.check(1, context.deadline, time.perf_counter(), ahead)
        except Overloaded as refused:
            raise self._refusal(refused) from None
        (encoded,) = await self._tokenize(engine, [(text,)], "never", context, lane)
        if encoded is None:
            raise BadRequest(500, "the tokenizer failed on this text; the log says why", "Backend")
        return engine, encoded

    def trouble(self) -> str | None:
        """Return why this process cannot answer any more, or None."""
        return self.runners.trouble(self.settings.stuck_after_s) or self.model_slots.current.health.trouble()

    def waiting(self) -> int:
        """Return the number of texts that wait for the tokenizer or for the model."""
        return self.runners.waiting() + self.tokenizer_queues.ahead().texts

    def set_gauges(self) -> None:
        """Update the gauges of the queue."""
        self.telemetry.depth.set(self.waiting())
        self.telemetry.wait.set(self.runners.predicted_wait() + self.tokenizer_queues.ahead().seconds)

    async def _tokenize(
        self, engine: Engine, rows: list[Row], cut: Cut, context: RequestContext, lane: Lane | None
    ) -> list[Encoded | None]:
        """Return the tokens of each row; None where the tokenizer fails."""
        if lane is None:
            return apply_isolated(partial(engine.tokenize, cut=cut), rows)
        assert self._loop is not None, "start() comes before the first request"
        future: asyncio.Future[list[Encoded | None]] = self._loop.create_future()
        seconds = engine.rate.expect(engine.chars(rows, cut))
        lane.put(QueuedRequest(engine, rows, cut, context.deadline, context.gone, future, seconds, pieces_of(rows)))
        return await future

    async def _infer(
        self, engine: Engine, encoded: list[Encoded], context: RequestContext, listed: bool
    ) -> PendingRequest:
        """Return the student's answers to texts, which may be none; `listed`: whether the request is a list."""
        assert self._loop is not None, "start() comes before the first request"
        if not encoded:
            return PendingRequest(0, self._loop.create_future())
        if self._ended:
            raise shutting_down_error()
        now = time.perf_counter()
        pending = PendingRequest(len(encoded), self._loop.create_future())
        expect = engine.latency.expect
        jobs = [
            Job(engine, row, n := len(row.ids), expect(n), now, context.deadline, context.gone, pending, i)
            for i, row in enumerate(encoded)
        ]
        if len(jobs) == 1 and jobs[0].cost <= self._inline_seconds and context.is_alone():
            outcome = self.runners.run_inline(jobs[0])
            if outcome is not None:
                self._deliver(outcome)
                await pending.future
                return pending
        self.runners.put(jobs, listed)
        await pending.future
        return pending

    def _from_runner(self, outcome: Outcome) -> None:
        assert self._loop is not None, "start() comes before the runners"
        if not self._loop.is_closed():  # a closed loop means that the process ends and no request waits
            self._loop.call_soon_threadsafe(self._deliver, outcome)

    def _deliver(self, outcome: Outcome) -> None:
        dispatch = outcome.dispatch
        self._drop(dispatch.expired, "expired", expired_error)
        self._drop(dispatch.gone, "gone", client_gone_error)
        if dispatch.batch:
            self._call_soon(self.telemetry.ran, outcome)
        for job, logits in zip(dispatch.batch, outcome.answers, strict=True):
            job.pending.take(job, outcome, logits)

    def _call_soon(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function after the answer was sent: uvloop writes before it runs scheduled callbacks."""
        assert self._loop is not None, "start() comes before the first request"
        self._loop.call_soon(function, *arguments)

    def _refusal(self, refused: Overloaded) -> BadRequest:
        """Count a request that would wait too long, and return its error."""
        self._count_shed(refused.reason)
        reason = REFUSED[refused.reason]
        message = f"{reason}: {self.waiting()} texts wait; retry after {refused.seconds:.3f} s"
        return BadRequest(429, message, "Overloaded", refused.seconds)

    def _count_shed(self, reason: str) -> None:
        self.telemetry.shed.labels(reason).inc()

    def _drop(self, jobs: list[Job], reason: str, problem: Callable[[], BadRequest]) -> None:
        for job in jobs:
            self._count_shed(reason)
            job.pending.fail(problem())

    async def _sweep(self) -> None:
        """Periodically answer requests whose deadline passed, also while a runner is stuck, and update the gauges."""
        last_probe = 0.0
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.set_gauges()
            now = time.perf_counter()
            self.tokenizer_queues.expire(now)
            if self.runners.waiting():
                self._drop(self.runners.expire(), "expired", expired_error)
            for job in self.runners.overdue():
                job.pending.fail(late_error())
            if self.model_slots.current.health.unhealthy and now - last_probe > PROBE_SECONDS:
                last_probe = now
                self._probe(self.model_slots.current)

    def _probe(self, engine: Engine) -> None:
        """Run the probe text on an unhealthy model; when it is answered, the model is healthy again."""
        assert self._loop is not None, "start() comes before the sweeper"
        pending = PendingRequest(1, self._loop.create_future())  # no client waits for it
        probe = Job(engine, engine.probe, len(engine.probe.ids), 0.0, 0.0, math.inf, lambda: False, pending)
        self.runners.put_in_background(probe, MOST)


def _counts(rows: int, positions: list[int], parts: list[list[Encoded]]) -> list[int | None]:
    """Return the number of windows of each row of a request; None where the row has no answer."""
    counts: list[int | None] = [None] * rows
    for position, part in zip(positions, parts, strict=True):
        counts[position] = len(part)
    return counts
