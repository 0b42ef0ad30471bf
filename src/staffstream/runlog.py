"""The log of one active run: an append-only list of token frames that any number of readers follow.

A reader is an index into the list, so a slow one costs nothing and never holds Claude's stream back, and a frame is
encoded once whoever reads it. A cursor is the number of characters said so far; it can be looked up in the list while
the run is active, and cut from the saved text when it is over.
"""

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Literal

from staffstream import sse
from staffstream.errors import BadCursor
from staffstream.timing import SilenceWatch

Phase = Literal["building", "thinking", "responding"]

_WRITE_CHARACTERS = 16_384  # about as much text as is joined into one write


@dataclass(slots=True, eq=False)
class _Reader:
    """A follower's wake-up; `idle` is set when it was the heartbeat that woke it."""

    wake: asyncio.Future[None] | None = None
    idle: bool = False

    def rouse(self, *, idle: bool = False) -> None:
        if self.wake is not None and not self.wake.done():
            self.idle = idle
            self.wake.set_result(None)


class RunLog:
    """What one run has said and how it ended."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.cursor = 0
        self.phase: Phase = "building"
        self.closed = False
        self.terminal: bytes | None = None  # none though closed: the run goes on elsewhere
        self._parts: list[str] = []
        self._frames: list[bytes] = []
        self._ends: list[int] = []  # the cursor after each frame
        self._readers: set[_Reader] = set()
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()

    @property
    def text(self) -> str:
        """Everything said so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    @property
    def reader_count(self) -> int:
        """How many follow the run right now."""
        return len(self._readers)

    def append(self, text: str) -> None:
        """Add what Claude just said; nothing for an empty text, since the cursor must grow with every frame."""
        if not text:
            return
        self.cursor += len(text)
        self._parts.append(text)
        self._frames.append(sse.encode_token(self.run_id, self.cursor, text))
        self._ends.append(self.cursor)
        self._rouse_readers()

    def enter_phase(self, phase: Phase) -> None:
        """Note what the run is doing, for readers that asked for status events."""
        if phase != self.phase:
            self.phase = phase
            self._rouse_readers()

    def close(self, terminal: bytes | None) -> None:
        """End the log with its one terminal frame, or without one when the run goes on elsewhere. The first call
        counts.
        """
        if not self.closed:
            self.closed, self.terminal = True, terminal
            self._rouse_readers()

    async def follow(self, after: int = 0, *, heartbeat_s: float, status: bool = False) -> AsyncGenerator[bytes, None]:
        """The bytes to send to a reader that has everything up to cursor `after`, ending with the terminal frame.

        The frames that wait are joined into one write. A ping is sent after `heartbeat_s` seconds of silence; with
        `status`, a status frame at each change of phase and instead of each ping.
        """
        backlog, index = self._start_at(after)
        told: Phase | None = None
        with self._attach(heartbeat_s) as (reader, watch):
            while True:
                if status and self.phase != told:
                    told = self.phase
                    backlog += self._encode_status()
                fresh = self._frames[index : self._limit_write(index)]
                index += len(fresh)
                closed = self.closed and index == len(self._frames)
                data = b"".join((backlog, *fresh, (closed and self.terminal) or b""))
                backlog = b""
                if data:
                    yield data
                    watch.note()
                if closed:
                    return
                if index < len(self._frames) or self.closed or (status and self.phase != told):
                    continue  # more came while the reader was being sent this
                if await self._wait(reader):
                    yield self._encode_status() if status else sse.PING

    def _start_at(self, after: int) -> tuple[bytes, int]:
        """The rest of the frame that `after` lies in, and the index of the next one."""
        index = bisect_right(self._ends, after)
        start = self._ends[index - 1] if index else 0
        if index == len(self._ends) or after == start:
            return b"", index
        return sse.encode_token(self.run_id, self._ends[index], self.text[after : self._ends[index]]), index + 1

    def _limit_write(self, index: int) -> int:
        """Where a write of the frames from `index` on ends: a reader that takes nothing holds one write's bytes."""
        end = len(self._frames)
        if end - index > 1 and self.cursor - self._ends[index] > _WRITE_CHARACTERS:
            end = bisect_right(self._ends, self._ends[index] + _WRITE_CHARACTERS)
        return end

    def _encode_status(self) -> bytes:
        elapsed_ms = round((self._loop.time() - self._started_at) * 1000)
        return sse.encode_status(self.phase, elapsed_ms=elapsed_ms, tokens=len(self._frames))

    @contextlib.contextmanager
    def _attach(self, heartbeat_s: float) -> Iterator[tuple[_Reader, SilenceWatch]]:
        reader = _Reader()
        watch = SilenceWatch(heartbeat_s, lambda: reader.rouse(idle=True))
        self._readers.add(reader)
        try:
            yield reader, watch
        finally:
            self._readers.discard(reader)
            watch.close()

    async def _wait(self, reader: _Reader) -> bool:
        """Sleep until something is new (False) or it is time for a heartbeat (True)."""
        reader.wake = self._loop.create_future()
        reader.idle = False
        await reader.wake
        return reader.idle

    def _rouse_readers(self) -> None:
        for reader in self._readers:
            reader.rouse()


def encode_ended_run(run_id: str, text: str, after: int, terminal: bytes) -> bytes:
    """The same bytes for a run that is over: what was said after the cursor in one frame, then the end. Raises
    BadCursor.
    """
    if not 0 <= after <= len(text):
        raise BadCursor
    rest = text[after:]
    return (sse.encode_token(run_id, len(text), rest) if rest else b"") + terminal
