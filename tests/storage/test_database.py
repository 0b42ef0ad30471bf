"""The open SQLite file: one writer whose transactions share commits, and snapshot reads."""

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pysqlite3
import pytest

from staffstream.errors import NotFound, StorageUnavailable
from staffstream.storage.database import Connection
from staffstream.storage.sqlite import database as room
from staffstream.storage.sqlite.connections import connect
from staffstream.storage.sqlite.database import SqliteDatabase as Database
from tests.tools.provider_script import DEADLINE_S

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(db: Path) -> AsyncIterator[Database]:
    async with Database.open(db) as database:
        await database.write(lambda tx: tx.execute("CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT"))
        yield database


def _insert(n: int) -> Callable[[Connection], int]:
    def insert(tx: Connection) -> int:
        tx.execute("INSERT INTO t VALUES (?)", (n,))
        return n

    return insert


def _select(conn: Connection) -> list[int]:
    return [row[0] for row in conn.execute("SELECT n FROM t ORDER BY n")]


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_writes_that_wait_together_share_commits(database: Database) -> None:
    """A thousand of them need a few fsyncs; every one is there, and every caller gets its own value."""
    commits: list[int] = []
    database.on_commit = lambda count, seconds: commits.append(count)
    assert await asyncio.gather(*(database.write(_insert(n)) for n in range(1000))) == list(range(1000))
    assert sum(commits) == 1000
    assert len(commits) < 20
    assert await database.read(_select) == list(range(1000))


async def test_a_write_that_fails_leaves_no_trace_and_no_harm(database: Database) -> None:
    """Those that share its commit stand; what it had written before it failed does not."""

    def fail(tx: Connection) -> None:
        tx.execute("INSERT INTO t VALUES (100)")
        raise NotFound

    outcomes = await asyncio.gather(
        database.write(_insert(1)),
        database.write(fail),
        database.write(_insert(1)),
        database.write(_insert(2)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [int, NotFound, pysqlite3.IntegrityError, int]
    assert await database.read(_select) == [1, 2]


async def test_a_cancelled_caller_does_not_stop_its_write(database: Database) -> None:
    """What was handed in is done whole, what follows it too, and the next writer is not disturbed."""
    followed: list[int] = []
    hold, entered = threading.Event(), threading.Event()

    def insert_slowly(tx: Connection) -> int:
        entered.set()
        hold.wait(DEADLINE_S)
        return _insert(1)(tx)

    first = asyncio.create_task(database.write(insert_slowly, then=followed.append))
    await asyncio.to_thread(entered.wait, DEADLINE_S)
    waiting = asyncio.create_task(database.write(_insert(2), then=followed.append))
    await asyncio.sleep(0)
    first.cancel()
    waiting.cancel()
    hold.set()
    assert await database.write(_insert(3)) == 3
    assert await database.read(_select) == [1, 2, 3]
    assert followed == [1, 2]
    assert first.cancelled()
    assert waiting.cancelled()


async def test_what_follows_a_write_comes_after_its_commit(database: Database) -> None:
    """And before its caller goes on; a write that fails is followed by nothing."""
    order: list[object] = []
    database.on_commit = lambda count, seconds: order.append("commit")
    await database.write(_insert(1), then=lambda value: order.append(value))
    order.append("caller")
    with pytest.raises(pysqlite3.IntegrityError):
        await database.write(_insert(1), then=order.append)
    assert order == ["commit", 1, "caller", "commit"]


@pytest.mark.logs_errors
async def test_a_bug_in_what_follows_does_not_stop_the_writer(database: Database) -> None:
    """It is raised to the caller, the write stands, and later writes go on."""

    def fail(value: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(_insert(1), then=fail)
    assert await database.write(_insert(2)) == 2
    assert await database.read(_select) == [1, 2]


async def test_closing_finishes_what_was_handed_in(db: Path) -> None:
    """Also for callers that no longer wait."""
    async with Database.open(db) as database:
        await database.write(lambda tx: tx.execute("CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT"))
        tasks = [asyncio.create_task(database.write(_insert(n))) for n in range(300)]
        await asyncio.sleep(0)
    assert [await task for task in tasks] == list(range(300))
    with contextlib.closing(connect(db)) as connection:
        assert len(_select(connection)) == 300


async def test_writing_to_a_closed_database_is_an_error(db: Path) -> None:
    """Rather than a wait without end."""
    async with Database.open(db) as database:
        pass
    async with asyncio.timeout(5):
        with pytest.raises(StorageUnavailable):
            await database.write(lambda tx: None)


@pytest.mark.logs_errors
async def test_another_process_that_writes_too_long_is_trouble_with_the_storage(db: Path, database: Database) -> None:
    """A lock held beyond the busy timeout is a 503 of ours, not an exception of SQLite's."""
    await database.write(lambda tx: tx.execute("PRAGMA busy_timeout = 50"))
    with contextlib.closing(connect(db)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable):
            await database.write(_insert(1))
        other.execute("ROLLBACK")
    assert await database.write(_insert(1)) == 1


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_read_sees_one_moment(database: Database) -> None:
    """A commit in the middle of it changes nothing for it, and does not wait for it."""
    await database.write(_insert(1))
    began, committed = threading.Event(), threading.Event()

    def read_twice(conn: Connection) -> tuple[list[int], list[int]]:
        first = _select(conn)
        began.set()
        committed.wait(DEADLINE_S)
        return first, _select(conn)

    reading = asyncio.create_task(database.read(read_twice))
    await asyncio.to_thread(began.wait, DEADLINE_S)
    await database.write(_insert(2))
    committed.set()
    assert await reading == ([1], [1])
    assert await database.read(_select) == [1, 2]


async def test_reads_run_beside_each_other(database: Database) -> None:
    """As many as there are readers meet; more wait their turn."""
    meeting = threading.Barrier(room.READERS, timeout=DEADLINE_S)
    reads = [database.read(lambda conn: meeting.wait()) for _ in range(2 * room.READERS)]
    assert len(await asyncio.gather(*reads)) == 2 * room.READERS


async def test_a_cancelled_read_gives_its_reader_back(database: Database) -> None:
    """After the thread is done with it, not before."""
    hold = threading.Event()
    tasks = [asyncio.create_task(database.read(lambda conn: hold.wait(DEADLINE_S))) for _ in range(3 * room.READERS)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    hold.set()
    assert await asyncio.gather(*(database.read(_select) for _ in range(3 * room.READERS)))


async def test_an_error_that_nobody_waits_for_any_more_is_not_reported_as_lost(database: Database) -> None:
    """A read whose caller was cancelled may fail like any other."""
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    begun, fail = threading.Event(), threading.Event()

    def read(conn: Connection) -> None:
        begun.set()
        fail.wait(10)
        raise NotFound

    reading = asyncio.create_task(database.read(read))
    await asyncio.to_thread(begun.wait)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    del reading  # whose traceback holds on to the work
    fail.set()
    await asyncio.sleep(0.1)
    gc.collect()
    assert reported == []


async def test_a_read_that_fails_leaves_its_reader_fit(database: Database) -> None:
    """What it raises is raised; the next read has a fresh snapshot."""

    def fail(conn: Connection) -> None:
        _select(conn)
        raise NotFound

    for _ in range(2 * room.READERS):
        with pytest.raises(NotFound):
            await database.read(fail)
    await database.write(_insert(1))
    assert await database.read(_select) == [1]


@pytest.mark.logs_errors
async def test_readers_cannot_write(database: Database) -> None:
    """A write that takes the wrong mode fails."""
    with pytest.raises((pysqlite3.Error, StorageUnavailable)):
        await database.read(_insert(1))
    assert await database.read(_select) == []


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
async def test_every_connection_has_its_pragmas(db: Path, durability: str, level: int) -> None:
    """WAL, the durability asked for, foreign keys; sqlite-vec is loaded."""

    def read(conn: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [conn.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    async with Database.open(db, durability=durability) as database:
        for work in (database.read, database.write):
            assert await work(read) == ["wal", level, 1]
            assert (await work(lambda conn: conn.execute("SELECT vec_version()").fetchone()))[0].startswith("v0.")


async def test_any_unicode_is_kept(database: Database) -> None:
    """NUL included, where SQLite's own length() stops."""
    text = "a\0b😀\u2028\x85"
    await database.write(lambda tx: tx.execute("INSERT INTO meta VALUES ('k', ?)", (text,)))
    assert (await database.read(lambda conn: conn.execute("SELECT value FROM meta").fetchone()))[0] == text
