"""The server's own way of writing a streamed body: the same bytes as Hypercorn's, on the connections that allow it."""

import asyncio
import types
from collections.abc import Awaitable, Callable

import httpx
import pytest
from hypercorn.protocol.http_stream import HTTPStream
from starlette.types import ASGIApp, Receive, Scope, Send

from staffstream.api.event_stream import WRITER, BodyWriter, Write
from staffstream.cli import chunk_writer
from staffstream.cli.chunk_writer import offer_writer
from tests.tools.provider_script import DEADLINE_S
from tests.tools.server import serve_as_command, serve_asgi_here

pytestmark = pytest.mark.anyio

PIECES = [b"a", "Grüße 👩‍👩‍👧\u2028".encode(), b"0\r\n\r\n", b"", b"x" * 100_000, b"\n"]


def _stream(body: Callable[[Write, Receive], Awaitable[None]], *, offered: list[bool] | None = None) -> ASGIApp:
    """An app whose answers are streamed by `body` through the writer, or through `send` where none is offered."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return

        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        offer_writer(scope, send)
        writer: BodyWriter | None = scope["extensions"].get(WRITER)
        (offered if offered is not None else []).append(writer is not None)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await body(writer.write if writer else write, receive)
        await send({"type": "http.response.body", "body": b""})

    return app


async def _live(receive: Receive, send: Send) -> None:
    """An app's lifespan."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _write_all(write: Write, receive: Receive) -> None:
    for piece in PIECES:
        await write(piece)


async def test_every_piece_arrives_as_it_was_written() -> None:
    """Bytes that look like the body's end among them; and the connection serves the next request."""
    offered: list[bool] = []
    async with serve_asgi_here(_stream(_write_all, offered=offered)) as url, httpx.AsyncClient(base_url=url) as client:
        answers = [await client.get("/") for _ in range(2)]
        assert [answer.content for answer in answers] == [b"".join(PIECES)] * 2
        assert answers[0].headers["transfer-encoding"] == "chunked"
    assert offered == [True, True]


async def test_a_connection_that_knows_no_chunks_gets_none() -> None:
    """HTTP/1.0, nginx's default towards its upstreams: the body ends with the connection."""
    offered: list[bool] = []
    async with serve_asgi_here(_stream(_write_all, offered=offered)) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        writer.write(b"GET / HTTP/1.0\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            _, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    assert body == b"".join(PIECES)
    assert offered == [False]


async def test_another_servers_send_gets_no_writer() -> None:
    """A host's middleware, or another server."""

    async def send(message: object) -> None:
        pytest.fail("nothing is sent")

    scope: Scope = {"type": "http", "http_version": "1.1"}
    offer_writer(scope, send)
    assert scope == {"type": "http", "http_version": "1.1"}


async def test_a_slow_client_holds_the_writer() -> None:
    """It waits rather than keep in memory what the client does not take, and goes on when it does."""
    size, count, written = 50_000, 400, 0
    began = asyncio.Event()

    async def write_much(write: Write, receive: Receive) -> None:
        nonlocal written
        for _ in range(count):
            began.set()
            await write(b"x" * size)
            written += 1

    async with serve_asgi_here(_stream(write_much)) as url, httpx.AsyncClient(base_url=url) as client:
        async with client.stream("GET", "/") as answer:
            await began.wait()
            for _ in range(1000):  # turns of the loop, which a writer that never waits would need one of
                await asyncio.sleep(0)
            assert written < count
            async with asyncio.timeout(DEADLINE_S):
                assert len(await answer.aread()) == size * count
    assert written == count


async def test_what_is_written_to_a_client_that_left_is_dropped() -> None:
    """Its app hears of it, and no error is raised or logged however much is still written."""
    gone, over = asyncio.Event(), asyncio.Event()

    async def outlive(write: Write, receive: Receive) -> None:
        await write(b"first")
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()
        for _ in range(100):
            await write(b"x" * 50_000)
        over.set()

    async with serve_asgi_here(_stream(outlive)) as url, httpx.AsyncClient(base_url=url) as client:
        async with client.stream("GET", "/") as answer:
            assert await anext(answer.aiter_bytes()) == b"first"
        async with asyncio.timeout(DEADLINE_S):
            await gone.wait()
            await over.wait()


async def test_a_push_is_written_among_the_writes_and_refused_when_it_would_wait() -> None:
    """It arrives in order; one for a client that takes nothing writes nothing, and neither does one for nobody."""
    size, sent = 10_000, []
    full, gone, left = asyncio.Event(), asyncio.Event(), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        offer_writer(scope, send)
        writer: BodyWriter = scope["extensions"][WRITER]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await writer.write(b"first ")
        while writer.push(b"%010d" % len(sent) * (size // 10)):
            sent.append(size)
        full.set()
        await writer.write(b" last")
        while (await receive())["type"] != "http.disconnect":
            pass
        left.append(writer.push(b"x"))
        gone.set()

    async with serve_asgi_here(app) as url, httpx.AsyncClient(base_url=url) as client:
        async with client.stream("GET", "/") as answer, asyncio.timeout(DEADLINE_S):
            await full.wait()
            body = b""
            async for data in answer.aiter_bytes():
                body += data
                if body.endswith(b" last"):
                    break
        async with asyncio.timeout(DEADLINE_S):
            await gone.wait()
    assert body == b"first " + b"".join(b"%010d" % n * (size // 10) for n in range(len(sent))) + b" last"
    assert left == [False]


# ── another Hypercorn ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value"),
    [("_KINDS", None), ("_KINDS", (int, int, int)), ("h11", types.SimpleNamespace(Connection=int, SEND_BODY=None))],
)
async def test_another_hypercorn_sends_as_usual(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Modules, classes or attributes of other names: no writer is offered, and every piece arrives."""
    monkeypatch.setattr(chunk_writer, name, value)
    offered: list[bool] = []
    async with serve_asgi_here(_stream(_write_all, offered=offered)) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/")).content == b"".join(PIECES)
    assert offered == [False]


async def test_a_hypercorn_that_keeps_the_head_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases before 0.18 send the head with the first piece of the body: it must not come after a piece."""
    heads: dict[int, object] = {}
    app_send = HTTPStream.app_send

    async def keep_head(self: HTTPStream, message: dict[str, object]) -> None:
        if message is not None and message["type"] == "http.response.start":
            heads[id(self)] = message
            return
        if head := heads.pop(id(self), None):
            await app_send(self, head)  # type: ignore[arg-type]
        await app_send(self, message)  # type: ignore[arg-type]

    monkeypatch.setattr(HTTPStream, "app_send", keep_head)
    pushed: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        offer_writer(scope, send)
        writer: BodyWriter = scope["extensions"][WRITER]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        pushed.append(writer.push(b"too early"))
        await writer.write(b"first")
        pushed.append(writer.push(b" second"))
        await writer.write(b" third")
        await send({"type": "http.response.body", "body": b""})

    async with serve_asgi_here(app) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/")).content == b"first second third"
    assert pushed == [False, True]


@pytest.mark.parametrize("fast", [True, False])
async def test_the_server_offers_a_writer_unless_it_is_switched_off(fast: bool) -> None:
    """STAFFSTREAM_FAST_PATHS=off."""
    offered: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        offered.append(WRITER in scope["extensions"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serve_as_command(app, fast=fast) as url, httpx.AsyncClient(base_url=url) as client:
        await client.get("/")
    assert offered == [fast]
