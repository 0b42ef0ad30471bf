"""Spans by the OpenTelemetry API, for whoever has configured a provider; without one they cost almost nothing.

A reply is one trace: the request, `reply` within it, and there `build` with a span a source, `chat MODEL` by the
conventions for generative AI, and `commit`. No span holds text that a user or a model wrote. The SDK's own spans are
off: they cannot see the usage of a stream whose bytes we read ourselves.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from starlette.types import Scope

from staffstream.domain import parse_time
from staffstream.errors import SetupError
from staffstream.support.timers import Stage

_tracer = trace.get_tracer("staffstream")


@contextlib.contextmanager
def trace_work(
    name: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    context: Context | None = None,
) -> Iterator[Span]:
    """A span around the block. Of an exception it holds the code alone: its text may quote a message."""
    with _tracer.start_as_current_span(
        name, context, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except Exception as error:
            mark_failed(span, getattr(error, "code", type(error).__name__))
            raise


def mark_failed(span: Span, code: str) -> None:
    """Give the span the status of an error."""
    span.set_status(Status(StatusCode.ERROR))
    span.set_attribute("error.type", code)


def add_stages(stages: Iterable[Stage]) -> None:
    """Spans, within the current one, for work that was measured in another thread."""
    if trace.get_current_span().is_recording():
        for stage in stages:
            _tracer.start_span(stage.name, start_time=stage.start_ns).end(stage.end_ns)


def add_event(name: str, at: str | None) -> None:
    """Something that happened within the current span at a moment; nothing if it did not happen."""
    if at is not None:
        trace.get_current_span().add_event(name, timestamp=round(parse_time(at).timestamp() * 1e9))


@contextlib.contextmanager
def trace_chat(model: str, max_tokens: int, server: str) -> Iterator[Span]:
    """A span around one request to Claude."""
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": max_tokens,
        "server.address": server,
    }
    with trace_work(f"chat {model}", attributes, kind=SpanKind.CLIENT) as span:
        yield span


def note_answer(span: Span, model: str, stop_reason: str | None, usage: Mapping[str, int]) -> None:
    """What Claude said about its answer. By the conventions input_tokens holds the cached ones too."""
    written = usage.get("cache_creation_input_tokens", 0)
    read = usage.get("cache_read_input_tokens", 0)
    span.set_attributes(
        {
            "gen_ai.response.model": model,
            "gen_ai.response.finish_reasons": [stop_reason or "unknown"],
            "gen_ai.usage.input_tokens": usage.get("input_tokens", 0) + written + read,
            "gen_ai.usage.cache_creation.input_tokens": written,
            "gen_ai.usage.cache_read.input_tokens": read,
            "gen_ai.usage.output_tokens": usage.get("output_tokens", 0),
        }
    )


@contextlib.contextmanager
def trace_request(scope: Scope) -> Iterator[Span]:
    """A span around one HTTP request, within the trace that its headers name; none of its own if the host app has
    begun one.
    """
    if trace.get_current_span().get_span_context().is_valid or not _has_provider():
        yield trace.INVALID_SPAN
        return
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    attributes = {"http.request.method": scope["method"], "url.scheme": scope["scheme"]}
    parent = propagate.extract(headers)
    with trace_work(scope["method"], attributes, kind=SpanKind.SERVER, context=parent) as span:
        yield span


def name_request(span: Span, method: str, route: str, status: int) -> None:
    """What is known of a request once it has been answered. `route` is the path with its parameters' names, or empty
    when none took it.
    """
    span.set_attribute("http.response.status_code", status)
    if route:
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
    if status >= 500:
        mark_failed(span, str(status))


def _has_provider() -> bool:
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@contextlib.contextmanager
def export_traces() -> Iterator[None]:
    """Send spans to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names, within the block; without the variable do
    nothing. For the server alone: an app that embeds us configures OpenTelemetry itself. Raises SetupError.
    """
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not any(os.environ.get(name) for name in names):
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SetupError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but the exporter is missing: pip install 'staffstream[otel]'"
        ) from error
    service = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "staffstream")}
    provider = TracerProvider(resource=Resource.create(service))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
