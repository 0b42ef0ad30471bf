"""The log of one run that is being made: an append-only list of texts that any number of subscribers follow.

A subscriber is a cursor, the number of characters it has been sent, so a slow one costs nothing and never holds the
provider's stream back. One that sleeps has everything; when there is more it is woken, or, if it has offered a `push`,
sent it in the very call in which the provider's bytes came, so that no task is woken for a token. Text that every
subscriber has been sent is folded together, and so is old text: who comes to it later gets it in larger frames.
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
"""Sends bytes to a subscriber at once; False if it could not, and nothing was sent."""

_WRITE_CHARACTERS = 16_384  # about as much text as is joined into one write
_MAX_UNFOLDED = 1_000  # texts, 100 bytes each beside their characters, that are kept apart for a slow subscriber


@dataclass(slots=True, eq=False)
class _Subscriber:
    """What one subscriber has been sent, its encoder, its wake-up, and whether the heartbeat woke it."""

    cursor: int
    encoder: Encoder
    push: Push | None
    thoughts: int = 0  # pieces of thinking that it has been sent
    wake: asyncio.Future[None] | None = None
    idle: bool = False

    def wake_up(self, *, idle: bool = False) -> None:
        if self.wake is not None and not self.wake.done():
            self.idle = idle
            self.wake.set_result(None)


class RunLog:
    """The text of one run so far, and how it ended."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.cursor = 0
        self.phase: Phase = "building"
        self.closed = False
        self.end: RunEnd | None = None  # None though closed: the run goes on elsewhere
        self._folded: list[str] = []  # text in large pieces,
        self._fold = 0  # up to this cursor,
        self._parts: list[str] = []  # and what came since, a frame each
        self._ends: list[int] = []  # the cursor after each of them
        self._count = 0  # of all frames
        self._thinking: list[str] = []  # before the text, for those who want it
        self._subscribers: dict[_Subscriber, SilenceWatch] = {}
        self._encoder = RunEncoder(run_id)
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()

    @property
    def text(self) -> str:
        """The whole text so far."""
        return "".join((*self._folded, *self._parts))

    @property
    def subscriber_count(self) -> int:
        """How many follow the run right now."""
        return len(self._subscribers)

    def append(self, *texts: str) -> None:
        """Add what just came, a frame each; none for an empty text, since the cursor must grow with every frame."""
        before = self.cursor
        for text in texts:
            if text:
                self.cursor += len(text)
                self._parts.append(text)
                self._ends.append(self.cursor)
                self._count += 1
        if self.cursor > before:
            self._deliver(before)

    def add_thinking(self, text: str) -> None:
        """Add a piece of what the model thinks before its reply; it is kept for as long as the log."""
        self._thinking.append(text)
        self._wake_subscribers()

    def enter_phase(self, phase: Phase) -> None:
        """Record what the run is doing, for subscribers that asked for status events."""
        if phase != self.phase:
            self.phase = phase
            self._wake_subscribers()

    def close(self, end: RunEnd | None) -> None:
        """End the log, or leave it without an end when the run goes on elsewhere. The first call counts."""
        if not self.closed:
            self.closed, self.end = True, end
            self._wake_subscribers()

    def read_after(self, cursor: int) -> str:
        """The text after a cursor at which a text began."""
        if cursor < self._fold:
            return self.text[cursor:]
        return "".join(self._parts[bisect_right(self._ends, cursor) :])

    def fold(self, limit: int) -> None:
        """Keep as one piece, not as one a token, the text up to a cursor that all subscribers have been sent or that is
        old.
        """
        reached = min((subscriber.cursor for subscriber in self._subscribers), default=limit)
        foldable = bisect_right(self._ends, limit)
        count = min(foldable, max(bisect_right(self._ends, reached), foldable - _MAX_UNFOLDED))
        if count > 0:
            self._folded.append("".join(self._parts[:count]))
            self._fold = self._ends[count - 1]
            del self._parts[:count], self._ends[:count]

    async def follow(
        self, after: int = 0, *, heartbeat_s: float, encoder: Encoder | None = None, push: Push | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes to send to a subscriber that has everything up to cursor `after` (which the log may yet have to
        reach), ending with the terminal frame.

        The frames that wait are joined into one write; those that come while none does go by `push`, if it takes them.
        A ping is sent after `heartbeat_s` seconds of silence; to one that wants status, a status frame at each change
        of phase and instead of each ping.
        """
        shown: Phase | None = None
        encoder = encoder or self._encoder
        status = encoder.wants_status
        with self._attach(_Subscriber(after, encoder, push), heartbeat_s) as (subscriber, watch):
            while True:
                data = b""
                if status and self.phase != shown:
                    shown = self.phase
                    data = self._encode_status(encoder)
                if encoder.wants_thinking:
                    data += self._encode_thinking(subscriber)
                frames, subscriber.cursor = self._encode_after(subscriber.cursor, encoder)
                over = self.closed and subscriber.cursor >= self.cursor
                ending = encoder.encode_end(self.end) if over and self.end else b""
                data = b"".join((data, frames, ending))
                if data:
                    yield data
                    watch.note()
                if over:
                    return
                if self._is_behind(subscriber) or self.closed or (status and self.phase != shown):
                    continue  # more came while the subscriber was being sent this
                if await self._wait(subscriber):
                    yield self._encode_status(encoder) if status else encoder.ping

    def _deliver(self, before: int) -> None:
        """Send what follows this cursor to the subscribers that sleep, in one write each; wake those that need time."""
        encoded: dict[Encoder, bytes] = {}  # subscribers with the same encoder share the bytes
        for subscriber, watch in self._subscribers.items():
            if subscriber.cursor > before:  # it has had some of this from another process
                if subscriber.cursor < self.cursor:
                    subscriber.wake_up()
                continue
            if self._is_behind(subscriber, before):
                subscriber.wake_up()
                continue
            if subscriber.push is not None and subscriber.wake is not None and not subscriber.wake.done():
                if (frames := encoded.get(subscriber.encoder)) is None:
                    frames = encoded[subscriber.encoder] = self._encode_after(
                        before, subscriber.encoder, limited=False
                    )[0]
                if subscriber.push(frames):
                    subscriber.cursor = self.cursor
                    watch.note()
                    continue
            subscriber.wake_up()

    def _encode_after(self, cursor: int, encoder: Encoder, *, limited: bool = True) -> tuple[bytes, int]:
        """The frames after a cursor and the cursor after them. `limited` to about _WRITE_CHARACTERS of text, since a
        subscriber that takes nothing holds the bytes of one write.
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

    def _encode_thinking(self, subscriber: _Subscriber) -> bytes:
        start, subscriber.thoughts = subscriber.thoughts, len(self._thinking)
        pieces = enumerate(self._thinking[start:], start)
        return b"".join(subscriber.encoder.encode_thinking(number, text) for number, text in pieces)

    def _is_behind(self, subscriber: _Subscriber, cursor: int | None = None) -> bool:
        """Whether there is more for it, up to a cursor or to the end."""
        if subscriber.encoder.wants_thinking and subscriber.thoughts < len(self._thinking):
            return True
        return subscriber.cursor < (self.cursor if cursor is None else cursor)

    def _encode_status(self, encoder: Encoder) -> bytes:
        elapsed_ms = round((self._loop.time() - self._started_at) * 1000)
        return encoder.encode_status(self.phase, elapsed_ms=elapsed_ms, tokens=self._count)

    @contextlib.contextmanager
    def _attach(self, subscriber: _Subscriber, heartbeat_s: float) -> Iterator[tuple[_Subscriber, SilenceWatch]]:
        watch = self._subscribers[subscriber] = SilenceWatch(heartbeat_s, lambda: subscriber.wake_up(idle=True))
        try:
            yield subscriber, watch
        finally:
            del self._subscribers[subscriber]
            watch.close()

    async def _wait(self, subscriber: _Subscriber) -> bool:
        """Sleep until something is new (False) or it is time for a heartbeat (True)."""
        subscriber.wake = self._loop.create_future()
        subscriber.idle = False
        await subscriber.wake
        return subscriber.idle

    def _wake_subscribers(self) -> None:
        for subscriber in self._subscribers:
            subscriber.wake_up()


def encode_ended_run(encoder: Encoder, text: str, after: int, end: RunEnd) -> bytes:
    """The same bytes for a run that is over: the text after the cursor in one frame, then the end. Raises BadCursor."""
    if not 0 <= after <= len(text):
        raise BadCursor
    rest = text[after:]
    return (encoder.encode_text(after, rest) if rest else b"") + encoder.encode_end(end)
