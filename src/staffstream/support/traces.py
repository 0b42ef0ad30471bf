"""Spans of the OpenTelemetry API. Without a configured tracer provider they cost almost nothing.

A reply is one trace: the request; in it `reply`; in that `build` with one span per source, `chat MODEL` (named by the
conventions for generative AI), and `commit`. No span holds text of a user or a model. The SDK's own spans are off: they
do not see the usage of a stream that we parse ourselves.
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
    """A span around the block. It records only the code of an exception: the text may quote a message."""
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
    """Add a span inside the current one for each stage that was measured in another thread."""
    if trace.get_current_span().is_recording():
        for stage in stages:
            _tracer.start_span(stage.name, start_time=stage.start_ns).end(stage.end_ns)


def add_event(name: str, at: str | None) -> None:
    """Add an event to the current span at the RFC 3339 time `at`; nothing if it is None."""
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
    """Set the attributes of Claude's answer. By the conventions, input_tokens includes the cached tokens."""
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
    """A span around one HTTP request, in the trace that its headers name. An invalid span if the host app has begun a
    span, or if no tracer provider is configured.
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
    """Set the name and status of a request's span after the response. `route` is the route's path with parameter names;
    empty when no route matched.
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
    """Within the block, send spans to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names; do nothing without the
    variable. For the server only: a host app configures OpenTelemetry itself. Raises SetupError when the exporter is
    not installed.
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
