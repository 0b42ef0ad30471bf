"""Clients that take little or nothing: they cost nothing, hold nobody up, and are let go when they make no progress."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.types import Message

from staffstream.api.event_stream import EventStream
from staffstream.replies.run_log import Push
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S, Gate, Reply
from tests.tools.server import Api, serve_here, start_server

pytestmark = pytest.mark.anyio

BIG = "many words " * 9_000  # about 100 kB, more than fits between a small window and the server's own buffers at once
WORDS = 150  # times BIG: far more than the kernel's largest buffers hold


@contextlib.asynccontextmanager
async def _open_slowly(api: Api, path: str, window_bytes: int = 4096) -> AsyncIterator[socket.socket]:
    """A socket with a small window, on which a GET has been sent and nothing is read."""
    place = urlsplit(api.url)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, (place.hostname, place.port))
        await loop.sock_sendall(slow, f"GET /api/v1{path} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
        yield slow


async def _drain_socket(slow: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    loop, chunks = asyncio.get_running_loop(), []
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionError):
            while chunk := await loop.sock_recv(slow, 1 << 16):
                chunks.append(chunk)
    return b"".join(chunks)


async def _wait_for_readers(api: Api, run_id: str, count: int) -> None:
    log = api.app.state.services.pipeline.active_runs.by_id[run_id].log
    async with asyncio.timeout(DEADLINE_S):
        while log.subscriber_count != count:
            await asyncio.sleep(0.005)


async def test_a_client_that_takes_nothing_is_let_go(db: Path, provider: ScriptedProvider) -> None:
    """After slow_reader_s it is hung up on, with no end that it could take for one; the run and the others go on."""
    gate = provider.hold([BIG] * WORDS)
    async with serve_here(db, provider, slow_reader_s=2) as api:
        ada = await api.make_staff(memory_enabled=False)
        async with api.stream(ada, "Hi") as fast:
            path = f"/staff/{ada}/runs/{fast.run_id}/stream"
            async with _open_slowly(api, path) as slow:
                await _wait_for_readers(api, fast.run_id, 2)
                gate.release(WORDS)
                await fast.until(BIG * WORDS)
                await _wait_for_readers(api, fast.run_id, 1)
                gate.open()
                assert (await fast.rest()).end["type"] == "done"
                assert b'"type":"done"' not in await _drain_socket(slow)
        assert (await api.run(ada, fast.run_id))["state"] == "done"


async def test_a_client_that_does_not_take_the_end_is_let_go() -> None:
    """The few bytes that end a body can be those that no longer fit."""

    async def follow(*, push: Push | None) -> AsyncGenerator[bytes, None]:
        yield b"data: {}\n\n"

    async def wait(*_: object) -> Any:
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            await wait()

    async with asyncio.timeout(DEADLINE_S):
        await EventStream(follow, slow_reader_s=0.05)({"type": "http", "method": "GET"}, wait, send)


async def test_a_client_that_takes_little_is_not_let_go() -> None:
    """One that makes progress gets a long text to its end, though it takes many times slow_reader_s over it."""
    slow_reader_s, sent = 1.0, b""

    async def follow(*, push: Push | None) -> AsyncGenerator[bytes, None]:
        yield b"x" * 16 * 1024 * 20

    async def wait(*_: object) -> Any:
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        nonlocal sent
        await asyncio.sleep(slow_reader_s / 7)  # a busy machine may add as much again, several times
        sent += message.get("body", b"")

    async with asyncio.timeout(DEADLINE_S):
        await EventStream(follow, slow_reader_s=slow_reader_s)({"type": "http", "method": "GET"}, wait, send)
    assert len(sent) == 16 * 1024 * 20


async def test_slow_clients_cost_no_memory(db: Path, provider: ScriptedProvider) -> None:
    """Forty clients that take nothing of a long reply need no copies of it: about what one reply needs without them."""
    gate = Gate()
    provider.script(Reply([BIG] * WORDS), Reply([BIG] * WORDS, gate=gate))
    async with start_server(db, provider) as server:
        ada = await server.api.make_staff(memory_enabled=False)
        await server.api.ask(ada, "Hi")
        async with contextlib.AsyncExitStack() as stack:
            fast = await stack.enter_async_context(server.api.stream(ada, "Hi"))
            path = f"/staff/{ada}/runs/{fast.run_id}/stream"
            for _ in range(40):
                await stack.enter_async_context(_open_slowly(server.api, path))
            before = _measure_rss(server.process.pid)
            gate.open()
            received = await fast.rest()
            grown = _measure_rss(server.process.pid) - before
    assert len(received.text) == len(BIG) * WORDS
    assert grown < 20 * len(received.text), f"grown by {grown} bytes for {len(received.text)} characters"


def _measure_rss(pid: int) -> int:
    """Bytes of memory that a process has in use."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")
