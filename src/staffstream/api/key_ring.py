"""Callers by their keys: finding the key, limiting guesses, and ending the streams of keys that were revoked."""

import asyncio
import contextlib
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

from starlette.requests import Request

from staffstream.domain import Caller, now_text
from staffstream.errors import BadRequest, TooManyRequests, Unauthorized
from staffstream.storage import keys
from staffstream.storage.database import Database
from staffstream.support.rounds import repeat

USER_HEADERS = ("x-end-user-id", "x-openwebui-user-id", "x-librechat-user-id")
BAD_KEYS_PER_MINUTE = 60  # of one address
REVOKED_ROUND_S = 2.0  # how often it is asked whether the keys of open streams are still valid


class Stream(Protocol):
    """A response that can be ended from outside."""

    def end(self, error: Unauthorized) -> None:
        """Send the error as the last frame, and nothing more."""


class KeyRing:
    """Identifies callers by the keys in the database. Each request looks its key up, so that a key revoked by another
    process is refused at once; when keys were used is collected in `used`, for maintenance to write down.
    """

    def __init__(self, database: Database) -> None:
        self.used: dict[str, str] = {}
        self._database = database
        self._refusals = Refusals()
        self._known: set[bytes] = set()  # digests of keys that were valid when they came last

    async def identify(self, request: Request) -> Caller:
        """The caller whose key the request carries. Raises Unauthorized; or TooManyRequests for an unknown key from an
        address that has sent many, without looking it up: everybody behind one proxy shares its address, so keys that
        are known are looked up all the same.
        """
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text:
            raise Unauthorized
        address = request.client.host if request.client else ""
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        if digest not in self._known:
            self._refusals.check(address)
        key = await self._database.read(lambda conn: keys.find_key(conn, text))
        if key is None:
            self._known.discard(digest)
            self._refusals.count(address)
            raise Unauthorized
        self._known.add(digest)
        self.used[key.id] = now_text()
        caller = Caller(key.user_id, key.role, key.id, key.gateway)
        return speak_for(caller, _find_user(request)) if key.gateway else caller


def speak_for(caller: Caller, user: str | None) -> Caller:
    """A gateway's caller as the user whom it names, who is never an admin; itself without one. Raises BadRequest."""
    if not user:
        return caller
    if len(user) > 200:
        raise BadRequest("The user's name is longer than 200 characters.")
    return Caller(user, "member", caller.key_id)


def _find_user(request: Request) -> str | None:
    """The user in the headers that chat servers send."""
    return next((user for name in USER_HEADERS if (user := request.headers.get(name, "").strip())), None)


class Refusals:
    """Counts the bad keys of each address by the minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._minute = 0
        self._counts: Counter[str] = Counter()

    def count(self, address: str) -> None:
        self._enter_minute()
        self._counts[address] += 1

    def check(self, address: str) -> None:
        """Raises TooManyRequests, with the seconds until the next minute begins."""
        second = self._enter_minute()
        if self._counts[address] >= BAD_KEYS_PER_MINUTE:
            raise TooManyRequests("Too many invalid keys came from this address.", retry_after_s=60 - second)

    def _enter_minute(self) -> float:
        minute, second = divmod(self._clock(), 60)
        if minute != self._minute:
            self._minute = int(minute)
            self._counts.clear()
        return second


class OpenStreams:
    """The streams that keys have open."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._streams: defaultdict[str, set[Stream]] = defaultdict(set)

    @contextlib.contextmanager
    def register(self, key_id: str | None, stream: Stream) -> Iterator[None]:
        """The stream is open within the block. One without a key, of a user whom the host named, is never ended."""
        if key_id is None:
            yield
            return
        self._streams[key_id].add(stream)
        try:
            yield
        finally:
            self._streams[key_id].discard(stream)
            if not self._streams[key_id]:
                del self._streams[key_id]

    def end(self, key_id: str) -> None:
        """End all streams of a key."""
        for stream in list(self._streams.get(key_id, ())):
            stream.end(Unauthorized("This key was revoked."))

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """End the streams of keys that other processes revoke, within the block."""
        task = asyncio.create_task(repeat(self._end_revoked, REVOKED_ROUND_S), name="end streams of revoked keys")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _end_revoked(self) -> None:
        if open_keys := list(self._streams):
            for key_id in await self._database.read(lambda conn: keys.find_revoked(conn, open_keys)):
                self.end(key_id)
