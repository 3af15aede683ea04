"""Spans by OpenTelemetry, sent to a collector by OTLP over HTTP. The extra ``otel`` brings it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from stream_ft import __version__, tracing
from stream_ft.config import Settings
from stream_ft.errors import ConfigError
from stream_ft.tracing import Attributes, NoTraces, Traces

log = logging.getLogger("stream_ft.traces")

MOST_LINKS = 128
"""OpenTelemetry's own limit; the newest are kept."""


def open_traces(settings: Settings, role: str) -> Traces:
    """What the settings ask for.

    Raises:
        ConfigError: traces are wanted, and the extra is not installed.
    """
    if not settings.trace.endpoint:
        return NoTraces()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            "trace.endpoint is set, and OpenTelemetry is not installed.",
            "In the checkout: .venv/bin/pip install -e '.[otel]'",
        ) from error
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # a collector that is away is no news each second
    exporter = OTLPSpanExporter(endpoint=f"{settings.trace.endpoint.rstrip('/')}/v1/traces")
    return OtelTraces(BatchSpanProcessor(exporter), role=role, model=settings.model.name, share=settings.trace.share)


class OtelTraces:
    """A :class:`stream_ft.tracing.Traces` of OpenTelemetry's SDK.

    Args:
        processor: a span processor of the SDK.
        role: ``serve`` or ``learn``.
        model: name of the model.
        share: of the traces that begin here, those that are kept; one that began elsewhere is kept as it was there.
    """

    def __init__(self, processor: Any, *, role: str, model: str, share: float = 1.0) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        resource = Resource.create(
            {"service.name": f"stream_ft.{role}", "service.version": __version__, "stream_ft.model": model}
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)), resource=resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("stream_ft", __version__)
        self._closed = False

    def span(
        self,
        name: str,
        *,
        start: float,
        end: float,
        attributes: Attributes,
        parent: str = "",
        links: Sequence[str] = (),
    ) -> str:
        """See the port."""
        from opentelemetry.trace import Link, NonRecordingSpan, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        above = _context(parent)
        # A link to a span that nobody keeps leads nowhere.
        kept = [found for link in links if (found := _context(link)) is not None and found.trace_flags.sampled]
        span = self._tracer.start_span(
            name,
            context=None if above is None else set_span_in_context(NonRecordingSpan(above)),
            links=[Link(one) for one in kept[-MOST_LINKS:]],
            attributes={f"stream_ft.{key}": value for key, value in attributes.items()},
            start_time=_nanoseconds(start),
        )
        span.end(_nanoseconds(end))
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
        return carrier.get(tracing.HEADER, "")

    def close(self) -> None:
        """See the port."""
        if not self._closed:
            self._closed = True
            self._provider.shutdown()


def _context(traceparent: str) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    if not (found := tracing.checked(traceparent)):
        return None
    _, trace, span, flags = found.split("-")[:4]
    return SpanContext(
        trace_id=int(trace, 16), span_id=int(span, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
