"""Tracer: sends a span for each answered request over OTLP. OpenTelemetry is loaded only if an endpoint is set."""

import os
import time
from typing import Any

from models.errors import InputError
from service.protocols import Answer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracer:
    """Records a span for each answered request; a background thread sends the spans."""

    def __init__(self) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError:
            raise InputError(
                f"{' or '.join(ENDPOINTS)} is set but the exporter is not installed: "
                "pip install 'prunella[otel]', or unset it"
            ) from None
        from opentelemetry.propagate import extract
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        name = os.environ.get("OTEL_SERVICE_NAME", "prunella")
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer, self._extract = self._provider.get_tracer("prunella"), extract

    @classmethod
    def from_environment(cls) -> "Tracer | None":
        """Return a tracer if an endpoint is set, otherwise None."""
        return cls() if any(os.environ.get(name) for name in ENDPOINTS) else None

    def span(self, protocol: str, answer: Answer, parent: bytes | None) -> None:
        """Record an answered request as a span; `parent` is the client's `traceparent` header, or None."""
        now = time.time_ns()
        context: Any = self._extract({"traceparent": parent.decode("latin-1")}) if parent else None
        started = now - int(answer.times_ms["total"] * 1e6)
        attributes = {f"prunella.{name}_ms": ms for name, ms in answer.times_ms.items()}
        attributes |= {"prunella.model": answer.model, "prunella.tokens": answer.tokens}  # type: ignore[dict-item]
        name = f"classify {protocol.rsplit('.', 1)[-1]}"
        self._tracer.start_span(name, context=context, start_time=started, attributes=attributes).end(now)

    def close(self) -> None:
        """Send the remaining spans and stop."""
        self._provider.shutdown()
