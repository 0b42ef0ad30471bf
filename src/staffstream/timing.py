"""Watching for silence (of Claude, of a reader, of a stream that needs a heartbeat), and reading how long to wait."""

import asyncio
import email.utils
import math
import time
from collections.abc import Callable


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
