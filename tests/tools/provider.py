"""The scripted provider: a server on a real loopback socket that the real SDK talks to. It writes HTTP
by hand, because a server library would repair what a test wants broken: each fault is the exact bytes on the
wire. It refuses what the Messages API refuses, so that a prompt that passes here has a chance there.

    async with ScriptedProvider() as provider:          # provider.url goes into ANTHROPIC_BASE_URL
        provider.script(Reply(["Hel", "lo"]), http_error(529))  # one a request, in order; then provider.default
        gate = provider.hold(["one", " two"])           # sends tokens when told to
        request = await provider.arrived(3)             # the third request is here
        gate.release(1)                                 # sends " one"; gate.open() sends all the rest
        await provider.left(3)                          # its client has closed the connection

A script is a function from the request to the steps of its answer; `tests/tools/provider_cases.py` has one for each
way in which a stream can go wrong. Run as a program (`python -m tests.tools.provider`) it feeds benches and other
processes.
"""

import argparse
import asyncio
import json
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

import uvloop

from staffstream.models.offline.answers import PromptCache, write_answer
from staffstream.models.offline.wire import (
    PING,
    STOP_MESSAGE,
    STREAM_TYPE,
    ProviderMessage,
    add_text,
    encode_event,
    finish_message,
    message_body,
    start_block,
    start_message,
    stop_block,
)
from tests.tools.refusals import refuse

DEADLINE_S = 20.0
"""How long a test waits for a state before it fails: far more than any machine needs."""


def error_body(error_type: str, message: str, request_id: str | None = None) -> dict[str, Any]:
    """An error: the body of a 4xx or 5xx response, or the `error` event of a stream."""
    return {"type": "error", "error": {"type": error_type, "message": message}, "request_id": request_id}


class Counter:
    """A number that grows, and that can be waited for."""

    def __init__(self) -> None:
        self.value = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    def add(self, n: int = 1) -> None:
        """Grow by n, and wake whoever waits for what is reached now."""
        self.value += n
        reached = [waiter for waiter in self._waiters if waiter[0] <= self.value]
        self._waiters = [waiter for waiter in self._waiters if waiter[0] > self.value]
        for _, future in reached:
            if not future.done():
                future.set_result(None)

    async def reach(self, n: int) -> None:
        """Return once the number is at least n."""
        if self.value < n:
            future = asyncio.get_running_loop().create_future()
            self._waiters.append((n, future))
            await future


class Gate:
    """Holds the steps of a script until they are released."""

    def __init__(self) -> None:
        self._released = Counter()
        self._passed = Counter()

    def release(self, n: int = 1) -> None:
        """Let n more steps through."""
        self._released.add(n)

    def open(self) -> None:
        """Let everything through from now on."""
        self._released.add(1 << 40)

    async def pass_through(self) -> None:
        """Take the next place, once it has been released."""
        await self._released.reach(self._passed.value + 1)
        self._passed.add()

    async def passed(self, n: int) -> None:
        """Return once n steps have gone through."""
        async with asyncio.timeout(DEADLINE_S):
            await self._passed.reach(n)


@dataclass(frozen=True)
class Head:
    """The status line and headers. A body follows in chunks unless `headers` has a content-length."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """Bytes put on the socket as they stand, with no chunk around them."""

    data: bytes


@dataclass(frozen=True)
class Wait:
    """A pause."""

    seconds: float


@dataclass(frozen=True)
class Hold:
    """Waits at a gate."""

    gate: Gate


@dataclass(frozen=True)
class Stall:
    """Says nothing more, or nothing but pings, until the client leaves."""

    ping_every_s: float | None = None


@dataclass(frozen=True)
class Close:
    """Closes the connection; with `reset` by RST. No last chunk is sent."""

    reset: bool = False


Step = bytes | Head | Raw | Wait | Hold | Stall | Close
"""Bytes are a piece of the body, sent as one chunk in one write. A script out of steps ends its body well."""


@dataclass
class Request:
    """One request as it came. `number` counts from 1, and so does that of its connection; `at` is on the monotonic
    clock.
    """

    number: int
    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    connection: int = 0
    at: float = field(default_factory=time.monotonic)
    body: Any = None
    refusal: tuple[int, str, str] | None = None
    sent: Counter = field(default_factory=Counter)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def streams(self) -> bool:
        """Whether it asks for a stream."""
        return bool(self.body.get("stream"))

    @property
    def schema(self) -> Any:
        """The JSON schema it asks an answer in, or None."""
        return (self.body.get("output_config") or {}).get("format")

    @property
    def said(self) -> str:
        """The text of its last block: what the user wrote."""
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else content[-1]["text"]


Script = Callable[[Request], Iterable[Step]]

PIECES = ("Hello", " from", " the", " prov", "ider", ".")
USAGE = {
    "input_tokens": 20,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 6,
}


@dataclass(frozen=True)
class Reply:
    """A reply as Claude sends it.

    `delay_s` is the time before each piece; `gate` is passed before each piece and before the end,
    `start_gate` before `message_start` and `head_gate` before the status line. With `stamp` each piece is the
    time it was sent at, in nanoseconds on the monotonic clock, and a space.
    """

    pieces: Iterable[str] = PIECES
    delay_s: float = 0.0
    stop_reason: str = "end_turn"
    usage: Mapping[str, Any] = field(default_factory=lambda: dict(USAGE))
    model: str | None = None
    message_id: str | None = None
    gate: Gate | None = None
    start_gate: Gate | None = None
    head_gate: Gate | None = None
    stamp: bool = False

    def __call__(self, request: Request) -> Iterator[Step]:
        if self.head_gate:
            yield Hold(self.head_gate)
        if not request.streams:
            yield from json_steps(200, message_body(self._answer(request, tuple(self.pieces))))
            return
        yield STREAM_HEAD
        if self.start_gate:
            yield Hold(self.start_gate)
        answer = self._answer(request, ())
        yield encode_event(start_message(answer)) + encode_event(start_block()) + encode_event(PING)
        for piece in self.pieces:
            if self.delay_s:
                yield Wait(self.delay_s)
            if self.gate:
                yield Hold(self.gate)
            yield _STAMPED % time.monotonic_ns() if self.stamp else cached_piece(piece)
            request.sent.add()
        if self.gate:
            yield Hold(self.gate)
        yield encode_event(stop_block()) + encode_event(finish_message(answer)) + encode_event(STOP_MESSAGE)

    def _answer(self, request: Request, pieces: tuple[str, ...]) -> ProviderMessage:
        return ProviderMessage(
            self.message_id or f"msg_{request.number:024d}",
            pieces,
            self.usage,
            self.stop_reason,
            model=self.model or request.body["model"],
        )


STREAM_HEAD = Head(200, {"content-type": STREAM_TYPE})


def encode_piece(text: Any) -> bytes:
    """The event that carries one piece of text."""
    return encode_event(add_text(text))


cached_piece = lru_cache(maxsize=4096)(encode_piece)
_STAMPED = encode_piece("%d ")


def json_reply(value: Any, **options: Any) -> Reply:
    """A reply whose text is JSON, for a request with a schema."""
    return Reply([json.dumps(value)], **options)


def http_error(
    status: int,
    error_type: str = "api_error",
    *,
    message: str = "scripted",
    headers: Mapping[str, str] | None = None,
) -> Script:
    """An error before any stream, with the API's body."""
    return lambda request: json_steps(status, error_body(error_type, message, f"req_{request.number}"), headers)


def steps(*given: Step) -> Script:
    """A script of exactly these steps."""
    return lambda request: given


def json_steps(status: int, body: Any, headers: Mapping[str, str] | None = None) -> list[Step]:
    """A whole response with a JSON body."""
    return whole_steps(status, json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})})


def whole_steps(status: int, body: bytes, headers: Mapping[str, str]) -> list[Step]:
    """A whole response with a content-length."""
    return [Head(status, {**headers, "content-length": str(len(body))}), Raw(body)]


def answer_as_stand_in(request: Request) -> Iterable[Step]:
    """What the stand-in would say."""
    answer = write_answer(request.body, f"msg_{request.number:024d}", PromptCache())
    return Reply(answer.pieces, stop_reason=answer.stop_reason, usage=answer.usage)(request)


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
