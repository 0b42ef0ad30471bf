"""How much one caller may ask of the server: requests in a minute, open streams, and all streams together.

Counted in memory, by key or by the user that a host names. A server without keys counts all streams together only:
its callers are one user. What a day may cost is counted in the database, by spending.py.
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

    def count_request(self, name: str) -> None:
        """Note a request. Raises TooManyRequests, with the seconds until the next minute begins."""
        minute, second = divmod(self._clock(), 60)
        if minute != self._minute:
            self._minute = int(minute)
            self._requests.clear()
        self._requests[name] += 1
        if 0 < self._settings.requests_per_minute < self._requests[name]:
            raise TooManyRequests(retry_after_s=60 - second)

    @property
    def open_streams(self) -> int:
        """How many streams are open, of all callers together."""
        return self._streams.total()

    @contextlib.contextmanager
    def count_stream(self, name: str | None) -> Iterator[None]:
        """A stream is open within the block. Raises TooManyStreams instead when one more would be too many."""
        settings = self._settings
        if 0 < settings.streams <= self.open_streams:
            raise TooManyStreams("The server has as many open streams as it may have. Try again soon.")
        if name and 0 < settings.streams_per_key <= self._streams[name]:
            raise TooManyStreams
        self._streams[name] += 1
        try:
            yield
        finally:
            self._streams[name] -= 1
            if not self._streams[name]:
                del self._streams[name]
