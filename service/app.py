"""build_app(): routes and limits. A request is read, checked, tokenized, answered and written here."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from models.tokens import Encoded
from service.dialects import BadRequest, Request, native, predictions, tei
from service.engine import Engine
from service.settings import Settings

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds


class Telemetry:
    """The metrics of one process; labels are bounded: dialects and codes, never paths."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("prunella_requests", "answers", ["dialect", "code"], registry=self.registry)
        self.infer = Histogram("prunella_infer_seconds", "in the model", buckets=BUCKETS, registry=self.registry)
        self.queue = Histogram(
            "prunella_queue_seconds", "waiting for the model", buckets=BUCKETS, registry=self.registry
        )
        self.waiting = Gauge("prunella_queue_depth", "requests waiting or running", registry=self.registry)
        fallback = Gauge("prunella_device_fallback", "1 when another device was asked for", registry=self.registry)
        fallback.set(engine.choice.reason is not None)
        info = Gauge("prunella_model_info", "the model", ["id", "variant", "device"], registry=self.registry)
        info.labels(engine.bundle.id, engine.variant_name, engine.choice.got).set(1)


class Desk:
    """One engine, one inference at a time, and a bounded line in front of it."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings, self.telemetry = engine, settings, Telemetry(engine)
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._pace = 0.01  # seconds a request takes, a running mean

    async def infer(self, encoded: list[Encoded]) -> tuple[NDArray[np.float32], dict[str, float]]:
        """Return logits (rows, labels) and the seconds of each step; 429 when the line is full."""
        if self._waiting >= self.settings.max_queue:
            wait = max(1, round(self._waiting * self._pace))
            raise BadRequest(429, f"{self._waiting} requests wait already; come back in {wait} s", "Overloaded", wait)
        self._waiting += 1
        self.telemetry.waiting.set(self._waiting)
        arrived = time.perf_counter()
        try:
            async with self._turn:
                begun = time.perf_counter()
                logits = await asyncio.to_thread(self.engine.infer, encoded)
        finally:
            self._waiting -= 1
            self.telemetry.waiting.set(self._waiting)
        done = time.perf_counter()
        self._pace += 0.1 * (done - begun - self._pace)
        self.telemetry.queue.observe(begun - arrived)
        self.telemetry.infer.observe(done - begun)
        return logits, {"queue": begun - arrived, "infer": done - begun}

    async def answer(self, http: HttpRequest, dialect: ModuleType) -> Response:
        """Return the answer, or the error, in the dialect's form."""
        name = dialect.__name__.rsplit(".", 1)[1]
        headers: dict[str, str] = {}
        try:
            request = dialect.read(await self._document(http))
            start = time.perf_counter()
            encoded = self.encode(request)
            tokenized = time.perf_counter() - start
            logits, seconds = await self.infer(encoded)
            times = {k: round(v * 1e3, 3) for k, v in {"tokenize": tokenized, **seconds}.items()}
            times["total"] = round((time.perf_counter() - start) * 1e3, 3)
            answers = predictions(self.engine.bundle.task, logits, request)
            status, body = 200, dialect.write(self.engine.bundle.id, answers, request, times)
            headers = {
                "x-compute-type": f"{self.engine.choice.got}+{self.engine.variant_name}",
                "x-compute-tokens": str(sum(len(e.ids) for e in encoded)),
                "x-tokenization-time": str(round(times["tokenize"])),
                "x-queue-time": str(round(times["queue"])),
                "x-inference-time": str(round(times["infer"])),
                "x-total-time": str(round(times["total"])),
            }
        except BadRequest as problem:
            status, body = problem.status, dialect.error(problem)
            headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after else {}
        self.telemetry.requests.labels(name, str(status)).inc()
        return json_response(body, status, headers)

    async def _document(self, http: HttpRequest) -> object:
        kind = http.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            raise BadRequest(415, f"Content-Type is {kind or 'missing'}, wanted application/json")
        body = bytearray()
        async for chunk in http.stream():
            body += chunk
            if len(body) > self.settings.max_body_bytes:
                raise BadRequest(413, f"the body is larger than {self.settings.max_body_bytes} bytes")
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadRequest(400, f"the body is not valid JSON: {error}") from None

    def encode(self, request: Request) -> list[Encoded]:
        """Return the request's rows as tokens; refuses what is over a limit or of the wrong kind."""
        task, limits = self.engine.bundle.task, self.settings
        if len(request.rows) > limits.max_batch:
            raise BadRequest(413, f"{len(request.rows)} texts in one request, at most {limits.max_batch} are taken")
        longest = max(len(part) for row in request.rows for part in row)
        if longest > limits.max_text_chars:
            raise BadRequest(413, f"a text has {longest} characters, at most {limits.max_text_chars} are taken")
        for row in request.rows:
            if (len(row) == 2) != task.pair:
                found, wanted = ("a pair", "single texts") if len(row) == 2 else ("a single text", "pairs")
                raise BadRequest(422, f"found {found}, this model takes {wanted}")
            if not request.truncate and (count := self.engine.tokenizer.token_count(row)) > task.max_tokens:
                raise BadRequest(
                    422, f"a text has {count} tokens, the model takes {task.max_tokens}; allow truncation"
                )
        return self.engine.encode(request.rows, request.direction)

    def info(self) -> dict[str, Any]:
        """Return what is served, how it was made, and what that cost."""
        bundle = self.engine.bundle
        report = bundle.report() or {}
        return {
            "id": bundle.id,
            "digest": bundle.folder.manifest.digest(),
            "lineage": [step.model_dump() for step in bundle.folder.manifest.lineage],
            "labels": bundle.task.labels,
            "task": bundle.task.model_dump(exclude={"labels"}),
            "architecture": bundle.architecture.summary(),
            "variant": self.engine.variant_name,
            "device": self.engine.choice.model_dump(),
            "measured": {
                key: report.get(key) for key in ("accuracy", "loss_points", "loss_interval", "speedup", "rows")
            },
        }


def build_app(desk: Desk) -> Starlette:
    """Return the application; the desk's engine must have passed its self-check."""

    def post(dialect: ModuleType) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def handle(http: HttpRequest) -> Response:
            return await desk.answer(http, dialect)

        return handle

    async def alive(_: HttpRequest) -> Response:
        return json_response({"status": "ok"})

    async def info(_: HttpRequest) -> Response:
        return json_response(desk.info())

    async def metrics(_: HttpRequest) -> Response:
        return Response(generate_latest(desk.telemetry.registry), media_type=CONTENT_TYPE_LATEST)

    async def refused(_: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return json_response({"error": error.detail}, error.status_code, dict(error.headers or {}))

    async def failed(_: HttpRequest, __: Exception) -> Response:  # Starlette raises the error again, for the log
        return json_response({"error": "the server failed on this request; its log says why"}, 500)

    routes = [
        Route("/v1/classify", post(native), methods=["POST"]),
        Route("/predict", post(tei), methods=["POST"]),
        Route("/livez", alive),
        Route("/healthz", alive),
        Route("/readyz", alive),  # the app exists only after warm-up and self-check
        Route("/info", info),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: refused, Exception: failed})


def json_response(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return `body` as JSON."""
    return Response(orjson.dumps(body), status, headers, media_type="application/json")
