"""The SQLite file: one writer whose transactions share commits, snapshot reads, migrations, and clear refusals."""

import asyncio
import contextlib
import gc
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pysqlite3
import pytest

from staffstream.errors import NotFound, SetupError, StorageUnavailable
from staffstream.storage import database as room
from staffstream.storage.database import (
    Connection,
    Database,
    Presence,
    connect,
    prepare_file,
    read_migrations,
    read_schema,
)
from tests.tools.provider import DEADLINE_S

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


# ── making and migrating ─────────────────────────────────────────────────────────────────────────────────────────────


def _describe(path: Path) -> dict[str, object]:
    """What a schema is, however it came to be: columns, indexes, foreign keys, triggers, options, versions."""
    with contextlib.closing(connect(path)) as conn:

        def rows(statement: str) -> list[tuple[object, ...]]:
            return sorted((tuple(row) for row in conn.execute(statement)), key=repr)

        names = [row[0] for row in rows("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        indexes = [row[0] for row in rows("SELECT name FROM sqlite_schema WHERE type = 'index'")]
        return {
            "tables": rows("SELECT name, type, ncol, wr, strict FROM pragma_table_list WHERE schema = 'main'"),
            "columns": {
                name: rows(f"SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo('{name}')")
                for name in names
            },
            "keys": {name: rows(f"SELECT * FROM pragma_foreign_key_list('{name}')") for name in names},
            "indexes": {
                name: rows(f"SELECT name, desc, coll, key FROM pragma_index_xinfo('{name}')") for name in indexes
            },
            "unique": {
                name: rows(f"SELECT name, \"unique\", partial FROM pragma_index_list('{name}')") for name in names
            },
            "triggers": rows("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"),
            "versions": [conn.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id")],
        }


def _todays_version() -> int:
    return int(read_schema().rsplit("user_version = ", 1)[1].split(";", 1)[0])


OLD_SCHEMAS = Path(__file__).parents[1] / "schemas"
"""schema.sql as it was at each version before today's, by number: 0001.sql …"""


def test_migrations_lead_from_every_older_schema_to_todays(tmp_path: Path) -> None:
    """Each version has its migration and its old schema kept, and a migrated database is what a fresh one is."""
    versions = range(1, _todays_version())
    assert [target for target, _ in read_migrations()] == [version + 1 for version in versions]
    prepare_file(tmp_path / "fresh.db")
    for version in versions:
        path = tmp_path / f"{version}.db"
        with contextlib.closing(connect(path)) as conn:
            conn.executescript((OLD_SCHEMAS / f"{version:04d}.sql").read_text("utf-8"))
        prepare_file(path)
        assert _describe(path) == _describe(tmp_path / "fresh.db"), f"from version {version}"


STEP_1 = """
ALTER TABLE meta ADD COLUMN note TEXT;  -- with a comment; and a semicolon
CREATE TABLE extra (id TEXT PRIMARY KEY, meta_key TEXT REFERENCES meta ON DELETE CASCADE) STRICT;
CREATE TRIGGER extra_kept AFTER DELETE ON extra BEGIN
    INSERT INTO meta VALUES ('last', old.id, NULL);
    DELETE FROM meta WHERE key = 'older';
END;
INSERT INTO meta VALUES ('moved', 'yes', NULL);
PRAGMA user_version = {version};
"""
STEP_2 = "CREATE INDEX extra_of_meta ON extra (meta_key);\nPRAGMA user_version = {version}"  # no semicolon at the end


def _teach(monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    """Make it the truth of tomorrow: today's schema with these steps taken."""
    today, later = read_schema(), _todays_version() + len(steps)
    migrations = [(n, step.format(version=n)) for n, step in enumerate(steps, _todays_version() + 1)]
    whole = "\n".join([today.rsplit("PRAGMA user_version", 1)[0], *(step for _, step in migrations)]) + ";\n"
    monkeypatch.setattr(room, "read_schema", lambda: whole + f"PRAGMA user_version = {later};\n")
    monkeypatch.setattr(room, "read_migrations", lambda: migrations)


def test_a_migration_is_run_to_its_last_statement(db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, triggers and unfinished last lines included; what the file held is kept."""
    prepare_file(db)
    with contextlib.closing(connect(db)) as conn:
        conn.execute("INSERT INTO meta VALUES ('kept', 'yes')")
    _teach(monkeypatch, STEP_1, STEP_2)
    prepare_file(db)
    prepare_file(tmp_path / "fresh.db")
    assert _describe(db) == _describe(tmp_path / "fresh.db")
    with contextlib.closing(connect(db)) as conn:
        assert {row["key"] for row in conn.execute("SELECT key FROM meta")} == {"kept", "moved"}
    prepare_file(db)


def test_a_migration_that_fails_changes_nothing(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its own first half nor the steps before it; today's program still opens the file."""
    prepare_file(db)
    before = _describe(db)
    with monkeypatch.context() as tomorrow:
        _teach(tomorrow, STEP_1, "CREATE TABLE more (n);\nCREATE TABLE meta (oops);")
        with pytest.raises(SetupError):
            prepare_file(db)
    assert _describe(db) == before
    prepare_file(db)


def test_many_that_start_at_once_make_one_database(db: Path) -> None:
    """Two servers, or a server and a command, on a file that is not there yet."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(prepare_file, [db] * 8))
    assert _describe(db)["versions"] == [_todays_version(), 0x53544653]


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _expect_refusal(path: Path, words: str) -> None:
    """A SetupError with these words, and a file that is byte for byte what it was."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(SetupError, match=words):
        prepare_file(path)
    assert (path.read_bytes() if path.is_file() else None) == before


def _make_foreign(path: Path, *, user_version: int = 0) -> None:
    with contextlib.closing(pysqlite3.connect(str(path))) as conn:
        conn.execute("CREATE TABLE songs (title TEXT)")
        conn.execute(f"PRAGMA user_version = {user_version}")
        conn.commit()


def test_a_newer_schema_is_refused(db: Path) -> None:
    """An older program would not know what it breaks."""
    prepare_file(db)
    with contextlib.closing(connect(db)) as conn:
        conn.execute("PRAGMA user_version = 999")
    _expect_refusal(db, "newer staffstream")


@pytest.mark.parametrize("user_version", [0, 1, 999])
def test_another_programs_database_is_refused(db: Path, user_version: int) -> None:
    """Whatever its own version is called, and not so much as its journal mode is changed."""
    _make_foreign(db, user_version=user_version)
    _expect_refusal(db, "another program's database")


@pytest.mark.parametrize("content", [b"not a database, but long enough to look like one" * 100, b"x"])
def test_a_file_that_is_no_database_is_refused(db: Path, content: bytes) -> None:
    """And not overwritten."""
    db.write_bytes(content)
    _expect_refusal(db, "damaged")


def test_a_damaged_database_is_refused(db: Path) -> None:
    """Its header is whole and its pages are not."""
    prepare_file(db)
    data = bytearray(db.read_bytes())
    data[100:4096] = b"\xff" * 3996
    db.write_bytes(data)
    _expect_refusal(db, "damaged")


def test_an_empty_file_is_a_new_database(db: Path) -> None:
    """mktemp made it."""
    db.touch()
    prepare_file(db)
    assert _describe(db)["versions"] == [_todays_version(), 0x53544653]


def test_a_start_that_was_cut_short_is_made_up_for(db: Path) -> None:
    """Killed after the journal mode was set and before there was a table."""
    with contextlib.closing(pysqlite3.connect(str(db))) as conn:
        conn.execute("PRAGMA journal_mode = WAL")
    assert db.stat().st_size > 0
    prepare_file(db)
    assert _describe(db)["versions"] == [_todays_version(), 0x53544653]


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    """With the words that mend it."""
    _expect_refusal(tmp_path / "no" / "such" / "test.db", "does not exist")


def test_a_directory_in_the_files_place_is_refused(tmp_path: Path) -> None:
    """--db is to name a file."""
    with pytest.raises(SetupError):
        prepare_file(tmp_path)


def test_an_old_sqlite_is_refused(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that can corrupt the file when the WAL is reset."""
    monkeypatch.setattr(pysqlite3, "sqlite_version_info", (3, 51, 2))
    _expect_refusal(db, "too old.*pip install")
    assert not db.exists()


NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everyone can reach, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    """Without root's right to everything."""
    if os.getuid() != 0:
        yield
        return
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


@pytest.mark.parametrize(
    ("directory_mode", "file_mode"), [(0o555, None), (0o555, 0o666), (0o777, 0o444), (0o000, None), (0o000, 0o666)]
)
def test_a_place_without_the_right_to_write_is_refused(place: Path, directory_mode: int, file_mode: int | None) -> None:
    """A read-only directory, a read-only file, a directory that cannot even be looked into."""
    directory = place / "data"
    directory.mkdir()
    if file_mode is not None:
        prepare_file(directory / "test.db")
        (directory / "test.db").chmod(file_mode)
    directory.chmod(directory_mode)
    with _as_nobody(), pytest.raises(SetupError, match="cannot be written"):
        prepare_file(directory / "test.db")


# ── presence ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_only_the_first_is_alone_until_it_shares(db: Path) -> None:
    """The second waits while the first tidies up; when all have gone the next one is alone again."""
    with contextlib.closing(Presence(db)) as first:
        assert first.alone
        with contextlib.closing(Presence(db)) as second:
            assert not second.alone
            joining = asyncio.create_task(second.share())
            done, _ = await asyncio.wait([joining], timeout=0.1)
            assert not done
            await first.share()
            assert not first.alone
            await joining
            with contextlib.closing(Presence(db)) as third:
                assert not third.alone
    with contextlib.closing(Presence(db)) as next_one:
        assert next_one.alone
