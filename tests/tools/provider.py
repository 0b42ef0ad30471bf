"""The scripted provider: a server on a real loopback socket that the real SDK talks to. It writes HTTP
by hand, because a server library would repair what a test wants broken: each fault is the exact bytes on the
wire. It refuses what the Messages API refuses, so that a prompt that passes here has a chance there.

    async with ScriptedProvider() as provider:          # provider.url goes into ANTHROPIC_BASE_URL
        provider.script(Reply(["Hel", "lo"]), http_error(529))  # one a request, in order; then provider.default
        gate = provider.hold(["one", " two"])           # sends tokens when told to
        request = await provider.arrived(3)             # the third request is here
        gate.release(1)                                 # sends " one"; gate.open() sends all the rest
        await provider.left(3)                          # its client has closed the connection

What it says is written with `tests/tools/provider_script.py`. Run as a program (`python -m tests.tools.provider`) it
feeds benches and other processes.
"""

import argparse
import asyncio
import json
import signal
import socket
import struct
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

import uvloop

from staffstream.models.offline.wire import PING, encode_event
from tests.tools.provider_script import (
    DEADLINE_S,
    PIECES,
    Close,
    Counter,
    Gate,
    Head,
    Hold,
    Raw,
    Reply,
    Request,
    Script,
    Stall,
    Step,
    Wait,
    answer_as_stand_in,
    http_error,
)
from tests.tools.refusals import refuse


class ScriptedProvider:
    """The server. Chats take the scripts given to `script` in order, then `default`; requests for structured
    output take those given to `script_structured`, then `structured`, which is what the stand-in would
    answer.
    """

    def __init__(
        self, default: Script | None = None, *, structured: Script = answer_as_stand_in, port: int = 0
    ) -> None:
        self.default: Script = default or Reply()
        self.structured = structured
        self.requests: list[Request] = []
        self.url = ""
        self._port = port
        self._chat_scripts: deque[Script] = deque()
        self._structured_scripts: deque[Script] = deque()
        self._arrivals = Counter()
        self._connections: set[_Connection] = set()
        self._connection_count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "ScriptedProvider":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self._port, backlog=4096)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hang up on everyone. A script that failed fails the test here."""
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        for result in results:
            if isinstance(result, Exception):
                raise result

    def script(self, *scripts: Script) -> None:
        """Answer the next chats so, one each."""
        self._chat_scripts += scripts

    def script_structured(self, *scripts: Script) -> None:
        """Answer the next requests for structured output so, one each."""
        self._structured_scripts += scripts

    def hold(self, pieces: Iterable[str] = PIECES, **options: Any) -> Gate:
        """Script a reply that waits at the returned gate before each piece, and before its end."""
        gate = Gate()
        self.script(Reply(pieces, gate=gate, **options))
        return gate

    async def arrived(self, n: int = 1) -> Request:
        """The n-th request, counted from 1, once it is here."""
        async with asyncio.timeout(DEADLINE_S):
            await self._arrivals.reach(n)
        return self.requests[n - 1]

    async def left(self, n: int = 1) -> Request:
        """The n-th request, once its client has hung up before the end of its answer."""
        request = await self.arrived(n)
        async with asyncio.timeout(DEADLINE_S):
            await request.left.wait()
        return request

    def send_unasked(self, data: bytes) -> None:
        """Write to every open connection, whatever has been asked on it."""
        for connection in self._connections:
            connection._transport.write(data)

    @property
    def refusals(self) -> list[tuple[int, str, str]]:
        """What was refused and why."""
        return [request.refusal for request in self.requests if request.refusal]

    @property
    def chats(self) -> list[Request]:
        """The requests that were taken and asked for no structured output."""
        return [request for request in self.requests if not request.refusal and not request.schema]

    def _receive(self, request: Request) -> Iterable[Step]:
        """Record a request, and choose its answer."""
        request.number = len(self.requests) + 1
        self.requests.append(request)
        request.refusal = _refuse_request(request)
        self._arrivals.add()
        if request.refusal:
            status, error_type, message = request.refusal
            return http_error(status, error_type, message=message)(request)
        if request.schema:
            script = self._structured_scripts.popleft() if self._structured_scripts else self.structured
        else:
            script = self._chat_scripts.popleft() if self._chat_scripts else self.default
        return script(request)


def _refuse_request(request: Request) -> tuple[int, str, str] | None:
    if request.path.partition("?")[0] != "/v1/messages" or request.method != "POST":
        return 404, "not_found_error", "Not found"
    if not request.headers.get("x-api-key") and not request.headers.get("authorization"):
        return 401, "authentication_error", "x-api-key header is required"
    if "anthropic-version" not in request.headers:
        return 400, "invalid_request_error", "anthropic-version: header is required"
    try:
        request.body = json.loads(request.raw)
    except ValueError:
        return 400, "invalid_request_error", "The request body is not valid JSON"
    return refuse(request.body)


class _Connection(asyncio.Protocol):
    """One client's connection: reads requests one by one, and plays the script of each."""

    def __init__(self, provider: ScriptedProvider) -> None:
        self._far = provider
        self._buffer = b""
        self._request: Request | None = None
        self._chunked = False
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._far._connections.add(self)
        self._far._connection_count += 1
        self._number = self._far._connection_count

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._start_next()

    def connection_lost(self, error: Exception | None) -> None:
        self._far._connections.discard(self)
        self._writable.set()
        if self._request and not self._request.answered.is_set():
            self._request.left.set()
        if self._task:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def abort(self, *, reset: bool = False) -> None:
        """Close at once, with what is not yet sent dropped."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()

    def _start_next(self) -> None:
        if self._task or self._transport.is_closing():
            return
        parsed = _parse_request(self._buffer)
        if parsed is None:
            return
        self._request, self._buffer = parsed
        self._request.connection = self._number
        self._task = asyncio.get_running_loop().create_task(self._answer(self._request))
        self._far._tasks.add(self._task)
        self._task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        """Tasks that failed are kept, for the provider to raise what they did."""
        if task.cancelled() or task.exception() is None:
            self._far._tasks.discard(task)
        elif not self._transport.is_closing():
            self._transport.abort()

    async def _answer(self, request: Request) -> None:
        self._chunked = False
        for step in self._far._receive(request):
            if isinstance(step, Close):
                request.answered.set()
                self.abort(reset=True) if step.reset else self._transport.close()
                return
            await self._take(step)
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        request.answered.set()
        self._task = None
        self._start_next()

    async def _take(self, step: Step) -> None:
        match step:
            case bytes():
                self._transport.write(b"%x\r\n%b\r\n" % (len(step), step))
                await self._writable.wait()
            case Head():
                self._chunked = "content-length" not in step.headers
                self._transport.write(_encode_head(step, self._chunked))
            case Raw(data):
                self._transport.write(data)
                await self._writable.wait()
            case Wait(seconds):
                await asyncio.sleep(seconds)
            case Hold(gate):
                await gate.pass_through()
            case Stall(ping_every_s):
                await self._stall(ping_every_s)

    async def _stall(self, ping_every_s: float | None) -> None:
        while True:
            await asyncio.sleep(3600 if ping_every_s is None else ping_every_s)
            await self._take(encode_event(PING))


def _encode_head(head: Head, chunked: bool) -> bytes:
    headers = {"request-id": "req_far_end", **head.headers}
    if chunked:
        headers["transfer-encoding"] = "chunked"
    lines = [f"HTTP/1.1 {head.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _parse_request(data: bytes) -> tuple[Request, bytes] | None:
    """The first whole request in `data`, and what follows it; None if there is not yet one."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _parse_chunks(rest)
    else:
        length = int(headers.get("content-length", "0"))
        body = (rest[:length], rest[length:]) if len(rest) >= length else None
    return None if body is None else (Request(0, method, path, headers, body[0]), body[1])


def _parse_chunks(data: bytes) -> tuple[bytes, bytes] | None:
    whole = b""
    while True:
        size, found, data = data.partition(b"\r\n")
        if not found or len(data) < int(size, 16) + 2:
            return None
        whole += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
        if int(size, 16) == 0:
            return whole, data


async def _serve(options: argparse.Namespace) -> None:
    reply = Reply(["word "] * options.tokens, delay_s=options.delay_s, stamp=options.stamp)
    async with ScriptedProvider(reply, port=options.port) as provider:
        print(provider.url, flush=True)
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()


def main() -> None:
    """Serve one reply to everyone, until SIGINT or SIGTERM; the first line printed is the URL."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=50, help="pieces of text in a reply")
    parser.add_argument("--delay-s", type=float, default=0.02, help="time before each piece")
    parser.add_argument("--stamp", action="store_true", help="each piece is the monotonic time in ns it was sent at")
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
