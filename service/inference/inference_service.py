"""InferenceService: Request → Answer, for all protocols.

It validates the rows, checks admission, tokenizes, queues the texts for the runners, and collects their logits.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from models.tokenizer import Encoded, Row
from service.cascade.cascade_stages import Gated, ask, may_answer, stages
from service.cascade.gate import Gate
from service.cascade.gate_check import GateCheck
from service.inference.inference_queue import InferenceQueue
from service.inference.request_context import RequestContext
from service.inference.request_rows import (
    check_encoded,
    check_rows,
    check_token_ids,
    collect_logits,
    fit_prompts,
    given_tokens,
)
from service.inference.scheduler import Overloaded
from service.inference.tokenizer_queue import (
    ID_CHARS,
    Lane,
    count_chars,
)
from service.model.engine import Cut, Engine
from service.model.windows import TextWindows
from service.operations.model_slots import ModelSlots
from service.operations.prometheus_metrics import Telemetry
from service.operations.shadow import Shadow
from service.protocols import Answer, BadRequest, Request, decisions, ranked
from service.settings import Settings


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
        self.queue = InferenceQueue(self.rules, self.model_slots, self.telemetry, settings.inline_ms / 1e3)
        self.runners = self.queue.runners
        self.shadow = Shadow(self.model_slots, self.runners, self.telemetry)
        self.gate_check = GateCheck(self.model_slots, self.runners, self.telemetry, settings.gate_check_share)
        self.draining = False

    async def start(self) -> None:
        """Start the runners; they deliver their answers to the event loop that calls this."""
        await self.queue.start()

    async def stop(self) -> None:
        """End the runners; requests that still wait are answered with an error."""
        await self.queue.stop_tokenizing()
        await self.shadow.close()
        await self.queue.stop_runners()

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
            pending = await self.queue.infer(engine, left, context, listed)
        except Overloaded as refused:
            raise self.queue.refusal(refused) from None
        rows = pending.rows if gated is None else gated.merged(pending.rows)
        answers = rows if parts is None else engine.joined(parts, rows)
        logits = collect_logits(request, positions, answers, problems)
        by_student = answers if gated is None else gated.of_student(pending.rows)
        self._let_shadow_answer(request, positions, by_student, parts)
        times = {"tokenize": tokenized - begun}
        if engine.gate is not None:
            times["gate"] = queued - tokenized
            self.queue.call_soon(self._count_stages, engine, valid, gated)
        times |= {"queue": pending.begun - queued if left else 0.0, "infer": pending.infer}
        times["total"] = time.perf_counter() - context.arrived
        self.queue.call_soon(self.telemetry.waited, times["tokenize"], times["queue"] if left else None)
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
        return _Plan(engine, rows, cut, chars, self.queue.tokenizer_queues.lane(chars, cut), gate, windows)

    def _admit(self, plan: "_Plan", context: RequestContext) -> None:
        """Admit a request to the tokenizer's queue and the model's.

        Raises:
            Overloaded: it would not be answered before its deadline, or too many texts wait.
        """
        if plan.gate is None:  # before tokenization: an admitted request is not refused after work was done for it
            self.queue.check(plan.expected_texts(), plan.lane, context)
        else:  # the model's queue counts after the gate, for what it leaves
            self.queue.check(len(plan.rows), plan.lane, context, may_skip_model=True)

    async def _encode(
        self, plan: "_Plan", request: Request, positions: list[int], context: RequestContext
    ) -> list[Encoded | None]:
        """Return the tokens of each row; None where the tokenizer fails."""
        if request.token_ids is None:
            encoded = await self.queue.tokenize(plan.engine, plan.rows, plan.cut, context, plan.lane)
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
        self.queue.call_soon(self.shadow.maybe, request, positions, rows)

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
        lane = self.queue.tokenizer_queues.lane(len(text), "never")
        try:
            self.queue.check(1, lane, context)
        except Overloaded as refused:
            raise self.queue.refusal(refused) from None
        (encoded,) = await self.queue.tokenize(engine, [(text,)], "never", context, lane)
        if encoded is None:
            raise BadRequest(500, "the tokenizer failed on this text; the log says why", "Backend")
        return engine, encoded

    async def detokenize(self, engine: Engine, ids: list[int], context: RequestContext) -> str:
        """Return the text of token ids that `engine` knows.

        Raises:
            BadRequest: the server is busy, or the tokenizer failed.
        """
        lane = self.queue.tokenizer_queues.lane(ID_CHARS * len(ids), "right")
        try:
            self.queue.check(1, lane, context, may_skip_model=True)
        except Overloaded as refused:
            raise self.queue.refusal(refused) from None
        text = await self.queue.detokenize(engine, ids, context, lane)
        if text is None:
            raise BadRequest(500, "the tokenizer failed on these token ids; the log says why", "Backend")
        return text

    def trouble(self) -> str | None:
        """Return why this process cannot answer any more, or None."""
        return self.runners.trouble(self.settings.stuck_after_s) or self.model_slots.current.health.trouble()


def _counts(rows: int, positions: list[int], parts: list[list[Encoded]]) -> list[int | None]:
    """Return the number of windows of each row of a request; None where the row has no answer."""
    counts: list[int | None] = [None] * rows
    for position, part in zip(positions, parts, strict=True):
        counts[position] = len(part)
    return counts
