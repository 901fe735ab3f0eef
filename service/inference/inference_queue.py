"""InferenceQueue: texts → tokens, and tokens → logits, through the queues of the tokenizer and of the model.

It also keeps the queues alive between requests: a sweep on the event loop drops texts whose deadline has passed while
every runner is busy, and probes a model that has become unhealthy.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from functools import partial

from models.tokenizer import Encoded, Row
from service.inference.request_context import RequestContext
from service.inference.runners import Outcome, PendingRequest, Runners
from service.inference.scheduler import NOTHING_AHEAD, Job, Overloaded, Rules
from service.inference.tokenizer_queue import (
    Lane,
    QueuedIds,
    QueuedRequest,
    TokenizerQueues,
    client_gone_error,
    expired_error,
    late_error,
    pieces_of,
    shutting_down_error,
)
from service.model.engine import Cut, Engine
from service.model.isolation import apply_isolated
from service.operations.model_slots import ModelSlots
from service.operations.prometheus_metrics import Telemetry
from service.operations.shadow import MOST
from service.protocols import BadRequest

SWEEP_SECONDS = 0.05  # interval of the search for texts whose deadline passed while every runner is busy
PROBE_SECONDS = 1.0  # interval of the probes of an unhealthy model
REFUSED = {"queue": "the queue is full", "wait": "the wait is too long", "deadline": "the deadline would pass"}


class InferenceQueue:
    """The tokenizer's queue and the model's, and what they refuse and drop. Everything runs on one event loop."""

    def __init__(self, rules: Rules, model_slots: ModelSlots, telemetry: Telemetry, inline_seconds: float) -> None:
        self.runners = Runners(rules, self._from_runner)
        self.tokenizer_queues = TokenizerQueues(self._count_shed)
        self._model_slots, self._telemetry, self._inline_seconds = model_slots, telemetry, inline_seconds
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the runners; they deliver their answers to the event loop that calls this."""
        self._loop = asyncio.get_running_loop()
        self.runners.start()
        self._sweeper = self._loop.create_task(self._sweep())

    async def stop_tokenizing(self) -> None:
        """Answer the requests that wait for the tokenizer with an error, and end its threads and the sweep."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        self._ended = True  # from here on, tokenized requests are refused: no runner would take them
        await self.tokenizer_queues.close()

    async def stop_runners(self) -> None:
        """End the runners; texts that still wait are answered with an error."""
        for job in await asyncio.to_thread(self.runners.close):
            job.pending.fail(shutting_down_error())

    def check(self, texts: int, lane: Lane | None, context: RequestContext, may_skip_model: bool = False) -> None:
        """Check that a request may wait.

        Args:
            texts: of the request.
            lane: of the tokenizer's queue; None: the texts are tokenized at once.
            context: of the request.
            may_skip_model: whether the model's queue does not count, because a gate may answer.

        Raises:
            Overloaded: it would not be answered before its deadline, or too many texts wait.
        """
        ahead = NOTHING_AHEAD if lane is None else lane.ahead()
        check = self.runners.check_tokenizer if may_skip_model else self.runners.check
        check(texts, context.deadline, time.perf_counter(), ahead)

    async def tokenize(
        self, engine: Engine, rows: list[Row], cut: Cut, context: RequestContext, lane: Lane | None
    ) -> list[Encoded | None]:
        """Return the tokens of each row; None where the tokenizer fails."""
        if lane is None:
            return apply_isolated(partial(engine.tokenize, cut=cut), rows)
        future: asyncio.Future[list[Encoded | None]] = self._running_loop.create_future()
        seconds = engine.rate.expect(engine.chars(rows, cut))
        lane.put(QueuedRequest(engine, rows, cut, context.deadline, context.gone, future, seconds, pieces_of(rows)))
        return await future

    async def detokenize(
        self, engine: Engine, ids: list[int], context: RequestContext, lane: Lane | None
    ) -> str | None:
        """Return the text of token ids; None if the tokenizer fails."""
        if lane is None:
            (text,) = apply_isolated(lambda _: [engine.tokenizer.decode(ids)], [ids])
            return text
        future: asyncio.Future[list[str | None]] = self._running_loop.create_future()
        lane.put(QueuedIds(engine, ids, context.deadline, context.gone, future))
        (text,) = await future
        return text

    async def infer(
        self, engine: Engine, encoded: list[Encoded], context: RequestContext, listed: bool
    ) -> PendingRequest:
        """Return the model's answers to texts, which may be none; `listed`: whether the request is a list."""
        if not encoded:
            return PendingRequest(0, self._running_loop.create_future())
        if self._ended:
            raise shutting_down_error()
        now = time.perf_counter()
        pending = PendingRequest(len(encoded), self._running_loop.create_future())
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

    def call_soon(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function after the answer was sent: uvloop writes before it runs scheduled callbacks."""
        self._running_loop.call_soon(function, *arguments)

    def refusal(self, refused: Overloaded) -> BadRequest:
        """Count a request that would wait too long, and return its error."""
        self._count_shed(refused.reason)
        reason = REFUSED[refused.reason]
        message = f"{reason}: {self.waiting()} texts wait; retry after {refused.seconds:.3f} s"
        return BadRequest(429, message, "Overloaded", refused.seconds)

    def waiting(self) -> int:
        """Return the number of texts that wait for the tokenizer or for the model."""
        return self.runners.waiting() + self.tokenizer_queues.ahead().texts

    def set_gauges(self) -> None:
        """Update the gauges of the queue."""
        self._telemetry.depth.set(self.waiting())
        self._telemetry.wait.set(self.runners.predicted_wait() + self.tokenizer_queues.ahead().seconds)

    @property
    def _running_loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None, "start() comes before the first request"
        return self._loop

    def _from_runner(self, outcome: Outcome) -> None:
        loop = self._running_loop
        if not loop.is_closed():  # a closed loop means that the process ends and no request waits
            loop.call_soon_threadsafe(self._deliver, outcome)

    def _deliver(self, outcome: Outcome) -> None:
        dispatch = outcome.dispatch
        self._drop(dispatch.expired, "expired", expired_error)
        self._drop(dispatch.gone, "gone", client_gone_error)
        if dispatch.batch:
            self.call_soon(self._telemetry.ran, outcome)
        for job, logits in zip(dispatch.batch, outcome.answers, strict=True):
            job.pending.take(job, outcome, logits)

    def _count_shed(self, reason: str) -> None:
        self._telemetry.shed.labels(reason).inc()

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
            if self._model_slots.current.health.unhealthy and now - last_probe > PROBE_SECONDS:
                last_probe = now
                self._probe(self._model_slots.current)

    def _probe(self, engine: Engine) -> None:
        """Run the probe text on an unhealthy model; when it is answered, the model is healthy again."""
        pending = PendingRequest(1, self._running_loop.create_future())  # no client waits for it
        probe = Job(engine, engine.probe, len(engine.probe.ids), 0.0, 0.0, math.inf, lambda: False, pending)
        self.runners.put_in_background(probe, MOST)
