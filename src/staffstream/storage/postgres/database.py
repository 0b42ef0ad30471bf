"""The open PostgreSQL database: a few threads with a connection each, for writing and for reading.

psycopg is used synchronously, so that storage functions are the same plain functions as on SQLite. A write that met
another one is run again, and so is one whose connection was lost before its commit. A lost connection is opened anew.
"""

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg

from staffstream.errors import StorageUnavailable
from staffstream.storage.database import Connection, Group
from staffstream.storage.pending_writes import Outcome, Write, report_outcome
from staffstream.storage.postgres.connections import RERUN, PostgresConnection, connect, translate_error
from staffstream.storage.postgres.tables import prepare_tables

log = logging.getLogger(__name__)
T = TypeVar("T")

WRITERS = 8
READERS = 4
_TRIES = 6
_LONGEST_PAUSE_S = 0.05  # before another try, twice as long each time


class _Threads:
    """Threads that each keep a connection of their own."""

    def __init__(self, count: int, name: str, open_connection: Callable[[], PostgresConnection]) -> None:
        self._open = open_connection
        self._local = threading.local()
        self._opened: list[PostgresConnection] = []
        self._executor = ThreadPoolExecutor(count, f"postgres {name}")

    def submit(self, work: Callable[..., T], *arguments: Any) -> "asyncio.Future[T]":
        def run() -> T:
            return work(self._get_connection, *arguments)

        return asyncio.get_running_loop().run_in_executor(self._executor, run)

    def _get_connection(self) -> PostgresConnection:
        """This thread's connection, opened anew if it was lost."""
        connection: PostgresConnection | None = getattr(self._local, "connection", None)
        if connection is not None and connection.in_use:
            return connection
        if connection is not None:
            connection.close()
            self._opened.remove(connection)
            del self._local.connection  # the next one may not open at once
        connection = self._local.connection = self._open()
        self._opened.append(connection)
        return connection

    def close(self) -> None:
        self._executor.shutdown()
        for connection in self._opened:
            connection.close()


class PostgresDatabase:
    """A `Database` at one URL. Made by `open`, which also closes it."""

    def __init__(self, open_connection: Callable[[bool], PostgresConnection]) -> None:
        self._writers = _Threads(WRITERS, "writer", lambda: open_connection(False))
        self._readers = _Threads(READERS, "reader", lambda: open_connection(True))
        self._closed = False
        self._pending: set[asyncio.Future[Any]] = set()
        self.on_commit: Callable[[int, float], None] | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str, *, durability: str = "full") -> AsyncIterator["PostgresDatabase"]:
        """An open database, made or migrated first. Raises SetupError."""
        await asyncio.to_thread(prepare_tables, url)
        group = Group()
        database = cls(lambda read_only: connect(url, group, durability=durability, read_only=read_only))
        try:
            yield database
        finally:
            database._closed = True
            while database._pending:
                await asyncio.wait(database._pending)
            await asyncio.to_thread(database._close)

    def _close(self) -> None:
        self._writers.close()
        self._readers.close()

    async def write(self, function: Callable[[Connection], T], *, then: Callable[[T], None] | None = None) -> T:
        if self._closed:
            raise StorageUnavailable
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        work = self._writers.submit(self._commit, function)
        self._pending.add(work)
        work.add_done_callback(lambda done: self._report(Write(function, then, future), done))
        return await future

    def _report(self, write: Write, done: "asyncio.Future[tuple[Outcome, float]]") -> None:
        self._pending.discard(done)
        (value, error), seconds = done.result()
        if error is None and self.on_commit:
            self.on_commit(1, seconds)
        report_outcome(write, value, error)

    def _commit(
        self, get_connection: Callable[[], PostgresConnection], function: Callable[[Connection], T]
    ) -> tuple[Outcome, float]:
        """Run one write until it is committed or fails for good; how long the last try took."""
        for attempt in range(1, _TRIES + 1):
            started = time.perf_counter()
            connection = None
            try:
                connection = get_connection()
                with connection.transact():
                    value = function(connection)
                return (value, None), time.perf_counter() - started
            except psycopg.Error as error:
                if attempt == _TRIES or not (error.sqlstate in RERUN or _was_cut(connection)):
                    return (None, translate_error(error)), 0.0
                log.debug("a write is run again: %s", error.sqlstate)
                time.sleep(random.uniform(0.2, 1.0) * _LONGEST_PAUSE_S * 2.0 ** (attempt - _TRIES))
            except BaseException as error:
                return (None, error), 0.0
        raise AssertionError("the last try returns")

    async def read(self, function: Callable[[Connection], T]) -> T:
        if self._closed:
            raise StorageUnavailable
        work = self._readers.submit(_read_snapshot, function)
        self._pending.add(work)
        work.add_done_callback(self._forget)
        try:
            return await asyncio.shield(work)
        except psycopg.Error as error:
            raise translate_error(error) from error

    def _forget(self, done: "asyncio.Future[Any]") -> None:
        self._pending.discard(done)
        if not done.cancelled():
            done.exception()  # mark it as retrieved: its caller may have been cancelled meanwhile

    async def clear_log(self) -> None:
        """PostgreSQL keeps its own log, of all its databases; its length is the operator's matter."""

    def measure_bytes(self) -> dict[str, int]:
        return {}


def _read_snapshot(get_connection: Callable[[], PostgresConnection], function: Callable[[Connection], T]) -> T:
    connection = get_connection()
    try:
        with connection.snapshot():
            return function(connection)
    except psycopg.Error:
        if connection.in_use:
            raise
    connection = get_connection()  # it was lost, perhaps long ago
    with connection.snapshot():
        return function(connection)


def _was_cut(connection: PostgresConnection | None) -> bool:
    """Whether a write failed with its connection, before it was told to commit: it has left nothing."""
    return connection is not None and not connection.in_use and not connection.may_have_committed
