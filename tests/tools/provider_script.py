"""What the scripted provider says. A script is a function from a request to the steps of its answer; a step is bytes of
the body, a head, a pause, a gate, a stall or a close. `tests/tools/provider_cases.py` has one for each way in which a
stream can go wrong.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

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
