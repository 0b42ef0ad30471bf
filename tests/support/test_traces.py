"""Spans: one trace a reply, by the conventions for generative AI, and no words in it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from staffstream.errors import SetupError
from staffstream.support import traces
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S, Reply, http_error
from tests.tools.server import Api, serve_here, start_server

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
WORDS = "canary-5d1e"


class Recorder:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    async def one(self, name: str) -> ReadableSpan:
        """The one span of this name, once it has ended."""
        async with asyncio.timeout(DEADLINE_S):
            while not (found := self.named(name)):
                await asyncio.sleep(0.01)
        assert len(found) == 1
        return found[0]

    def text(self) -> str:
        return "".join(span.to_json() for span in self._exporter.get_finished_spans())


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """Spans go to memory. Not by the global provider, which can be set once a process only."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(traces, "_tracer", provider.get_tracer("staffstream"))
    monkeypatch.setattr(traces.trace, "get_tracer_provider", lambda: provider)
    yield Recorder(exporter)
    provider.shutdown()


@pytest.fixture
async def api(spans: Recorder, db: Path, provider: ScriptedProvider) -> AsyncIterator[Api]:
    async with serve_here(db, provider, upstream_retries=0) as api:
        yield api


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


async def test_a_reply_is_one_trace(api: Api, provider: ScriptedProvider, spans: Recorder) -> None:
    """Within the caller's: the request, the reply, its building from each source, Claude, and the commit."""
    ada = await api.make_staff()
    api.http.headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
    received = await api.ask(ada, "hello")
    request = await spans.one("POST /api/v1/staff/{staff_id}/messages/stream")
    reply = await spans.one("reply")
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{parent_of(request):016x}" == PARENT
    assert request.kind is SpanKind.SERVER
    assert request.attributes["http.response.status_code"] == 200
    assert parent_of(reply) == request.context.span_id
    assert reply.attributes["staffstream.run.id"] == received.run_id
    assert [event.name for event in reply.events] == ["first_token"]
    build, chat, commit = [await spans.one(name) for name in ("build", "chat claude-sonnet-5-5", "commit")]
    assert {parent_of(span) for span in (build, chat, commit)} == {reply.context.span_id}
    for source in ("summary", "turns", "memories", "graph"):
        part = await spans.one(source)
        assert parent_of(part) == build.context.span_id
        assert build.start_time <= part.start_time <= part.end_time <= build.end_time
    assert build.end_time <= chat.start_time <= chat.end_time <= commit.end_time <= reply.end_time


async def test_the_request_to_claude_follows_the_conventions(
    api: Api, provider: ScriptedProvider, spans: Recorder
) -> None:
    """https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/; input_tokens holds the cached ones."""
    usage = {
        "input_tokens": 7, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100, "output_tokens": 3,
    }  # fmt: skip
    provider.script(Reply(["one"], usage=usage, model="claude-sonnet-5-5-20261001"))
    await api.ask(await api.make_staff(max_output_tokens=99), "hello")
    chat = await spans.one("chat claude-sonnet-5-5")
    assert chat.kind is SpanKind.CLIENT
    assert chat.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-sonnet-5-5",
        "gen_ai.request.max_tokens": 99,
        "server.address": "127.0.0.1",
        "gen_ai.response.model": "claude-sonnet-5-5-20261001",
        "gen_ai.response.finish_reasons": ("end_turn",),
        "gen_ai.usage.input_tokens": 127,
        "gen_ai.usage.cache_creation.input_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 100,
        "gen_ai.usage.output_tokens": 3,
    }
    assert (await spans.one("reply")).attributes["gen_ai.conversation.id"]


async def test_a_failure_is_marked_by_its_code(api: Api, provider: ScriptedProvider, spans: Recorder) -> None:
    """On the request to Claude, on the reply and on the request; without the exception, which could quote a message."""
    provider.script(http_error(400, message=WORDS))
    await api.ask(await api.make_staff(), "hello")
    chat, reply = await spans.one("chat claude-sonnet-5-5"), await spans.one("reply")
    request = await spans.one("POST /api/v1/staff/{staff_id}/messages/stream")
    for span in (chat, reply):
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "upstream_refused"
    assert request.attributes["http.response.status_code"] == 502
    assert request.status.status_code is StatusCode.ERROR


async def test_a_path_that_leads_nowhere_is_no_route(api: Api, spans: Recorder) -> None:
    """The conventions want the method alone then: anybody's paths would be as many names."""
    await api.http.get(f"{api.url}/nothing/at/all")
    request = await spans.one("GET")
    assert "http.route" not in request.attributes
    assert request.attributes["http.response.status_code"] == 404


async def test_a_reply_by_the_asynchronous_door_is_a_trace_too(api: Api, spans: Recorder) -> None:
    """Of its own, since the request was over before it began."""
    ada = await api.make_staff()
    accepted = await api.send(ada, "hello")
    await api.ended_run(ada, accepted["run_id"])
    reply = await spans.one("reply")
    assert (await spans.one("chat claude-sonnet-5-5")).context.trace_id == reply.context.trace_id


async def test_background_calls_are_traced(spans: Recorder, db: Path, provider: ScriptedProvider) -> None:
    """The background model's requests, by the same conventions."""
    async with serve_here(db, provider, extract_every_messages=2) as api:
        await api.ask(await api.make_staff(), "I live in Bergen.")
        chat = await spans.one("chat claude-haiku-5-5")
    assert chat.attributes["gen_ai.usage.output_tokens"] > 0


async def test_spans_hold_nobodys_words(api: Api, provider: ScriptedProvider, spans: Recorder) -> None:
    """Whatever was asked, said or recalled."""
    ada = await api.make_staff(persona=WORDS)
    await api.post(f"/staff/{ada}/memories", {"text": f"Kim likes {WORDS}."}, 201)
    provider.script(Reply([WORDS]))
    await api.ask(ada, f"What about {WORDS}?")
    await spans.one("commit")
    assert WORDS not in spans.text()


async def test_an_app_that_traces_requests_itself_is_not_doubled(api: Api, spans: Recorder) -> None:
    """Where a span is current, the host has begun it: the reply hangs on that."""
    ada = await api.make_staff()
    middleware = api.app.middleware_stack

    async def host(scope, receive, send):  # type: ignore[no-untyped-def]
        with traces.trace_work("host"):
            await middleware(scope, receive, send)

    api.app.middleware_stack = host
    await api.ask(ada, "hello")
    reply = await spans.one("reply")
    assert parent_of(reply) == (await spans.one("host")).context.span_id
    assert spans.named("POST /api/v1/staff/{staff_id}/messages/stream") == []


async def test_the_server_sends_spans_to_a_collector(db: Path, provider: ScriptedProvider) -> None:
    """When the standard variable names one, by OTLP over HTTP; all of them before it exits."""
    spans_received: list[bytes] = []

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(
            next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split()[1]
        )
        spans_received.append(head + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(collect, "127.0.0.1", 0) as collector:
        port = collector.sockets[0].getsockname()[1]
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        }
        async with start_server(db, provider, variables=variables) as server:
            await server.api.ask(await server.api.make_staff(), WORDS)
            assert await server.stop() == 0
    sent = b"".join(spans_received)
    assert b"POST /v1/traces" in sent
    for name in (b"chat claude-sonnet-5-5", b"commit", b"staffstream"):
        assert name in sent
    assert WORDS.encode() not in sent


def test_a_missing_exporter_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SetupError, match=r"staffstream\[otel\]"), traces.export_traces():
        pass
