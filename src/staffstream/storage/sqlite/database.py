"""The open SQLite file: one writer whose transactions share commits, and a few readers.

Work is handed in as plain functions over a connection and runs in one hop on a database thread. A write function is
one transaction; those that wait together share one commit, a savepoint each, because with `synchronous=FULL` the fsync
is the cost. Once handed in, a write runs whole or not at all, whether or not its caller still waits.
"""

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pysqlite3

from staffstream.errors import StorageLost, StorageUnavailable
from staffstream.storage.database import Connection, Group
from staffstream.storage.pending_writes import Outcome, Write, report_outcome
from staffstream.storage.sqlite.connections import SqliteConnection, connect, translate_error
from staffstream.storage.sqlite.files import prepare_file
from staffstream.storage.sqlite.threads import ConnectionThread

log = logging.getLogger(__name__)
T = TypeVar("T")

READERS = 4
_MAX_PER_COMMIT = 256
_CLEARING_TRIES = 20
_CLEARING_PAUSE_S = 0.1


class SqliteDatabase:
    """A `Database` over one file. Made by `open`, which also closes it."""

    def __init__(self, path: Path, writer: ConnectionThread, readers: list[ConnectionThread]) -> None:
        self._path = path
        self._writer = writer
        self._idle: asyncio.LifoQueue[ConnectionThread] = asyncio.LifoQueue()
        for reader in readers:
            self._idle.put_nowait(reader)
        self._queue: asyncio.Queue[Write | None] = asyncio.Queue()
        self._closed = False
        self._identity = FileIdentity(path)
        self.on_commit: Callable[[int, float], None] | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, path: Path, *, durability: str = "full") -> AsyncIterator["SqliteDatabase"]:
        """An open database over a file that is made or migrated first. Raises SetupError."""
        await asyncio.to_thread(prepare_file, path, durability=durability)
        group = Group()
        async with contextlib.AsyncExitStack() as stack:
            open_file = functools.partial(connect, path, durability=durability)
            writer = await stack.enter_async_context(ConnectionThread.open(open_file))
            open_reader = functools.partial(open_file, read_only=True, group=group)
            readers = [await stack.enter_async_context(ConnectionThread.open(open_reader)) for _ in range(READERS)]
            database = cls(path, writer, readers)
            writing = asyncio.create_task(database._write_batches(), name="database writer")
            try:
                yield database
            finally:
                database._closed = True
                database._queue.put_nowait(None)
                await asyncio.shield(writing)

    async def write(self, function: Callable[[Connection], T], *, then: Callable[[T], None] | None = None) -> T:
        if self._closed:
            raise StorageUnavailable
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(Write(function, then, future))
        return await future

    async def read(self, function: Callable[[Connection], T]) -> T:
        reader = await self._idle.get()
        work = reader.run(_read_snapshot, function)
        work.add_done_callback(lambda done: self._give_back(reader, done))
        try:
            result: T = await asyncio.shield(work)
        except pysqlite3.Error as error:
            raise translate_error(error) from error
        return result

    async def clear_log(self) -> None:
        """The log is written into the file and emptied. A reader in another process can be in the way for a moment."""
        for _ in range(_CLEARING_TRIES):
            if await self._writer.run(_empty_log):
                return
            await asyncio.sleep(_CLEARING_PAUSE_S)
        log.warning("the write-ahead log is in use and still holds what was erased; a later checkpoint takes it")

    def measure_bytes(self) -> dict[str, int]:
        files = {"file": self._path, "wal": self._path.with_name(self._path.name + "-wal")}
        return {name: path.stat().st_size for name, path in files.items() if path.exists()}

    def _give_back(self, reader: ConnectionThread, done: asyncio.Future[Any]) -> None:
        self._idle.put_nowait(reader)
        if not done.cancelled():
            done.exception()  # mark it as retrieved: its caller may have been cancelled meanwhile

    async def _write_batches(self) -> None:
        stopping = False
        while not stopping:
            batch, stopping = await self._next_batch()
            if not batch:
                continue
            started = time.perf_counter()
            outcomes = await self._writer.run(_commit_batch, batch, self._identity)
            if self.on_commit:
                self.on_commit(len(batch), time.perf_counter() - started)
            for write, outcome in zip(batch, outcomes, strict=True):
                report_outcome(write, *outcome)

    async def _next_batch(self) -> tuple[list[Write], bool]:
        first = await self._queue.get()
        batch = [first]
        while len(batch) < _MAX_PER_COMMIT and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return [write for write in batch if write], None in batch


class FileIdentity:
    """Which files the database was opened as: itself, and its log of what is not in it yet."""

    def __init__(self, path: Path) -> None:
        self._paths = (path, path.with_name(path.name + "-wal"))
        self._inodes: list[tuple[int, int] | None] = [_find_inode(path), None]
        self._lost = False

    def check(self) -> None:
        """Raises StorageLost if a file was deleted, moved or replaced since it was seen first."""
        for place, path in enumerate(self._paths):
            inode = _find_inode(path)
            if self._inodes[place] is None:
                self._inodes[place] = inode  # the log is made by the first transaction
            if inode != self._inodes[place]:
                self._lose(path)

    def _lose(self, path: Path) -> None:
        if not self._lost:
            log.critical("%s was deleted, moved or replaced: nothing is saved any more. Restart the server.", path)
        self._lost = True
        raise StorageLost


def _find_inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _empty_log(connection: SqliteConnection) -> bool:
    """Whether the log could be emptied at once; writes wait behind this."""
    connection.execute("PRAGMA busy_timeout = 50")
    try:
        return bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
    finally:
        connection.execute("PRAGMA busy_timeout = 10000")


def _read_snapshot(connection: SqliteConnection, function: Callable[[Connection], T]) -> T:
    with connection.snapshot():
        return function(connection)


def _commit_batch(connection: SqliteConnection, batch: list[Write], identity: "FileIdentity") -> list[Outcome]:
    """Run each write behind a savepoint of its own and commit them together; every write gets its outcome. None is
    acknowledged when the file has not the name any more by which a restart will open it.
    """
    outcomes: list[Outcome] = []
    try:
        identity.check()
        connection.execute("BEGIN IMMEDIATE")
        for write in batch:
            outcomes.append(_run_in_savepoint(connection, write.function))
        connection.execute("COMMIT")
        identity.check()
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        failure = translate_error(error)
        return [(None, failure)] * len(batch)
    return outcomes


def _run_in_savepoint(connection: SqliteConnection, function: Callable[[Connection], Any]) -> Outcome:
    connection.execute("SAVEPOINT one")
    try:
        value = function(connection)
    except BaseException as error:
        # A full disk rolls the whole transaction back by itself; going on would write in autocommit.
        if not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO one")
        connection.execute("RELEASE one")
        return None, translate_error(error)
    connection.execute("RELEASE one")
    return value, None
