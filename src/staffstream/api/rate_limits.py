"""How much one caller may ask of the server: requests in a minute, open streams, and all streams together.

Counted in memory, by key or by the user that a host names: what a server without keys counts would be everybody at
once. What a day may cost is counted in the database, by spending.py.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator

from staffstream.errors import TooManyRequests, TooManyStreams
from staffstream.settings import Settings


class RateLimits:
    """Counts requests and open streams, and refuses what is over the limits of the settings; 0 means no limit."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._streams: Counter[str | None] = Counter()
        self._requests: Counter[str] = Counter()
        self._minute = 0

    def count_request(self, holder: str) -> None:
        """Note a request. Raises TooManyRequests, with the seconds until the next minute begins."""
        minute, second = divmod(self._clock(), 60)
        if minute != self._minute:
            self._minute = int(minute)
            self._requests.clear()
        self._requests[holder] += 1
        if 0 < self._settings.requests_per_minute < self._requests[holder]:
            raise TooManyRequests(retry_after_s=60 - second)

    @contextlib.contextmanager
    def hold_stream(self, holder: str | None) -> Iterator[None]:
        """A stream is open within the block. Raises TooManyStreams instead when one more would be too many."""
        settings = self._settings
        if 0 < settings.streams <= self._streams.total():
            raise TooManyStreams("The server has as many open streams as it may have. Try again soon.")
        if holder and 0 < settings.streams_per_key <= self._streams[holder]:
            raise TooManyStreams
        self._streams[holder] += 1
        try:
            yield
        finally:
            self._streams[holder] -= 1
            if not self._streams[holder]:
                del self._streams[holder]
