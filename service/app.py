"""App: every route. A request is let in, read, answered and written here; the dialects give it its form."""

import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope, Send

from service import pages
from service.access import check_key, cors_headers, preflight
from service.admin import Admin
from service.desk import Caller, Desk
from service.dialects import Answer, BadRequest, hf, native, oip, tei
from service.info import info
from service.links import log_service_links
from service.openapi import openapi
from service.settings import PREFIX
from service.tracing import Tracer
from service.wire import Call, ClientGone, Headers, Reply, json_reply, refusal

log = logging.getLogger("prunella")
Handler = Callable[[Call], Awaitable[Reply]]
KEPT = ("/classify", "/schema.json")  # BentoML's own routes, which its clients use; every other path is ours


class Other(Protocol):
    """BentoML's application, for its own routes."""

    async def __call__(self, scope: Scope, body: bytes, send: Send) -> None:
        """Answer a request whose body was read."""

    async def close(self) -> None:
        """End it."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a path answers: a handler for each method, and the form of its errors."""

    label: str  # in the metrics: a dialect, or what the path is for
    methods: dict[str, Handler]
    error: Callable[[BadRequest], object] = native.error
    is_open: bool = False  # needs no key


class App:
    """The ASGI application."""

    def __init__(self, desk: Desk, tracer: Tracer | None = None, bentoml_app: Other | None = None) -> None:
        self.desk, self._tracer, self._bentoml = desk, tracer, bentoml_app
        self._settings, self._origins = desk.settings, desk.settings.origins()
        self._default_seconds = desk.settings.request_timeout_ms / 1e3
        admin = Admin(desk)
        document = openapi(desk.settings)
        probe: dict[str, Handler] = {"GET": self._alive}
        self._routes = {
            "/v1/classify": Route("native", {"POST": self._dialect(native)}),
            "/predict": Route("tei", {"POST": self._dialect(tei, tei_headers)}, tei.error),
            "/": Route("hf", {"POST": self._dialect(hf), "GET": _to_the_page}, hf.error),
            "/livez": Route("probe", probe, is_open=True),
            "/healthz": Route("probe", probe, is_open=True),
            "/health": Route("probe", {"GET": self._ready}, is_open=True),
            "/readyz": Route("probe", {"GET": self._ready}, is_open=True),
            "/metrics": Route("metrics", {"GET": self._metrics}, is_open=True),
            "/info": Route("info", {"GET": self._info}),
            "/openapi.json": Route("page", {"GET": _constant(json_reply(document))}, is_open=True),
            "/ui": Route("page", {"GET": _constant(pages.playground())}, is_open=True),
            "/v2": Route("oip", {"GET": self._oip_server}, oip.error, is_open=True),
            "/v2/health/live": Route("probe", {"GET": self._alive}, oip.error, is_open=True),
            "/v2/health/ready": Route("probe", {"GET": self._ready}, oip.error, is_open=True),
            "/admin/models": Route("admin", {"GET": admin.told, "POST": admin.swap}, is_open=True),
            "/admin/rollback": Route("admin", {"POST": admin.roll_back}, is_open=True),
            "/admin/shadow": Route("admin", {"POST": admin.shadow, "DELETE": admin.end_shadow}, is_open=True),
        }
        self._model = Route("oip", {"GET": self._oip_model}, oip.error)
        self._infer = Route("oip", {"POST": self._dialect(oip)}, oip.error)
        self._nowhere = Route("other", {}, is_open=True)
        self._kept = Route("bentoml", {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            await self._answer(Call(scope, receive), send)
        elif scope["type"] == "lifespan":
            scope.get("state", {})["cors_origins"] = self._origins  # for what the connection refuses itself
            await self._lifespan(receive, send)

    async def _answer(self, call: Call, send: Send) -> None:
        arrived = time.perf_counter()
        route = self._routes.get(call.path) or self._other_route(call.path)
        try:
            reply = preflight(call, self._origins)
            if reply is None and not route.is_open:
                check_key(call, self._settings.api_key)
            if reply is None and route is self._kept:
                await self._pass_on(call, send)
                return
            if reply is None:
                reply = await self._handler(call, route)(call)
        except BadRequest as problem:
            reply = refusal(problem, route.error(problem))
        except ClientGone:
            self.desk.telemetry.shed.labels("gone").inc()
            return
        except Exception:
            log.exception("%s %s failed", call.method, route.label)
            told = BadRequest(500, "the server failed on this request; its log says why", "Internal")
            reply = refusal(told, route.error(told))
        if self._origins:
            reply.headers = [*reply.headers, *cors_headers(call.header(b"origin"), self._origins)]
        reply.close = reply.close or self.desk.draining
        await call.send(reply, send)
        self.desk.telemetry.count(route.label, reply.status)
        if self._settings.access_log:
            seconds = time.perf_counter() - arrived
            log.info("answered", extra={"dialect": route.label, "code": reply.status, "ms": round(seconds * 1e3, 3)})

    def _other_route(self, path: str) -> Route:
        if path.startswith("/v2/models/"):
            return self._infer if path.endswith("/infer") else self._model
        return self._kept if path in KEPT and self._bentoml is not None else self._nowhere

    def _handler(self, call: Call, route: Route) -> Handler:
        handler = route.methods.get(call.method)
        if handler is None and call.method == "HEAD":
            handler = route.methods.get("GET")
        if handler is not None:
            return handler
        if route is self._nowhere:
            raise BadRequest(404, "Not Found", "NotFound")
        return _constant(_not_allowed(route))

    def _dialect(self, dialect: ModuleType, headers: Callable[[Answer], Headers] | None = None) -> Handler:
        async def handle(call: Call) -> Reply:
            if dialect is oip:
                self._check_model(call, "/infer")
            begun = time.perf_counter()
            seconds = self._seconds(call)
            request = dialect.read(await call.document(self._settings.max_body_bytes))
            answer = await self.desk.answer(request, Caller(begun, begun + seconds, call.is_gone(), call.is_alone()))
            if self._tracer is not None:
                self._tracer.span(dialect.__name__, answer, call.header(b"traceparent"))
            return json_reply(dialect.write(answer, request), 200, headers(answer) if headers else None)

        return handle

    def _seconds(self, call: Call) -> float:
        """Return how long the client waits for an answer."""
        told = call.header(b"x-request-timeout-ms")
        if told is None:
            return self._default_seconds
        try:
            milliseconds = float(told)
        except ValueError:
            milliseconds = 0.0
        if not 1 <= milliseconds <= 3_600_000:
            raise BadRequest(422, "X-Request-Timeout-Ms is not a number of milliseconds from 1 to an hour")
        return milliseconds / 1e3

    async def _alive(self, _: Call) -> Reply:
        trouble = self.desk.trouble()
        return json_reply({"live": not trouble, "status": trouble or "ok"}, 503 if trouble else 200)

    async def _ready(self, _: Call) -> Reply:
        trouble = self.desk.trouble() or ("shutting down" if self.desk.draining else None)
        return json_reply({"ready": not trouble, "status": trouble or "ok"}, 503 if trouble else 200)

    async def _metrics(self, _: Call) -> Reply:
        self.desk.set_gauges()
        return Reply(self.desk.telemetry.page(), kind=CONTENT_TYPE_LATEST.encode())

    async def _info(self, _: Call) -> Reply:
        return json_reply(info(self.desk))

    async def _oip_server(self, _: Call) -> Reply:
        return json_reply({"name": "prunella", "version": pages.version(), "extensions": []})

    async def _oip_model(self, call: Call) -> Reply:
        engine = self.desk.rotation.current
        rest = self._check_model(call, "/ready", "")
        if rest == "/ready":
            return json_reply({"ready": not self.desk.draining, "name": engine.bundle.info.name})
        return json_reply(oip.metadata(engine.bundle.task, engine.bundle.info.name, engine.bundle.id))

    def _check_model(self, call: Call, *endings: str) -> str:
        """Return what follows /v2/models/{name}[/versions/{version}] in the path."""
        bundle = self.desk.rotation.current.bundle
        rest = call.path.removeprefix("/v2/models/")
        for name in (f"{bundle.info.name}/versions/{bundle.id}", bundle.info.name):
            if rest == name or rest.startswith(name + "/"):
                if (ending := rest.removeprefix(name)) in endings:
                    return ending
                raise BadRequest(404, "Not Found", "NotFound")
        raise BadRequest(404, f"no such model: this server has {bundle.info.name}, version {bundle.id}", "NotFound")

    async def _pass_on(self, call: Call, send: Send) -> None:
        if call.method == "POST":
            call.check_json()  # BentoML answers other types too, some of them with 500
        body = await call.body(self._settings.max_body_bytes)
        assert self._bentoml is not None, "else the path is not kept"

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.desk.telemetry.count("bentoml", message["status"])
                cors = cors_headers(call.header(b"origin"), self._origins)
                message = {**message, "headers": [*message.get("headers", []), *cors]}
            await send(message)

        await self._bentoml(call.scope, body, counted)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        log_service_links(os.environ, PREFIX.rstrip("_"))
        await self.desk.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._bentoml is not None:
            await self._bentoml.close()
        await self.desk.stop()
        if self._tracer is not None:
            self._tracer.close()
        await send({"type": "lifespan.shutdown.complete"})


def tei_headers(answer: Answer) -> Headers:
    """Return the x-compute-* headers of text-embeddings-inference; times are whole milliseconds."""
    times = {name: b"%d" % round(ms) for name, ms in answer.times_ms.items()}
    return [
        (b"x-compute-type", answer.compute.encode()),
        (b"x-compute-time", times["total"]),
        (b"x-compute-characters", b"%d" % answer.characters),
        (b"x-compute-tokens", b"%d" % answer.tokens),
        (b"x-total-time", times["total"]),
        (b"x-tokenization-time", times["tokenize"]),
        (b"x-queue-time", times["queue"]),
        (b"x-inference-time", times["infer"]),
    ]


def _constant(reply: Reply) -> Handler:
    async def handle(_: Call) -> Reply:
        return Reply(reply.body, reply.status, reply.headers, reply.kind)

    return handle


async def _to_the_page(_: Call) -> Reply:
    return Reply(b"", 307, [(b"location", b"/ui")], b"text/plain")


def _not_allowed(route: Route) -> Reply:
    problem = BadRequest(405, "Method Not Allowed", "MethodNotAllowed")
    return json_reply(route.error(problem), 405, [(b"allow", ", ".join(route.methods).encode())])
