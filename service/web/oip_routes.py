"""OipRoutes: the handlers of the Open Inference Protocol, with its binary tensor extension."""

from collections.abc import Callable

from service.inference.inference_service import InferenceService
from service.inference.request_context import RequestContext
from service.operations.tracing import Tracer
from service.protocols import BadRequest, oip, oip_binary
from service.protocols.json_text import parse_json
from service.web import pages
from service.web.cascade_header import stage_headers
from service.web.http import Call, Reply, json_reply
from service.web.route import no_route

HEADER_LENGTH = b"inference-header-content-length"
PREFIX = "/v2/models/"
EXTENSIONS = ["binary_tensor_data", "classification"]


class OipRoutes:
    """Handlers of /v2 and what is below it."""

    def __init__(
        self, inference: InferenceService, context: Callable[[Call], RequestContext], tracer: Tracer | None
    ) -> None:
        self._inference, self._context, self._tracer = inference, context, tracer
        self._max_bytes = inference.settings.max_body_bytes

    async def server(self, _: Call) -> Reply:
        """Answer GET /v2."""
        return json_reply({"name": "prunella", "version": pages.version(), "extensions": EXTENSIONS})

    async def model(self, call: Call) -> Reply:
        """Answer GET /v2/models/{name}[/versions/{version}][/ready]."""
        engine = self._inference.model_slots.current
        name = self._inference.name(engine)
        if self._check_model(call, "/ready", "") == "/ready":
            ready = not self._inference.draining and not self._inference.trouble()
            return json_reply({"ready": ready, "name": name}, 200 if ready else 503)
        return json_reply(oip.metadata(engine.bundle.task, name, engine.bundle.id))

    async def infer(self, call: Call) -> Reply:
        """Answer POST /v2/models/{name}[/versions/{version}]/infer."""
        self._check_model(call, "/infer")
        context = self._context(call)
        request = oip.read(await self._document(call))
        answer = await self._inference.answer(request, context)
        if self._tracer is not None:
            self._tracer.span("oip", answer, call.header(b"traceparent"))
        document = oip.write(answer, request)
        headers = stage_headers(answer, request)
        if not oip.wants_binary(request):
            return json_reply(document, 200, headers)
        body, length = oip_binary.split_outputs(document, oip.is_binary(request))
        if length is None:
            return Reply(body, 200, headers)
        return Reply(body, 200, [(HEADER_LENGTH, b"%d" % length), *headers], b"application/octet-stream")

    async def _document(self, call: Call) -> object:
        """Return the JSON of a request. Triton's clients send no Content-Type; the body is JSON then."""
        length = call.header(HEADER_LENGTH)
        if length is None:
            call.check_json(may_be_missing=True)
            return parse_json(await call.body(self._max_bytes))
        body = await call.body(self._max_bytes)
        if not length.isdigit() or int(length[:20]) > len(body):
            raise BadRequest(400, "Inference-Header-Content-Length is not a length inside the body")
        return oip_binary.join_inputs(parse_json(body[: int(length)]), body[int(length) :])

    def _check_model(self, call: Call, *endings: str) -> str:
        """Return what follows /v2/models/{name}[/versions/{version}] in the path.

        Raises:
            BadRequest: 404, the model is not the one that is served, or what follows is not among `endings`.
        """
        engine = self._inference.model_slots.current
        version, served = engine.bundle.id, self._inference.name(engine)
        rest = call.path.removeprefix(PREFIX)
        for name in (f"{served}/versions/{version}", served):
            if rest == name or rest.startswith(name + "/"):
                if (ending := rest.removeprefix(name)) in endings:
                    return ending
                raise no_route()
        raise BadRequest(404, f"no such model: this server has {served}, version {version}", "NotFound")
