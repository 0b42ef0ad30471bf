"""Timers: detect silence (of Claude, of a client, of a stream that needs a heartbeat), parse Retry-After, measure
stages, and delay work during a burst.
"""

import asyncio
import contextlib
import email.utils
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

READING_S = 0.02  # a turn of the loop reads what waits in the kernel
STOPPED_S = 1.0  # a timer that is so late belongs to a process that was stopped, or held up for as long
AFTER_STOP_S = 5.0  # to read and handle what came meanwhile


class SilenceWatch:
    """Calls `on_silence` whenever `limit_s` seconds have passed since the last `note()`.

    One timer that restarts itself. `note()` is one assignment; a timeout around every read would create and cancel a
    timer for each token. What waits to be read is read before silence is judged: a process that was stopped (SIGSTOP, a
    suspended machine) finds at once that the limit has passed and, a moment later, all that came meanwhile.
    """

    def __init__(self, limit_s: float, on_silence: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_silence = on_silence
        self._limit_s = limit_s
        self._noted_at = self._loop.time()
        self._rearm(limit_s)

    def note(self) -> None:
        """Record that content arrived just now."""
        self._noted_at = self._loop.time()

    def change_limit(self, limit_s: float) -> None:
        """Restart the watch with another limit."""
        self._limit_s = limit_s
        self._timer.cancel()
        self.note()
        self._rearm(limit_s)

    def close(self) -> None:
        """Stop watching."""
        self._timer.cancel()

    def _rearm(self, wait_s: float) -> None:
        self._due_at = self._loop.time() + wait_s
        self._timer = self._loop.call_later(wait_s, self._check)

    def _check(self) -> None:
        now = self._loop.time()
        left_s = self._noted_at + self._limit_s - now
        if left_s > 0.001:
            self._rearm(left_s)
            return
        was_stopped = now - self._due_at > STOPPED_S
        wait_s = min(self._limit_s, AFTER_STOP_S) if was_stopped else READING_S
        self._timer = self._loop.call_later(wait_s, self._judge, self._noted_at)

    def _judge(self, noted_at: float) -> None:
        """Silence, unless what has been read meanwhile was a sign of life."""
        if self._noted_at == noted_at:
            self._on_silence()
            self.note()
        self._rearm(max(0.001, self._noted_at + self._limit_s - self._loop.time()))


@contextlib.asynccontextmanager
async def limit_silence(limit_s: float) -> AsyncIterator[SilenceWatch]:
    """Raises TimeoutError, within, when nothing has been noted for so long."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as deadline:
        watch = SilenceWatch(limit_s, lambda: deadline.reschedule(loop.time()))
        try:
            yield watch
        finally:
            watch.close()


class BurstGate:
    """Delays other work during a burst: while more than `limit` tasks are inside a `with gate:` block, `await
    gate.wait_until_calm()` waits.
    """

    def __init__(self, limit: int, longest_wait_s: float) -> None:
        self._limit = limit
        self._longest_wait_s = longest_wait_s
        self._inside = 0
        self._calm = asyncio.Event()
        self._calm.set()

    def __enter__(self) -> None:
        self._inside += 1
        if self._inside > self._limit:
            self._calm.clear()

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        if self._inside <= self._limit:
            self._calm.set()

    async def wait_until_calm(self) -> None:
        """Return when no burst is going on, at the latest after `longest_wait_s` seconds."""
        if not self._calm.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._longest_wait_s):
                    await self._calm.wait()


@dataclass(frozen=True, slots=True)
class Stage:
    """A timed part of some work: its start and end in nanoseconds since the epoch."""

    name: str
    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


class StageTimer:
    """Measures the stages of some work, one after another. Works in any thread."""

    def __init__(self) -> None:
        self.recorded: list[Stage] = []
        self._began_ns = time.time_ns()

    def record(self, name: str) -> None:
        """End the stage `name`. It began at the last call, or when the timer was created."""
        now_ns = time.time_ns()
        self.recorded.append(Stage(name, self._began_ns, now_ns))
        self._began_ns = now_ns


def read_retry_after(value: str) -> float | None:
    """The seconds that a Retry-After header asks to wait; it holds seconds or a date (RFC 9110, section 10.2.3). None
    for anything else, `inf` and `nan` included: they could not be sent on in a header.
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
