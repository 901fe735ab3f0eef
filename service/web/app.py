"""App: the ASGI application with every route.

It checks the key, reads the request, calls the inference service and writes the response. The modules in
service/protocols parse and format the JSON of each protocol.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope, Send

from service.inference.inference_service import InferenceService, RequestContext
from service.operations.admin import Admin
from service.operations.info import info
from service.operations.tracing import Tracer
from service.process.service_links import log_service_links
from service.protocols import Answer, BadRequest, hf, native, oip, tei
from service.settings import PREFIX
from service.web import pages
from service.web.access import check_key, cors_headers, preflight
from service.web.http import Call, ClientGone, Headers, Reply, json_reply, refusal
from service.web.openapi import openapi

log = logging.getLogger("prunella")
Handler = Callable[[Call], Awaitable[Reply]]
BENTOML_PATHS = ("/classify", "/schema.json")  # BentoML's own routes, which its clients use; every other path is ours


class BentoApp(Protocol):
    """BentoML's application, which answers its own routes."""

    async def __call__(self, scope: Scope, body: bytes, send: Send) -> None:
        """Answer a request whose body has been read."""

    async def close(self) -> None:
        """Shut the application down."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route: a handler for each HTTP method, and the format of its errors."""

    label: str  # in the metrics: the protocol, or the purpose of the path
    methods: dict[str, Handler]
    error: Callable[[BadRequest], object] = native.error
    is_open: bool = False  # needs no API key


class App:
    """The ASGI application."""

    def __init__(
        self, inference: InferenceService, tracer: Tracer | None = None, bentoml_app: BentoApp | None = None
    ) -> None:
        self.inference, self._tracer, self._bentoml = inference, tracer, bentoml_app
        self._settings, self._origins = inference.settings, inference.settings.origins()
        self._default_seconds = inference.settings.request_timeout_ms / 1e3
        admin = Admin(inference)
        document = openapi(inference.settings)
        probe: dict[str, Handler] = {"GET": self._live}
        self._routes = {
            "/v1/classify": Route("native", {"POST": self._classify(native)}),
            "/predict": Route("tei", {"POST": self._classify(tei, tei_headers)}, tei.error),
            "/": Route("hf", {"POST": self._classify(hf), "GET": _redirect_to_playground}, hf.error),
            "/livez": Route("probe", probe, is_open=True),
            "/healthz": Route("probe", probe, is_open=True),
            "/health": Route("probe", {"GET": self._ready}, is_open=True),
            "/readyz": Route("probe", {"GET": self._ready}, is_open=True),
            "/metrics": Route("metrics", {"GET": self._metrics}, is_open=True),
            "/info": Route("info", {"GET": self._info}),
            "/openapi.json": Route("page", {"GET": _constant(json_reply(document))}, is_open=True),
            "/ui": Route("page", {"GET": _constant(pages.playground())}, is_open=True),
            "/v2": Route("oip", {"GET": self._oip_server}, oip.error, is_open=True),
            "/v2/health/live": Route("probe", {"GET": self._live}, oip.error, is_open=True),
            "/v2/health/ready": Route("probe", {"GET": self._ready}, oip.error, is_open=True),
            "/admin/models": Route("admin", {"GET": admin.models, "POST": admin.swap}, is_open=True),
            "/admin/rollback": Route("admin", {"POST": admin.roll_back}, is_open=True),
            "/admin/shadow": Route("admin", {"POST": admin.shadow, "DELETE": admin.end_shadow}, is_open=True),
        }
        self._oip_metadata_route = Route("oip", {"GET": self._oip_model}, oip.error)
        self._oip_infer_route = Route("oip", {"POST": self._classify(oip)}, oip.error)
        self._unknown_route = Route("other", {}, is_open=True)
        self._bentoml_route = Route("bentoml", {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the application's start and shutdown."""
        if scope["type"] == "http":
            await self._answer(Call(scope, receive), send)
        elif scope["type"] == "lifespan":
            # the connection adds CORS headers to the errors that it sends itself
            scope.get("state", {})["cors_origins"] = self._origins
            await self._lifespan(receive, send)

    async def _answer(self, call: Call, send: Send) -> None:
        arrived = time.perf_counter()
        route = self._routes.get(call.path) or self._other_route(call.path)
        try:
            reply = preflight(call, self._origins)
            if reply is None and not route.is_open:
                check_key(call, self._settings.api_key)
            if reply is None and route is self._bentoml_route:
                await self._forward_to_bentoml(call, send)
                return
            if reply is None:
                reply = await self._handler(call, route)(call)
        except BadRequest as problem:
            reply = refusal(problem, route.error(problem))
        except ClientGone:
            self.inference.telemetry.shed.labels("gone").inc()
            return
        except Exception:
            log.exception("%s %s failed", call.method, route.label)
            failure = BadRequest(500, "the server failed on this request; its log says why", "Internal")
            reply = refusal(failure, route.error(failure))
        if self._origins:
            reply.headers = [*reply.headers, *cors_headers(call.header(b"origin"), self._origins)]
        reply.close = reply.close or self.inference.draining
        await call.send(reply, send)
        self.inference.telemetry.count(route.label, reply.status)
        if self._settings.access_log:
            seconds = time.perf_counter() - arrived
            log.info("answered", extra={"dialect": route.label, "code": reply.status, "ms": round(seconds * 1e3, 3)})

    def _other_route(self, path: str) -> Route:
        """Return the route of a path that is not in the table of fixed paths."""
        if path.startswith("/v2/models/"):
            return self._oip_infer_route if path.endswith("/infer") else self._oip_metadata_route
        return self._bentoml_route if path in BENTOML_PATHS and self._bentoml is not None else self._unknown_route

    def _handler(self, call: Call, route: Route) -> Handler:
        handler = route.methods.get(call.method)
        if handler is None and call.method == "HEAD":
            handler = route.methods.get("GET")
        if handler is not None:
            return handler
        if route is self._unknown_route:
            raise BadRequest(404, "Not Found", "NotFound")
        return _constant(_not_allowed(route))

    def _classify(self, protocol: ModuleType, headers: Callable[[Answer], Headers] | None = None) -> Handler:
        """Return the handler that classifies texts in one protocol; `headers` makes its response headers."""

        async def handle(call: Call) -> Reply:
            if protocol is oip:
                self._check_model(call, "/infer")
            arrived = time.perf_counter()
            seconds = self._timeout_seconds(call)
            request = protocol.read(await call.document(self._settings.max_body_bytes))
            answer = await self.inference.answer(
                request, RequestContext(arrived, arrived + seconds, call.is_gone(), call.is_alone())
            )
            if self._tracer is not None:
                self._tracer.span(protocol.__name__, answer, call.header(b"traceparent"))
            return json_reply(protocol.write(answer, request), 200, headers(answer) if headers else None)

        return handle

    def _timeout_seconds(self, call: Call) -> float:
        """Return how long the client waits for an answer."""
        header = call.header(b"x-request-timeout-ms")
        if header is None:
            return self._default_seconds
        try:
            milliseconds = float(header)
        except ValueError:
            milliseconds = 0.0
        if not 1 <= milliseconds <= 3_600_000:
            raise BadRequest(422, "X-Request-Timeout-Ms must be a number of milliseconds from 1 to 3600000")
        return milliseconds / 1e3

    async def _live(self, _: Call) -> Reply:
        trouble = self.inference.trouble()
        return json_reply({"live": not trouble, "status": trouble or "ok"}, 503 if trouble else 200)

    async def _ready(self, _: Call) -> Reply:
        trouble = self.inference.trouble() or ("shutting down" if self.inference.draining else None)
        return json_reply({"ready": not trouble, "status": trouble or "ok"}, 503 if trouble else 200)

    async def _metrics(self, _: Call) -> Reply:
        self.inference.set_gauges()
        return Reply(self.inference.telemetry.page(), content_type=CONTENT_TYPE_LATEST.encode())

    async def _info(self, _: Call) -> Reply:
        return json_reply(info(self.inference))

    async def _oip_server(self, _: Call) -> Reply:
        return json_reply({"name": "prunella", "version": pages.version(), "extensions": []})

    async def _oip_model(self, call: Call) -> Reply:
        engine = self.inference.model_slots.current
        ending = self._check_model(call, "/ready", "")
        if ending == "/ready":
            return json_reply({"ready": not self.inference.draining, "name": engine.bundle.info.name})
        return json_reply(oip.metadata(engine.bundle.task, engine.bundle.info.name, engine.bundle.id))

    def _check_model(self, call: Call, *endings: str) -> str:
        """Return what follows /v2/models/{name}[/versions/{version}] in the path.

        Raises:
            BadRequest: 404, the model is not the one that is served, or what follows is not among `endings`.
        """
        bundle = self.inference.model_slots.current.bundle
        rest = call.path.removeprefix("/v2/models/")
        for name in (f"{bundle.info.name}/versions/{bundle.id}", bundle.info.name):
            if rest == name or rest.startswith(name + "/"):
                if (ending := rest.removeprefix(name)) in endings:
                    return ending
                raise BadRequest(404, "Not Found", "NotFound")
        raise BadRequest(404, f"no such model: this server has {bundle.info.name}, version {bundle.id}", "NotFound")

    async def _forward_to_bentoml(self, call: Call, send: Send) -> None:
        if call.method == "POST" and call.path == "/classify":
            call.check_json()  # BentoML also accepts other content types, and answers some of them with 500
        body = await call.body(self._settings.max_body_bytes)
        assert self._bentoml is not None, "the route is used only if there is a BentoML application"

        async def send_counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.inference.telemetry.count("bentoml", message["status"])
                cors = cors_headers(call.header(b"origin"), self._origins)
                message = {**message, "headers": [*message.get("headers", []), *cors]}
            await send(message)

        await self._bentoml(call.scope, body, send_counted)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        log_service_links(os.environ, PREFIX.rstrip("_"))
        await self.inference.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._bentoml is not None:
            await self._bentoml.close()
        await self.inference.stop()
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
    """Return a handler that always answers with a copy of `reply`."""

    async def handle(_: Call) -> Reply:
        return Reply(reply.body, reply.status, reply.headers, reply.content_type)

    return handle


async def _redirect_to_playground(_: Call) -> Reply:
    return Reply(b"", 307, [(b"location", b"/ui")], b"text/plain")


def _not_allowed(route: Route) -> Reply:
    problem = BadRequest(405, "Method Not Allowed", "MethodNotAllowed")
    return json_reply(route.error(problem), 405, [(b"allow", ", ".join(route.methods).encode())])
