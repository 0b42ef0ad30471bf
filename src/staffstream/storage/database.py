"""The SQLite file: opening it, its one writer, its readers, its migrations.

SQLite comes from `pysqlite3` everywhere: two builds of SQLite on one file in one process can lose committed data, and
the stdlib's often cannot load extensions. Work is handed in as plain functions over a connection and run in one hop
on a database thread: `await database.write(lambda tx: …)`. A write function is one transaction; those that wait
together share one commit, a savepoint each, because with `synchronous=FULL` the fsync is the cost. Once handed in, a
write runs whole or not at all, whether or not its caller still waits.
"""

import asyncio
import contextlib
import importlib.resources
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import aiosqlite
import pysqlite3
import sqlite_vec

from staffstream.errors import SetupError, StaffstreamError, StorageFull, StorageUnavailable

if TYPE_CHECKING:  # pysqlite3 is the stdlib module's twin and ships no types
    from sqlite3 import Connection, Row
else:
    from pysqlite3 import Connection, Row

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "SQLITE_VERSION",
    "Connection",
    "Database",
    "DriverError",
    "Group",
    "Row",
    "connect",
    "get_group",
    "prepare_file",
    "read_schema",
    "transact",
]

log = logging.getLogger(__name__)
T = TypeVar("T")

OLDEST_SQLITE = (3, 51, 3)  # older ones can corrupt a database when the WAL is reset
DriverError = pysqlite3.Error  # the base of all that the driver raises
SQLITE_VERSION: str = pysqlite3.sqlite_version
APPLICATION_ID = 0x53544653  # schema.sql sets it
READERS = 4
_MOST_PER_COMMIT = 256


# ── files and connections ────────────────────────────────────────────────────────────────────────────────────────────


class _Connection(Connection):
    """Can be referred to weakly, so that what is kept in memory beside a connection goes with it."""

    group: object | None = None


class Group:
    """Stands for the connections that read one file together: what is kept in memory for one serves all."""


def get_group(connection: Connection) -> object:
    """The group of a connection; one that was opened alone is its own."""
    return getattr(connection, "group", None) or connection


def connect(
    path: Path | str, *, durability: str = "full", read_only: bool = False, group: object | None = None
) -> Connection:
    """An open connection with extensions and pragmas as every part of staffstream uses it, commands and tests
    included.
    """
    connection: Connection = pysqlite3.connect(
        str(path), factory=_Connection, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    try:
        connection.row_factory = pysqlite3.Row
        connection.group = group  # type: ignore[attr-defined]
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.enable_load_extension(True)
        sqlite_vec.load(connection)
        connection.enable_load_extension(False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {durability.upper()}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA cache_size = -8192")  # KiB a connection: the system keeps the file's pages too
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA secure_delete = ON")  # what is erased leaves no bytes in free pages
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def read_schema() -> str:
    """schema.sql: beside the package in a wheel, at the repository's top in an editable install."""
    inside = importlib.resources.files("staffstream").joinpath("schema.sql")
    if inside.is_file():
        return inside.read_text("utf-8")
    return (Path(__file__).parents[3] / "schema.sql").read_text("utf-8")


def read_version(schema: str | None = None) -> int:
    """The version of today's tables."""
    return int((schema or read_schema()).rsplit("user_version = ", 1)[1].split(";", 1)[0])


def read_migrations() -> list[tuple[int, str]]:
    """(version it leads to, SQL) of each migration, in order. `0002_….sql` leads from version 1 to version 2."""
    folder = importlib.resources.files("staffstream").joinpath("storage", "migrations")
    files = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql")) if folder.is_dir() else []
    return [(int(name[:4]), folder.joinpath(name).read_text("utf-8")) for name in files]


def prepare_file(path: Path, *, durability: str = "full") -> None:
    """Make the file, or bring an older one to today's tables, each step one transaction.

    Raises SetupError when the file cannot be used, and has then changed nothing in it.
    """
    _check_place(path)
    schema = read_schema()
    try:
        _check_owner(path, read_version(schema))
        with contextlib.closing(connect(path, durability=durability)) as connection:
            _migrate(connection, schema)
    except pysqlite3.DatabaseError as error:
        log.debug("opening %s failed", path, exc_info=error)
        raise SetupError(
            f"{path} cannot be used as a database: {error}. If the file is damaged, put a backup in its place."
        ) from error


def _check_place(path: Path) -> None:
    if pysqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise SetupError(
            f"SQLite {pysqlite3.sqlite_version} is too old: at least {'.'.join(map(str, OLDEST_SQLITE))} is needed. "
            "Upgrade it with: pip install -U pysqlite3"
        )
    if not os.path.isdir(path.parent):
        raise SetupError(f"The directory {path.parent} does not exist. Make it, or name another file with --db.")
    if os.path.isdir(path):  # Path.is_dir raises where it may not look
        raise SetupError(f"{path} is a directory. Name a file with --db.")
    if not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise SetupError(f"{path} cannot be written. Give this user the right to, or name another file with --db.")


def make_private(path: Path | str, *, like: Path | None = None) -> int:
    """A descriptor of a new file that only its owner can read. One that root makes belongs to the owner of `like`, or
    else of its directory, as what SQLite puts beside a database does: a command run by root must not lock the
    server's user out. Raises OSError, FileExistsError among it.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        model = os.stat(like if like and like.exists() else os.path.dirname(os.path.abspath(path)))
        os.fchown(descriptor, model.st_uid, model.st_gid)  # by descriptor: a name could be made to lead elsewhere
    return descriptor


def _check_owner(path: Path, current: int) -> None:
    """Refuse a file that is not ours, or newer than we are, before our pragmas change anything in it."""
    with contextlib.suppress(FileExistsError):
        os.close(make_private(path))
    with open(path, "ab+") as file:  # a link may lead to one that is not there yet
        file.seek(0)
        head = file.read(16)
    if head and head != b"SQLite format 3\0":  # SQLite would take one of a few bytes for an empty database
        raise SetupError(
            f"{path} is no database. If the file is damaged, put a backup in its place; else name another with --db."
        )
    with contextlib.closing(pysqlite3.connect(str(path))) as connection:
        application, version = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        used = version or connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
    if application != APPLICATION_ID and used:
        raise SetupError(f"{path} is another program's database. Name another file with --db.")
    if version > current:
        raise SetupError(
            f"{path} was made by a newer staffstream (schema {version}, this one knows {current}). Upgrade staffstream."
        )


def _migrate(connection: Connection, schema: str) -> None:
    with transact(connection):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            _run_script(connection, schema)
            return
        for target, script in read_migrations():
            if target > version:
                log.info("migrating the database to schema %d", target)
                _run_script(connection, script)


def _run_script(connection: Connection, script: str) -> None:
    """Run statements one by one: `executescript` would commit the transaction we are in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if pysqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    connection.execute(statement)  # the last one may lack its semicolon


@contextlib.contextmanager
def transact(connection: Connection) -> Iterator[None]:
    """The block is one transaction, for commands that work on a connection of their own."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_UNAVAILABLE = (  # and their extended codes
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_IOERR",
    "SQLITE_READONLY",
    "SQLITE_CANTOPEN",
    "SQLITE_CORRUPT",
    "SQLITE_NOTADB",
    "SQLITE_PROTOCOL",
)
_VECTOR_TROUBLE = "Internal sqlite-vec error"  # what sqlite-vec makes of every error beneath it, of a full disk too


def translate_error(error: BaseException) -> BaseException:
    """What a caller should see: storage trouble as a StaffstreamError, anything else (a bug, say) as it is."""
    if not isinstance(error, pysqlite3.Error):
        return error
    name: str = getattr(error, "sqlite_errorname", "") or ""
    translated: StaffstreamError | None = None
    if name.startswith("SQLITE_FULL"):
        translated = StorageFull()
    elif name.startswith(_UNAVAILABLE) or str(error).startswith(_VECTOR_TROUBLE):
        translated = StorageUnavailable()
    if translated is None:
        return error  # type: ignore[no-any-return]
    log.error("the database refused a transaction: %s", name, exc_info=error)
    translated.__cause__ = error
    return translated


# ── presence: is another process using this file? ────────────────────────────────────────────────────────────────────


class Presence:
    """A shared lock on `<db>.lock` that the kernel drops with its process, however that ends.

    The first process on a file holds it exclusively while it tidies up after the last one; then it shares it. `restore`
    and `compact` hold it exclusively to the end. Raises SetupError where it cannot be had at all.
    Where there is no flock (Windows), nobody is ever known to be alone, and leases decide.
    """

    def __init__(self, path: Path) -> None:
        _check_place(path)
        try:
            with contextlib.suppress(FileExistsError):
                os.close(make_private(f"{path}.lock", like=path))
            self._file = open(f"{path}.lock", "ab")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise SetupError(f"{path}.lock cannot be opened: {error.strerror}. Give this user the right to.") from error
        self.alone = self._lock(fcntl.LOCK_EX) if fcntl else False

    async def enter(self) -> None:
        """Wait until the file may be opened: not while another process tidies up, or puts a backup in its place."""
        if not self.alone:
            await self.share()

    async def share(self) -> None:
        """Let other processes in; waits while another one is tidying up."""
        while fcntl and not self._lock(fcntl.LOCK_SH):  # noqa: ASYNC110 - another process is waited for
            await asyncio.sleep(0.02)
        self.alone = False

    def _lock(self, mode: int) -> bool:
        try:
            fcntl.flock(self._file, mode | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._file.close()


# ── the database ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Write:
    function: Callable[[Connection], Any]
    then: Callable[[Any], None] | None
    future: asyncio.Future[Any]


class Database:
    """One writer connection and a few readers over one file. Made by `Database.open`, which also closes it."""

    def __init__(self, writer: aiosqlite.Connection, readers: list[aiosqlite.Connection]) -> None:
        self._writer = writer
        self._idle: asyncio.LifoQueue[aiosqlite.Connection] = asyncio.LifoQueue()
        for reader in readers:
            self._idle.put_nowait(reader)
        self._queue: asyncio.Queue[_Write | None] = asyncio.Queue()
        self._closed = False
        self.on_commit: Callable[[int, float], None] | None = None
        """Called after each commit with (transactions in it, seconds it took)."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, path: Path, *, durability: str = "full") -> AsyncIterator["Database"]:
        """An open database over a file that is made or migrated first. Raises SetupError."""
        await asyncio.to_thread(prepare_file, path, durability=durability)
        group = Group()
        async with contextlib.AsyncExitStack() as stack:
            writer = await stack.enter_async_context(
                aiosqlite.Connection(lambda: connect(path, durability=durability), 64)
            )
            readers = [
                await stack.enter_async_context(
                    aiosqlite.Connection(lambda: connect(path, durability=durability, read_only=True, group=group), 64)
                )
                for _ in range(READERS)
            ]
            database = cls(writer, readers)
            writing = asyncio.create_task(database._write_batches(), name="database writer")
            try:
                yield database
            finally:
                database._closed = True
                database._queue.put_nowait(None)
                await asyncio.shield(writing)

    async def write(self, function: Callable[[Connection], T], *, then: Callable[[T], None] | None = None) -> T:
        """Run `function` as one transaction on the writer and return what it returned, after the commit.

        `then` is called with that value in the event loop right after the commit, whether or not the caller still
        waits: what must follow a write belongs there. What the function raises is raised here and leaves no trace in
        the file. Raises StorageFull or StorageUnavailable when the commit fails. A caller that is cancelled does not
        stop a write that was handed in.
        """
        if self._closed:
            raise StorageUnavailable
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Write(function, then, future))
        return await future

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Run `function` over one consistent snapshot on a reader and return what it returned."""
        reader = await self._idle.get()
        work = asyncio.ensure_future(reader._execute(_read_snapshot, reader._conn, function))  # type: ignore[no-untyped-call]
        work.add_done_callback(lambda done: self._give_back(reader, done))
        try:
            result: T = await asyncio.shield(work)
        except pysqlite3.Error as error:
            raise translate_error(error) from error
        return result

    def _give_back(self, reader: aiosqlite.Connection, done: asyncio.Future[Any]) -> None:
        self._idle.put_nowait(reader)
        if not done.cancelled():
            done.exception()  # heard, though whoever asked may have been cancelled meanwhile

    async def _write_batches(self) -> None:
        stopping = False
        while not stopping:
            batch, stopping = await self._next_batch()
            if not batch:
                continue
            started = time.perf_counter()
            # `_execute` is aiosqlite's one mode to its thread for a whole function; a hop a statement costs 25 µs each.
            outcomes = await self._writer._execute(_commit_batch, self._writer._conn, batch)  # type: ignore[no-untyped-call]
            if self.on_commit:
                self.on_commit(len(batch), time.perf_counter() - started)
            for write, outcome in zip(batch, outcomes, strict=True):
                _report(write, *outcome)

    async def _next_batch(self) -> tuple[list[_Write], bool]:
        first = await self._queue.get()
        batch = [first]
        while len(batch) < _MOST_PER_COMMIT and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return [write for write in batch if write], None in batch


def _report(write: _Write, value: Any, error: BaseException | None) -> None:
    if error is None and write.then:
        try:
            write.then(value)
        except Exception as bug:  # the writer has to go on
            log.exception("what follows a write failed")
            error = bug
    if write.future.done():  # its caller was cancelled; the write stands
        return
    if error is None:
        write.future.set_result(value)
    else:
        write.future.set_exception(error)


def _read_snapshot(connection: Connection, function: Callable[[Connection], T]) -> T:
    connection.execute("BEGIN")
    try:
        return function(connection)
    finally:
        connection.execute("ROLLBACK")


Outcome = tuple[Any, BaseException | None]


def _commit_batch(connection: Connection, batch: list[_Write]) -> list[Outcome]:
    """Run each write behind a savepoint of its own and commit them together; every write gets its outcome."""
    outcomes: list[Outcome] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for write in batch:
            outcomes.append(_run_in_savepoint(connection, write.function))
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        failure = translate_error(error)
        return [(None, failure)] * len(batch)
    return outcomes


def _run_in_savepoint(connection: Connection, function: Callable[[Connection], Any]) -> Outcome:
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
