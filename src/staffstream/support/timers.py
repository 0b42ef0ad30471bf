"""Watching for silence (of Claude, of a reader, of a stream that needs a heartbeat), reading how long to wait,
measuring what took how long, and letting what can wait wait.
"""

import asyncio
import contextlib
import email.utils
import math
import time
from collections.abc import Callable
from dataclasses import dataclass


class SilenceWatch:
    """Calls `on_silence` whenever `limit_s` seconds have passed since the last `note()`.

    One timer that re-arms itself: noting a sign of life is an assignment, where a timeout around every read would
    make and cancel a timer a token.
    """

    def __init__(self, limit_s: float, on_silence: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_silence = on_silence
        self._limit_s = limit_s
        self._noted_at = self._loop.time()
        self._timer = self._loop.call_later(limit_s, self._check)

    def note(self) -> None:
        """There was a sign of life just now."""
        self._noted_at = self._loop.time()

    def change_limit(self, limit_s: float) -> None:
        """Allow another length of silence from now on."""
        self._limit_s = limit_s
        self._timer.cancel()
        self.note()
        self._timer = self._loop.call_later(limit_s, self._check)

    def close(self) -> None:
        """Stop watching."""
        self._timer.cancel()

    def _check(self) -> None:
        left_s = self._noted_at + self._limit_s - self._loop.time()
        if left_s <= 0.001:
            self._on_silence()
            self.note()
            left_s = self._limit_s
        self._timer = self._loop.call_later(left_s, self._check)


class BurstGate:
    """Lets other work wait while more than `most` blocks are within it: `with rush: …`, `await rush.wait_over()`."""

    def __init__(self, most: int, longest_wait_s: float) -> None:
        self._most = most
        self._longest_wait_s = longest_wait_s
        self._inside = 0
        self._over = asyncio.Event()
        self._over.set()

    def __enter__(self) -> None:
        self._inside += 1
        if self._inside > self._most:
            self._over.clear()

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        if self._inside <= self._most:
            self._over.set()

    async def wait_until_calm(self) -> None:
        """Return when the rush is over, at once if there is none, or when it has lasted too long to wait for."""
        if not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._longest_wait_s):
                    await self._over.wait()


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of some work: when it began and ended, in nanoseconds since the epoch."""

    name: str
    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


class StageTimer:
    """Measures the parts of some work, one after another. Works in any thread."""

    def __init__(self) -> None:
        self.recorded: list[Stage] = []
        self._began_ns = time.time_ns()

    def record(self, name: str) -> None:
        """What was done since the last call, or the start, was this."""
        now_ns = time.time_ns()
        self.recorded.append(Stage(name, self._began_ns, now_ns))
        self._began_ns = now_ns


def read_retry_after(value: str) -> float | None:
    """Seconds to wait as a Retry-After header asks: a number of them, or a date (RFC 9110, section 10.2.3). None for
    anything else, `inf` and `nan` among it: no header of ours could pass them on.
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
