"""The gRPC server of a worker: the Open Inference Protocol on a port of its own, in the event loop of the worker.

Requests are admitted, queued and answered by the same inference service as those over HTTP.
"""

import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from models.errors import InputError
from service.grpc import tensors
from service.grpc.messages import PACKAGE, message
from service.inference.inference_service import InferenceService
from service.inference.request_context import RequestContext
from service.operations.tracing import Tracer
from service.protocols import BadRequest, oip
from service.web import cascade_header, pages
from service.web.access import check_key

log = logging.getLogger("prunella")
NAME = f"{PACKAGE}.GRPCInferenceService"
OPEN = ("ServerLive", "ServerReady", "ServerMetadata")  # need no API key, as their routes over HTTP
RUNNING = 256  # requests that may be in the model, or about to be answered, beside those that wait
MOST_SECONDS = 3600.0  # of a deadline, as over HTTP
METADATA_BYTES = 65_536  # of a request, as its head over HTTP
STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
Call = Callable[[Any, "Context"], Awaitable[Any]]  # a handler: request and context to response


class Context:
    """The metadata of a request, under the names of the headers over HTTP, and its deadline."""

    def __init__(self, context: Any) -> None:
        self.grpc = context
        self._metadata = context.invocation_metadata() or ()

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a metadata key, or None; `name` is in lower case."""
        for key, value in self._metadata:
            if key == name.decode():
                return value if isinstance(value, bytes) else str(value).encode()
        return None


class GrpcServer:
    """Serves the methods of GRPCInferenceService.

    Args:
        inference: answers the requests.
        tracer: records a span for each; None: no spans are sent.
    """

    def __init__(self, inference: InferenceService, tracer: Tracer | None = None) -> None:
        self._inference, self._settings, self._tracer = inference, inference.settings, tracer
        self._server: Any = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which is a free one if `port` is 0."""
        limit = self._settings.max_body_bytes
        options = [
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_metadata_size", METADATA_BYTES),
            ("grpc.so_reuseport", 1),  # of several workers, and of an old and a new one while they are replaced
        ]
        most = self._settings.max_queue + RUNNING
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=most)
        methods: dict[str, Call] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        handlers = {name: self._handler(name, method) for name, method in methods.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
        address = f"[{host}]" if ":" in host else host
        port = int(self._server.add_insecure_port(f"{address}:{port}"))
        await self._server.start()
        log.info("ready for gRPC", extra={"port": port})
        return port

    async def stop(self, seconds: float) -> None:
        """Take no new requests, and end when those in progress are answered, or after so many seconds."""
        if self._server is not None:
            await self._server.stop(seconds)

    def _handler(self, name: str, method: Call) -> Any:
        """Return gRPC's handler of a method: with the key, the errors and the counts that all methods share."""
        kind = message(f"{name}Request")

        async def answer(messages: list[bytes], context: Context) -> Any:
            """Return the response, or the error, which must not keep what the request needed."""
            try:
                if name not in OPEN:
                    check_key(context, self._settings.api_key)
                return await method(_parsed(kind, messages.pop()), context)
            except BadRequest as problem:
                problem.__context__ = None
                return problem.with_traceback(None)
            except Exception:
                log.exception("gRPC %s failed", name)
                return BadRequest(500, "the server failed on this request; its log says why")

        async def handle(data: bytes, grpc_context: Any) -> Any:
            # gRPC keeps the frames of a request that is aborted until the garbage collector finds them, so this frame
            # has neither the message nor an error with the frames in which it was read
            arrived = time.perf_counter()
            messages = [data]
            del data
            status = 499  # until there is an answer or an error: the client has gone, or its deadline has passed
            try:
                response = await answer(messages, Context(grpc_context))
                status = response.status if isinstance(response, BadRequest) else 200
                if isinstance(response, BadRequest):
                    await _abort(grpc_context, response)
            finally:
                self._inference.telemetry.count("grpc", status)
                if self._settings.access_log:
                    milliseconds = round((time.perf_counter() - arrived) * 1e3, 3)
                    log.info("answered", extra={"dialect": "grpc", "code": status, "ms": milliseconds})
            return response

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=None,  # gRPC would answer a broken message with UNKNOWN, and log a traceback
            response_serializer=message(f"{name}Response").SerializeToString,
        )

    async def _live(self, _: Any, __: Context) -> Any:
        return message("ServerLiveResponse")(live=not self._inference.trouble())

    async def _ready(self, _: Any, __: Context) -> Any:
        return message("ServerReadyResponse")(ready=self._is_ready())

    async def _model_ready(self, request: Any, _: Context) -> Any:
        self._check_model(request.name, request.version)
        return message("ModelReadyResponse")(ready=self._is_ready())

    async def _server_metadata(self, _: Any, __: Context) -> Any:
        return message("ServerMetadataResponse")(
            name="prunella", version=pages.version(), extensions=["classification"]
        )

    async def _model_metadata(self, request: Any, _: Context) -> Any:
        self._check_model(request.name, request.version)
        engine = self._inference.model_slots.current
        return message("ModelMetadataResponse")(
            **oip.metadata(engine.bundle.task, self._inference.name(engine), engine.bundle.id)
        )

    async def _infer(self, request: Any, context: Context) -> Any:
        arrived = time.perf_counter()
        self._check_model(request.model_name, request.model_version)
        seconds = context.grpc.time_remaining()  # None: the client has set no deadline
        if seconds is None:
            seconds = self._settings.request_timeout_ms / 1e3
        times = RequestContext(
            arrived,
            arrived + min(seconds, MOST_SECONDS),
            context.grpc.cancelled,
            asks_for_student=lambda: cascade_header.asks_for_student(context.header(cascade_header.REQUEST)),
        )
        parsed = oip.read(tensors.read(request))
        answer = await self._inference.answer(parsed, times)
        if self._tracer is not None:
            self._tracer.span("grpc", answer, context.header(b"traceparent"))
        stage = cascade_header.stage_of(answer, parsed)
        if stage is not None:
            context.grpc.set_trailing_metadata(((cascade_header.ANSWER.decode(), stage),))
        return tensors.write(oip.write(answer, parsed), bool(request.raw_input_contents))

    def _is_ready(self) -> bool:
        return not self._inference.trouble() and not self._inference.draining

    def _check_model(self, name: str, version: str) -> None:
        """Check that a request names the served model; an empty version stands for the served one.

        Raises:
            BadRequest: 404, it names another one.
        """
        engine = self._inference.model_slots.current
        served = self._inference.name(engine)
        if name != served or version not in ("", engine.bundle.id):
            raise BadRequest(404, f"no such model: this server has {served}, version {engine.bundle.id}", "NotFound")


def _parsed(kind: Any, data: bytes) -> Any:
    """Return the message of a request.

    Raises:
        BadRequest: 400, the data is not a message of this kind, or has a string that is not UTF-8.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        raise BadRequest(400, f"the request is not a message of the kind {kind.DESCRIPTOR.name}") from None


async def _abort(context: Any, problem: BadRequest) -> NoReturn:
    """End a request with the status of an error; its trailing metadata says which text, and when to try again."""
    code = STATUS.get(problem.status, grpc.StatusCode.UNKNOWN)
    if problem.kind == "Timeout":
        code = grpc.StatusCode.DEADLINE_EXCEEDED
    details = []
    if problem.index is not None:
        details.append(("index", str(problem.index)))
    if problem.retry_after is not None:
        details.append(("retry-after-ms", str(max(1, round(problem.retry_after * 1e3)))))
    await context.abort(code, problem.message, tuple(details))
    raise AssertionError("abort raises")


def check_port(host: str, port: int) -> None:
    """Check that the port of the settings can be used; workers of the same server may share it.

    Raises:
        InputError: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            probe.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"port {port} of {host} cannot be used for gRPC ({error.strerror}): set another PRUNELLA_PORT_GRPC"
            ) from None
