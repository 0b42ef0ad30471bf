"""The response that carries a run's frames: starts at once, notices a client that left or takes nothing, and never
stops the run.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Protocol

from starlette.types import Receive, Scope, Send

from staffstream.domain import RunEnd
from staffstream.errors import StaffstreamError
from staffstream.replies.active_runs import describe_failure
from staffstream.replies.encoders import RunEncoder
from staffstream.replies.run_log import Push
from staffstream.support import sse
from staffstream.support.timers import SilenceWatch

Write = Callable[[bytes], Awaitable[None]]


class BodyWriter(Protocol):
    """Writes a body that has no content-length, once its head was sent; the body's end goes by `send`."""

    async def write(self, data: bytes) -> None:
        """As `send` does, wait while the client takes too little, and drop what is written to one that has left."""

    def push(self, data: bytes) -> bool:
        """Write in this very call. False, and nothing was written, if it would have to wait."""

    def abort(self) -> None:
        """Close the connection at once, with what is not yet sent dropped."""


WRITER = "staffstream.writer"  # the ASGI extension by which our own server offers one (chunk_writer.py)

_PIECE_BYTES = 16 * 1024  # of a long text: taking one of these is progress


class Follow(Protocol):
    """Gives the frames of a run. Those that come while the next one is awaited may go by `push` instead."""

    def __call__(self, *, push: Push | None) -> AsyncGenerator[bytes, None]: ...


class EventStream:
    """An ASGI response over frames.

    Starlette's StreamingResponse would race the body against `receive()` in a task group of its own for each
    response, and Hypercorn has no write timeout; this one has one timer and one watcher a response, and lets go of a
    client that takes nothing for `slow_reader_s`. The frames are relayed in a task of their own because a token that
    wakes it then resumes three coroutines, not the seventeen between Hypercorn and an endpoint.
    """

    def __init__(
        self,
        follow: Follow,
        *,
        slow_reader_s: float,
        headers: list[tuple[bytes, bytes]] | None = None,
        held: contextlib.ExitStack | None = None,
        encode_end: Callable[[RunEnd], bytes] | None = None,
        on_leave: Callable[[], None] | None = None,
    ) -> None:
        self._follow = follow
        self._encode_end = encode_end or RunEncoder("").encode_end
        self._on_leave = on_leave
        self._slow_reader_s = slow_reader_s
        self._headers = headers or []
        self._held = held or contextlib.ExitStack()  # left when the response is over
        self._sending = False
        self._relaying: asyncio.Task[None] | None = None
        self._last_frame: bytes | None = None  # sent instead of what would follow

    def end(self, error: StaffstreamError) -> None:
        """Send the error as the last frame, after the one that is being sent, and nothing more."""
        self._last_frame = self._encode_end(RunEnd(failure=describe_failure(error)))
        if self._relaying and not self._sending:
            self._relaying.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await self._respond(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": write_headers(scope, self._headers)})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        writer: BodyWriter | None = scope.get("extensions", {}).get(WRITER)

        def let_go() -> None:
            if self._sending:
                if writer is not None:
                    writer.abort()
                _leave_now(leave)

        try:
            async with asyncio.timeout(None) as leave:
                watch = SilenceWatch(self._slow_reader_s, let_go)
                watcher = asyncio.create_task(_leave_when_gone(receive, leave))
                try:
                    await self._relay_all(*_choose_way(writer, send), watch)
                    self._sending = True  # the end of the body can be what no longer fits into a full buffer
                    watch.note()
                    await send({"type": "http.response.body", "body": b""})
                finally:
                    watch.close()
                    watcher.cancel()
        except TimeoutError:
            if self._on_leave:  # the client left or was let go; the run goes on unless this stops it
                self._on_leave()

    async def _relay_all(self, write: Write, push: Push | None, watch: SilenceWatch) -> None:
        self._relaying = asyncio.create_task(self._relay(write, push, watch))
        try:
            await self._relaying
        except asyncio.CancelledError:
            if self._last_frame is None or asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
        if self._last_frame is not None:
            await self._write(self._last_frame, write, watch)

    async def _relay(self, write: Write, push: Push | None, watch: SilenceWatch) -> None:
        async with contextlib.aclosing(self._follow(push=push)) as frames:
            async for data in frames:
                if self._last_frame is not None:
                    return
                await self._write(data, write, watch)

    async def _write(self, data: bytes, write: Write, watch: SilenceWatch) -> None:
        self._sending = True
        for start in range(0, len(data), _PIECE_BYTES):
            watch.note()
            await write(data[start : start + _PIECE_BYTES])
        self._sending = False


def _choose_way(writer: BodyWriter | None, send: Send) -> tuple[Write, Push | None]:
    if writer is not None:
        return writer.write, writer.push

    async def write(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    return write, None


def write_headers(scope: Scope, extra: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The stream's headers. HTTP/2 forbids Connection; HTTP/1.1 clients were promised it."""
    keep_alive = [(b"connection", b"keep-alive")] if scope.get("http_version") == "1.1" else []
    return [*sse.HEADERS, *keep_alive, *extra]


async def _leave_when_gone(receive: Receive, leave: asyncio.Timeout) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    _leave_now(leave)


def _leave_now(leave: asyncio.Timeout) -> None:
    if not leave.expired():  # once is enough, and all that is allowed
        leave.reschedule(asyncio.get_running_loop().time())
