"""App: the ASGI application with every route.

It finds the route of a request, checks the key, and turns errors into responses. service/web/classify_routes.py reads
texts and writes answers: service/web/dialects.py chooses the protocol, whose module in service/protocols parses and
formats JSON.
"""

import codecs
import logging
import os
import time
from dataclasses import replace
from typing import Any, Protocol

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope, Send

from service.inference.inference_service import InferenceService
from service.operations.admin import Admin
from service.operations.info import info
from service.operations.tracing import Tracer
from service.process.service_links import log_service_links
from service.protocols import BadRequest, hf, native, oip, openai, tei
from service.protocols.json_text import with_replaced_surrogates
from service.settings import PREFIX
from service.web import dialects, pages
from service.web.access import check_key, cors_headers, preflight
from service.web.classify_routes import ClassifyRoutes
from service.web.dialects import Choose, only
from service.web.http import Call, ClientGone, Reply, json_reply, refusal
from service.web.oip_routes import OipRoutes
from service.web.openapi import openapi
from service.web.route import Handler, Route, constant, openai_route
from service.web.token_routes import MODELS, PREDICT, TokenRoutes

log = logging.getLogger("prunella")
# BentoML's own routes and their methods, which its clients use; every other path is ours
BENTOML_PATHS = {"/classify": ("POST",), "/schema.json": ("GET", "HEAD")}


class BentoApp(Protocol):
    """BentoML's application, which answers its own routes."""

    async def __call__(self, scope: Scope, body: bytes, send: Send) -> None:
        """Answer a request whose body has been read."""

    async def close(self) -> None:
        """Shut the application down."""


class App:
    """The ASGI application."""

    def __init__(
        self, inference: InferenceService, tracer: Tracer | None = None, bentoml_app: BentoApp | None = None
    ) -> None:
        self.inference, self._tracer, self._bentoml = inference, tracer, bentoml_app
        self._settings, self._origins = inference.settings, inference.settings.origins()
        admin = Admin(inference)
        document = openapi(inference.settings)
        with_input, with_inputs = dialects.of_input(inference.settings), dialects.of_inputs(inference.settings)
        by_keys = dialects.by_keys(with_input, with_inputs)
        native_or_input, ranks_or_inputs = dialects.native_or(with_input), dialects.ranks_or(with_inputs)
        classify = ClassifyRoutes(inference, tracer)
        tokens = TokenRoutes(inference, classify.context)
        open_inference = OipRoutes(inference, classify.context, tracer)
        self._root = inference.settings.root_path
        probe: dict[str, Handler] = {"GET": self._live}
        self._routes = {
            "/v1/classify": Route("native", {"POST": classify.handler(native_or_input)}, choose=native_or_input),
            "/classify": openai_route(
                with_input.label, classify.handler(only(with_input)), dialects.of_classify(with_input)
            ),
            "/predict": Route("tei", {"POST": classify.handler(only(dialects.TEI))}, tei.error),
            "/": Route(
                "hf",
                {"POST": classify.handler(ranks_or_inputs), "GET": self._redirect_to_playground},
                hf.error,
                choose=ranks_or_inputs,
            ),
            **dict.fromkeys(("/score", "/v1/score"), openai_route("score", classify.handler(only(dialects.SCORE)))),
            **dict.fromkeys(
                ("/rerank", "/v1/rerank", "/v2/rerank"),
                openai_route("rerank", classify.handler(dialects.choose_rerank), dialects.choose_rerank),
            ),
            "/tokenize": openai_route("tokenize", tokens.tokenize),
            "/detokenize": openai_route("tokenize", tokens.detokenize),
            "/v1/models": Route("info", {"GET": tokens.models}, openai.error),
            "/livez": Route("probe", probe, is_open=True),
            "/healthz": Route("probe", probe, is_open=True),
            "/health": Route("probe", {"GET": self._ready}, is_open=True),
            "/readyz": Route("probe", {"GET": self._ready}, is_open=True),
            "/ping": Route("probe", {"GET": self._ready}, is_open=True),
            "/invocations": Route(
                "sagemaker", {"POST": classify.handler(by_keys, accepts_csv=True)}, tei.error, choose=by_keys
            ),
            "/metrics": Route("metrics", {"GET": self._metrics}, is_open=True),
            "/info": Route("info", {"GET": self._info}),
            "/openapi.json": Route("page", {"GET": constant(json_reply(document))}, is_open=True),
            "/ui": Route("page", {"GET": constant(pages.playground())}, is_open=True),
            "/v2": Route("oip", {"GET": open_inference.server}, oip.error, is_open=True),
            "/v2/health/live": Route("probe", {"GET": self._live}, oip.error, is_open=True),
            "/v2/health/ready": Route("probe", {"GET": self._ready}, oip.error, is_open=True),
            "/admin/models": Route("admin", {"GET": admin.models, "POST": admin.swap}, is_open=True),
            "/admin/rollback": Route("admin", {"POST": admin.roll_back}, is_open=True),
            "/admin/shadow": Route("admin", {"POST": admin.shadow, "DELETE": admin.end_shadow}, is_open=True),
        }
        self._add_vertex_routes(classify, by_keys)
        predict_v1 = classify.handler(only(dialects.VERTEX))

        async def predict(call: Call) -> Reply:
            tokens.check_path(call)
            return await predict_v1(call)

        self._predict_route = Route("vertex", {"POST": predict}, hf.error)
        self._model_route = Route("info", {"GET": tokens.model}, openai.error)
        self._oip_metadata_route = Route("oip", {"GET": open_inference.model}, oip.error)
        self._oip_infer_route = Route("oip", {"POST": open_inference.infer}, oip.error)
        self._unknown_routes = {
            start: Route("other", {}, error, is_open=True)
            for start, error in (("/v1/", openai.error), ("/v2/", oip.error), ("", native.error))
        }
        if bentoml_app is not None:  # it answers, not the handler
            self._routes["/schema.json"] = Route("bentoml", {"GET": constant(Reply(b""))})

    def _add_vertex_routes(self, classify: ClassifyRoutes, choose: Choose) -> None:
        """Add the paths that Vertex AI calls; one that is a route already also takes Vertex AI's requests."""
        health, predict = self._settings.health_route, self._settings.predict_route
        if health and health not in self._routes:
            self._routes[health] = Route("probe", {"GET": self._ready}, is_open=True)
        if not predict:
            return
        route = self._routes.get(predict)
        if route is None or route.is_open or "POST" not in route.methods:
            choose = dialects.instances_or(choose)
            post, methods = classify.handler(choose), {} if route is None else route.methods
            self._routes[predict] = Route("vertex", {**methods, "POST": post}, hf.error, choose=choose)
        else:  # its own clients get the answers and errors that they have without Vertex AI
            post = classify.instances_or(route.methods["POST"])
            own: Any = route.choose or (lambda _: route)
            methods = {**route.methods, "POST": post}
            self._routes[predict] = replace(route, methods=methods, choose=dialects.instances_or(own))

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
        if self._root:
            call.path = self._below_root(call.path)
        route = self._route(call)
        try:
            reply = preflight(call, self._origins)
            if reply is None and not route.is_open:
                check_key(call, self._settings.api_key)
            if reply is None and await self._is_for_bentoml(call):
                await self._forward_to_bentoml(call, send)
                return
            if reply is None:
                reply = await route.handler(call.method)(call)
        except BadRequest as problem:
            reply = await self._refusal(problem, call, route)
        except ClientGone:
            self.inference.telemetry.shed.labels("gone").inc()
            return
        except Exception:
            log.exception("%s %s failed", call.method, route.label)
            failure = BadRequest(500, "the server failed on this request; its log says why", "Internal")
            reply = refusal(failure, (call.dialect or route).error(failure))
        if self._origins:
            reply.headers = [*reply.headers, *cors_headers(call.header(b"origin"), self._origins)]
        reply.close = reply.close or self.inference.draining
        await call.send(reply, send)
        self._record(call.dialect or route, reply.status, arrived)

    def _record(self, form: Any, status: int, arrived: float) -> None:
        """Count the answer, and log it if the settings say so; `form` has the label of the protocol."""
        self.inference.telemetry.count(form.label, status)
        if self._settings.access_log:
            milliseconds = round((time.perf_counter() - arrived) * 1e3, 3)
            log.info("answered", extra={"dialect": form.label, "code": status, "ms": milliseconds})

    def _below_root(self, path: str) -> str:
        """Return a path without PRUNELLA_ROOT_PATH, which the proxy may also have removed already."""
        if path == self._root or path.startswith(self._root + "/"):
            return path.removeprefix(self._root) or "/"
        return path

    def _route(self, call: Call) -> Route:
        """Return the route of a request; a slash at the end of its path makes no difference."""
        if call.path not in self._routes and call.path.endswith("/"):
            call.path = call.path.rstrip("/") or "/"
        path = call.path
        route = self._routes.get(path)
        if route is not None:
            return route
        if path.startswith("/v2/models/"):
            return self._oip_infer_route if path.endswith("/infer") else self._oip_metadata_route
        if path.startswith(MODELS):
            return self._predict_route if path.endswith(PREDICT) else self._model_route
        return next(route for start, route in self._unknown_routes.items() if path.startswith(start))

    async def _refusal(self, problem: BadRequest, call: Call, route: Route) -> Reply:
        """Return an error in the form of the protocol of the request, as far as it is known."""
        if call.dialect is None and route.choose is not None and (keys := await call.keys()):
            call.dialect = route.choose(keys)
        form = call.dialect or route
        problem.status = form.statuses.get(problem.status, problem.status)
        return refusal(problem, form.error(problem))

    async def _live(self, _: Call) -> Reply:
        trouble = self.inference.trouble()
        return json_reply({"live": not trouble, "status": trouble or "ok"}, 503 if trouble else 200)

    async def _ready(self, _: Call) -> Reply:
        trouble = self.inference.trouble() or ("shutting down" if self.inference.draining else None)
        return json_reply({"ready": not trouble, "status": trouble or "ok"}, 503 if trouble else 200)

    async def _metrics(self, _: Call) -> Reply:
        self.inference.queue.set_gauges()
        return Reply(self.inference.telemetry.page(), content_type=CONTENT_TYPE_LATEST.encode())

    async def _info(self, _: Call) -> Reply:
        return json_reply(info(self.inference))

    async def _redirect_to_playground(self, _: Call) -> Reply:
        return Reply(b"", 307, [(b"location", self._root.encode() + b"/ui")], b"text/plain")

    async def _is_for_bentoml(self, call: Call) -> bool:
        """Whether a request is one of BentoML's clients: on /classify, one without the keys of other protocols."""
        if self._bentoml is None or call.method not in BENTOML_PATHS.get(call.path, ()):
            return False
        if call.method != "POST":
            return True
        call.check_json()  # BentoML also accepts other content types, and answers some of them with 500
        body = await call.body(self._settings.max_body_bytes)
        others = (*dialects.VLLM_KEYS, *(("instances",) if call.path == self._settings.predict_route else ()))
        if not any(b'"%s"' % key.encode() in body for key in others):
            return True
        document = await call.document(self._settings.max_body_bytes)
        return type(document) is not dict or not any(key in document for key in others)

    async def _forward_to_bentoml(self, call: Call, send: Send) -> None:
        body = (await call.body(self._settings.max_body_bytes)).removeprefix(codecs.BOM_UTF8)
        replaced = with_replaced_surrogates(body)
        if replaced is not None:
            body = orjson.dumps(replaced)
        assert self._bentoml is not None, "the route is used only if there is a BentoML application"

        async def send_counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.inference.telemetry.count("bentoml", message["status"])
                cors = cors_headers(call.header(b"origin"), self._origins)
                message = {**message, "headers": [*message.get("headers", []), *cors]}
            await send(message)

        await self._bentoml({**call.scope, "path": call.path, "raw_path": call.path.encode()}, body, send_counted)

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
