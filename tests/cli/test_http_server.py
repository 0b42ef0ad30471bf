"""Connections as the server process accepts and ends them: none outlives its client, and none is held by one that takes
nothing. The checks of progress are made by the tests, so that no machine is too slow for them.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import httpx
import pytest
from starlette.types import Receive, Scope, Send

from staffstream.cli import http_server
from staffstream.cli.connections import CHECKS_UNTIL_STUCK
from staffstream.cli.http_server import HttpServer
from tests.tools.provider_script import DEADLINE_S
from tests.tools.server import start_server
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio

PIECE = 64 * 1024
PIECES = 400  # of a large body: more than the kernel's largest buffers hold
GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    """`/` is small, `/large` is large and at once, `/forever` ends with its client alone."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"x-version", scope["http_version"].encode())]}
    )
    if scope["path"] == "/large":
        await send({"type": "http.response.body", "body": b"x" * PIECE * PIECES})
    elif scope["path"] == "/forever":
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
    else:
        await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def _serve() -> AsyncIterator[tuple[HttpServer, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    async with HttpServer(_answer, listener, slow_reader_s=3600) as server:
        yield server, listener.getsockname()[1]


@contextlib.asynccontextmanager
async def _connect(port: int, sent: bytes) -> AsyncIterator[socket.socket]:
    """A client with a small window, which has sent something and reads nothing."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, sent)
        yield client


async def _read(client: socket.socket, size: int = 1 << 16) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.get_running_loop().sock_recv(client, size)


def _unsent_bytes(server: HttpServer) -> int:
    return sum(connection.writer.transport.get_write_buffer_size() for connection in server._connections)


async def _wait_until_still(look: Callable[[], int]) -> int:
    """A number above 0 that has not changed for a while."""
    seen = [-1]

    def is_still() -> bool:
        seen.append(look())
        return seen[-1] > 0 and len(seen) > 5 and len(set(seen[-5:])) == 1

    await until(is_still)
    return seen[-1]


# ── clients that take nothing ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_client_that_takes_nothing_is_aborted() -> None:
    """Whatever the response: its descriptor and its buffers are gone, the rest of the response is not sent."""
    async with _serve() as (server, port), _connect(port, GET % b"/large") as client:
        await _wait_until_still(lambda: _unsent_bytes(server))
        for _ in range(CHECKS_UNTIL_STUCK):
            server.check_progress()
            assert server._connections
        server.check_progress()
        await until(lambda: not server._tasks)
        received = 0
        with contextlib.suppress(ConnectionError):
            while data := await _read(client):
                received += len(data)
        assert received < PIECE * PIECES


async def test_a_client_that_takes_a_little_is_kept() -> None:
    """Any progress between two checks is enough, however long the whole takes."""
    async with _serve() as (server, port), _connect(port, GET % b"/large") as client:
        unsent = await _wait_until_still(lambda: _unsent_bytes(server))
        received = 0
        for _ in range(3 * CHECKS_UNTIL_STUCK):
            server.check_progress()
            while _unsent_bytes(server) == unsent:
                received += len(await _read(client))
                await asyncio.sleep(0)
            unsent = _unsent_bytes(server)
        assert server._connections
        while received < PIECE * PIECES:
            received += len(await _read(client))


async def test_a_client_that_takes_nothing_of_one_http2_stream_is_aborted() -> None:
    """Though its connection has other traffic: what waits for its window is memory too."""
    async with _serve() as (server, port):
        client = _Http2(INITIAL_WINDOW_SIZE=10)
        async with _connect(port, client.ask("/large")) as connection:
            (served,) = await until(lambda: server._connections)
            await until(lambda: getattr(served.protocol.protocol, "stream_buffers", None))
            await _wait_until_still(
                lambda: sum(len(b.buffer) for b in served.protocol.protocol.stream_buffers.values())
            )
            for _ in range(CHECKS_UNTIL_STUCK + 1):
                await asyncio.get_running_loop().sock_sendall(connection, client.ping())
                server.check_progress()
            await until(lambda: not server._tasks)


class _Http2:
    """Just enough of a client that speaks HTTP/2 from the start."""

    def __init__(self, **settings: int) -> None:
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._connection.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes[name]: value for name, value in settings.items()}
        )
        self._connection.initiate_connection()

    def ask(self, path: str) -> bytes:
        headers = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "x")]
        self._connection.send_headers(1, headers, end_stream=True)
        return bytes(self._connection.data_to_send())

    def ping(self) -> bytes:
        self._connection.ping(b"12345678")
        return bytes(self._connection.data_to_send())


# ── clients that have left ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [b"/", b"/forever"])
@pytest.mark.parametrize("half", [True, False], ids=["half-closed", "closed"])
async def test_a_client_that_left_keeps_no_descriptor(path: bytes, half: bool) -> None:
    """Hypercorn's own would be kept for 75 s, until its idle timer fires."""
    async with _serve() as (server, port), _connect(port, GET % path) as client:
        assert (await _read(client)).startswith(b"HTTP/1.1 200")
        client.shutdown(socket.SHUT_WR) if half else client.close()
        await until(lambda: not server._tasks)


async def test_a_client_that_sent_nothing_and_left_keeps_no_descriptor() -> None:
    """Nor one in the middle of its head."""
    async with _serve() as (server, port):
        for sent in (b"", b"GET / HT"):
            async with _connect(port, sent):
                await until(lambda: server._tasks)
            await until(lambda: not server._tasks)


# ── no descriptor left ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_connection_takes_the_place_of_the_longest_idle(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that are being answered stay; one line tells it, however often it happens."""
    monkeypatch.setattr(http_server, "_most_connections", lambda: 3)
    async with _serve() as (server, port), contextlib.AsyncExitStack() as stack:
        busy = await stack.enter_async_context(_connect(port, GET % b"/forever"))
        assert await _read(busy)
        idle = []
        for _ in range(5):
            idle.append(await stack.enter_async_context(_connect(port, GET % b"/")))
            assert await _read(idle[-1])
        for client in idle[:3]:
            await _wait_closed(client)
        await until(lambda: len(server._tasks) == 3)
        await asyncio.get_running_loop().sock_sendall(idle[-1], GET % b"/")
        assert await _read(idle[-1])
    assert [record.levelname for record in caplog.records if "no room" in record.message] == ["WARNING"]


async def _wait_closed(client: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        while await _read(client):
            pass


async def test_connections_wait_while_there_is_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Accepting goes on when there is one again, and asks the system not more often than now and then."""
    async with _serve() as (server, port):
        listener, refused = server._listener, 0

        class Exhausted:
            def fileno(self) -> int:
                return listener.fileno()

            def accept(self) -> Any:
                nonlocal refused
                refused += 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        server._listener = Exhausted()  # type: ignore[assignment]
        try:
            async with _connect(port, GET % b"/") as client:
                await until(lambda: refused)
                seen = refused
                for _ in range(100):
                    await asyncio.sleep(0)
                assert refused == seen
                server._listener = listener
                server._resume()
                assert await _read(client)
        finally:
            server._listener = listener
    assert "Too many open files" in caplog.text
    assert "LimitNOFILE" in caplog.text


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
async def test_a_process_with_few_descriptors_goes_on(db: Path) -> None:
    """More idle clients than it has descriptors: the next one is answered, and the log says what to raise."""
    import resource

    async with start_server(db) as server, contextlib.AsyncExitStack() as stack:
        pid, port = server.process.pid, httpx.URL(server.url).port
        assert port
        limit = len(os.listdir(f"/proc/{pid}/fd")) + 30
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        for _ in range(2 * limit):
            client = await stack.enter_async_context(_connect(port, GET % b"/healthz"))
            assert (await _read(client)).startswith(b"HTTP/1.1 200")
        assert (await server.api.http.get(f"{server.url}/healthz")).status_code == 200
        assert server.log.count("no room for another connection") == 1


# ── what a client may speak ──────────────────────────────────────────────────────────────────────────────────────────


async def test_nobody_is_upgraded_to_http2() -> None:
    """A proxy that lets `Upgrade: h2c` through would be blind to all that follows (its rules for paths among it)."""
    upgrade = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n"
    )
    async with _serve() as (_, port), _connect(port, upgrade) as client:
        answer = await _read(client)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"x-version: 1.1" in answer


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


MALFORMED = {
    "a path outside ASCII": _frame(1, 5, 1, b"\x82\x86\x44\x02/\xff\x41\x01x"),
    "no method": _frame(1, 5, 1, b"\x84\x86\x41\x01x"),
    "a priority of itself": _frame(2, 0, 1, b"\0\0\0\x01\x10"),
    "a priority of an unknown stream": _frame(2, 0, 3, b"\0\0\0\x05\x10"),
    "data for no stream": _frame(0, 0, 7, b"x"),
    "an unknown method": _frame(1, 5, 1, b"\x42\x02\xff\xfe\x84\x86\x41\x01x"),
    "noise": b"\xff" * 200,
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_http2_is_one_line_at_most(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Anybody can send it, without a key: no traceback, and the next client is served."""
    caplog.set_level(logging.INFO)
    async with _serve() as (server, port):
        async with _connect(port, PREFACE + MALFORMED[name]) as client:
            await until(lambda: server._tasks)
            client.shutdown(socket.SHUT_WR)
            await until(lambda: not server._tasks)
        async with _connect(port, GET % b"/") as client:
            assert await _read(client)
    assert len(caplog.records) <= 1
    assert not any(record.exc_info for record in caplog.records)
