"""Tracer: a span for each answered request, sent over OTLP when an endpoint is set; nothing is loaded otherwise."""

import os
import time
from typing import Any

from models.errors import InputError
from service.dialects import Answer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracer:
    """Records spans when requests have been answered; a background thread sends them."""

    def __init__(self) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError:
            raise InputError(
                f"{' or '.join(ENDPOINTS)} is set and the exporter is not installed: "
                "pip install -e '.[otel]', or unset it"
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
        """Return a tracer when an endpoint is set."""
        return cls() if any(os.environ.get(name) for name in ENDPOINTS) else None

    def span(self, dialect: str, answer: Answer, parent: bytes | None) -> None:
        """Record an answered request, as a child of the client's `traceparent` where there is one."""
        now = time.time_ns()
        context: Any = self._extract({"traceparent": parent.decode("latin-1")}) if parent else None
        begun = now - int(answer.times_ms["total"] * 1e6)
        told = {f"prunella.{name}_ms": ms for name, ms in answer.times_ms.items()}
        told |= {"prunella.model": answer.model, "prunella.tokens": answer.tokens}  # type: ignore[dict-item]
        name = f"classify {dialect.rsplit('.', 1)[-1]}"
        self._tracer.start_span(name, context=context, start_time=begun, attributes=told).end(now)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
