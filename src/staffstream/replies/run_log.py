"""The log of one active run: an append-only list of token frames that any number of readers follow.

A reader is a cursor, the number of characters it has been sent, so a slow one costs nothing and never holds Claude's
stream back. A reader that sleeps has everything; when more is said it is woken, or, if it has offered a `push`, sent
that in the very call in which Claude's bytes came, so that no task is woken for a token. Text that every reader has
been sent is folded together: who joins later gets it in larger frames.
"""

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass

from staffstream.domain import RunEnd
from staffstream.errors import BadCursor
from staffstream.replies.encoders import Encoder, Phase, RunEncoder
from staffstream.support.timers import SilenceWatch

Push = Callable[[bytes], bool]
"""Sends bytes to a reader at once; False if it could not, and nothing was sent."""

_WRITE_CHARACTERS = 16_384  # about as much text as is joined into one write


@dataclass(slots=True, eq=False)
class _Reader:
    """A follower: what it has been sent, in whose words, its wake-up, and whether it was the heartbeat that woke it."""

    cursor: int
    encoder: Encoder
    push: Push | None
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
        self.end: RunEnd | None = None  # none though closed: the run goes on elsewhere
        self._folded: list[str] = []  # text in large pieces,
        self._fold = 0  # up to this cursor,
        self._parts: list[str] = []  # and what was said since, a frame each
        self._ends: list[int] = []  # the cursor after each of them
        self._count = 0  # of all frames
        self._readers: dict[_Reader, SilenceWatch] = {}
        self._encoder = RunEncoder(run_id)
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()

    @property
    def text(self) -> str:
        """Everything said so far."""
        return "".join((*self._folded, *self._parts))

    @property
    def reader_count(self) -> int:
        """How many follow the run right now."""
        return len(self._readers)

    def append(self, *texts: str) -> None:
        """Add what Claude just said, a frame each; none for an empty text, since the cursor must grow with every
        frame.
        """
        before = self.cursor
        for text in texts:
            if text:
                self.cursor += len(text)
                self._parts.append(text)
                self._ends.append(self.cursor)
                self._count += 1
        if self.cursor > before:
            self._deliver(before)

    def enter_phase(self, phase: Phase) -> None:
        """Note what the run is doing, for readers that asked for status events."""
        if phase != self.phase:
            self.phase = phase
            self._rouse_readers()

    def close(self, end: RunEnd | None) -> None:
        """End the log, or leave it without an end when the run goes on elsewhere. The first call counts."""
        if not self.closed:
            self.closed, self.end = True, end
            self._rouse_readers()

    def fold(self) -> None:
        """Keep the text that all readers have been sent as one piece, not as one a token."""
        reached = min((reader.cursor for reader in self._readers), default=self.cursor)
        if count := bisect_right(self._ends, reached):
            self._folded.append("".join(self._parts[:count]))
            self._fold = self._ends[count - 1]
            del self._parts[:count], self._ends[:count]

    async def follow(
        self, after: int = 0, *, heartbeat_s: float, encoder: Encoder | None = None, push: Push | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes to send to a reader that has everything up to cursor `after`, ending with the terminal frame.

        The frames that wait are joined into one write; those that come while none does go by `push`, if it takes them.
        A ping is sent after `heartbeat_s` seconds of silence; to one that wants status, a status frame at each change
        of phase and instead of each ping.
        """
        told: Phase | None = None
        encoder = encoder or self._encoder
        status = encoder.wants_status
        with self._attach(_Reader(after, encoder, push), heartbeat_s) as (reader, watch):
            while True:
                data = b""
                if status and self.phase != told:
                    told = self.phase
                    data = self._encode_status(encoder)
                frames, reader.cursor = self._encode_after(reader.cursor, encoder)
                over = self.closed and reader.cursor == self.cursor
                ending = encoder.encode_end(self.end) if over and self.end else b""
                data = b"".join((data, frames, ending))
                if data:
                    yield data
                    watch.note()
                if over:
                    return
                if reader.cursor < self.cursor or self.closed or (status and self.phase != told):
                    continue  # more came while the reader was being sent this
                if await self._wait(reader):
                    yield self._encode_status(encoder) if status else encoder.ping

    def _deliver(self, before: int) -> None:
        """Send what follows this cursor to the readers that sleep, in one write each, and wake those that need time."""
        encoded: dict[Encoder, bytes] = {}  # those who read the same words share them
        for reader, watch in self._readers.items():
            if reader.push is not None and reader.wake is not None and not reader.wake.done():
                if (frames := encoded.get(reader.encoder)) is None:
                    frames = encoded[reader.encoder] = self._encode_after(before, reader.encoder, limited=False)[0]
                if reader.push(frames):
                    reader.cursor = self.cursor
                    watch.note()
                    continue
            reader.rouse()

    def _encode_after(self, cursor: int, encoder: Encoder, *, limited: bool = True) -> tuple[bytes, int]:
        """The frames after a cursor and the cursor after them. `limited`, since a reader that takes nothing holds one
        write's bytes: to about _WRITE_CHARACTERS of text.
        """
        if cursor < self._fold:
            end = min(cursor + _WRITE_CHARACTERS, self._fold)
            self._folded = ["".join(self._folded)]
            return encoder.encode_text(cursor, self._folded[0][cursor:end]), end
        frames = []
        most = cursor + _WRITE_CHARACTERS
        for index in range(bisect_right(self._ends, cursor), len(self._ends)):
            text, end = self._parts[index], self._ends[index]
            frames.append(encoder.encode_text(cursor, text[cursor - end :] if end - cursor < len(text) else text))
            cursor = end
            if limited and cursor > most:
                break
        return b"".join(frames), cursor

    def _encode_status(self, encoder: Encoder) -> bytes:
        elapsed_ms = round((self._loop.time() - self._started_at) * 1000)
        return encoder.encode_status(self.phase, elapsed_ms=elapsed_ms, tokens=self._count)

    @contextlib.contextmanager
    def _attach(self, reader: _Reader, heartbeat_s: float) -> Iterator[tuple[_Reader, SilenceWatch]]:
        watch = self._readers[reader] = SilenceWatch(heartbeat_s, lambda: reader.rouse(idle=True))
        try:
            yield reader, watch
        finally:
            del self._readers[reader]
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


def encode_ended_run(encoder: Encoder, text: str, after: int, end: RunEnd) -> bytes:
    """The same bytes for a run that is over: what was said after the cursor in one frame, then the end. Raises
    BadCursor.
    """
    if not 0 <= after <= len(text):
        raise BadCursor
    rest = text[after:]
    return (encoder.encode_text(after, rest) if rest else b"") + encoder.encode_end(end)
