"""ClassifyRoutes: the handlers of requests that classify texts, whatever protocol they are in."""

import time

from service.inference.inference_service import InferenceService
from service.inference.request_context import RequestContext
from service.operations.tracing import Tracer
from service.protocols import BadRequest, csv_text
from service.web import cascade_header, dialects
from service.web.cascade_header import asks_for_student, stage_headers
from service.web.dialects import Choose, only
from service.web.http import Call, Reply, json_reply
from service.web.route import Handler


class ClassifyRoutes:
    """Handlers that read texts in a protocol, let the inference service answer them, and write the answer."""

    def __init__(self, inference: InferenceService, tracer: Tracer | None = None) -> None:
        self._inference, self._tracer = inference, tracer
        self._default_seconds = inference.settings.request_timeout_ms / 1e3

    def handler(self, choose: Choose, accepts_csv: bool = False) -> Handler:
        """Return the handler that classifies texts, in the protocol that `choose` returns for a request."""

        async def handle(call: Call) -> Reply:
            arrived = time.perf_counter()
            if accepts_csv and call.content_type() == b"text/csv":
                document: object = csv_text.document(await call.body(self._inference.settings.max_body_bytes))
            else:
                document = await call.document(self._inference.settings.max_body_bytes)
            dialect = call.dialect = choose(document)
            if dialect is dialects.HF_BY_CLIENT:
                dialect = dialects.hf_for_client(call.header(b"user-agent"))
            context = self.context(call, arrived)
            request = dialect.read(document)
            answer = await self._inference.answer(request, context)
            if self._tracer is not None:
                self._tracer.span(dialect.label, answer, call.header(b"traceparent"))
            headers = dialect.headers(answer) if dialect.headers is not None else None
            if answer.stages is not None:
                headers = [*(headers or []), *stage_headers(answer, request)]
            if answer.windows is not None and dialect is not dialects.NATIVE:
                most = max((count for count in answer.windows if count is not None), default=1)
                headers = [*(headers or []), (b"x-windows", b"%d" % most)]
            return json_reply(dialect.write(answer, request), 200, headers)

        return handle

    def instances_or(self, handler: Handler) -> Handler:
        """Return the handler that takes Vertex AI's requests, and leaves the others to `handler`."""
        of_vertex = self.handler(only(dialects.VERTEX))

        async def handle(call: Call) -> Reply:
            document = await call.document(self._inference.settings.max_body_bytes)
            return await (of_vertex if dialects.is_of_vertex(document) else handler)(call)

        return handle

    def context(self, call: Call, arrived: float | None = None) -> RequestContext:
        """Return the deadline of a request that `arrived` then, by default now, and the state of its connection."""
        arrived = time.perf_counter() if arrived is None else arrived
        deadline = arrived + self._timeout_seconds(call)
        return RequestContext(
            arrived,
            deadline,
            call.is_gone(),
            call.is_alone(),
            lambda: asks_for_student(call.header(cascade_header.REQUEST)),
        )

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
