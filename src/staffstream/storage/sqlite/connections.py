"""Opening a connection to the SQLite file, its transactions, and its errors in our words.

SQLite comes from `pysqlite3` everywhere: two builds of SQLite on one file in one process can lose committed data, and
the stdlib's often cannot load extensions.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pysqlite3
import sqlite_vec

from staffstream.errors import StaffstreamError, StorageFull, StorageUnavailable
from staffstream.storage.sqlite.search import SqliteSearch

if TYPE_CHECKING:  # pysqlite3 is the stdlib module's twin and ships no types
    from sqlite3 import Connection
else:
    from pysqlite3 import Connection

log = logging.getLogger(__name__)


class SqliteConnection(Connection):
    """The driver's connection as it is, so that a statement costs nothing more. Can be referred to weakly: what is
    cached for a connection goes with it.
    """

    search = SqliteSearch()
    misfit_errors = (
        pysqlite3.IntegrityError,
        pysqlite3.InterfaceError,
        pysqlite3.ProgrammingError,
        OverflowError,
        TypeError,
        UnicodeEncodeError,
    )
    shared_group: object | None = None

    @property
    def group(self) -> object:
        return self.shared_group or self

    def list_columns(self, table: str) -> dict[str, bool]:
        rows = self.execute('SELECT name, pk OR "notnull" AND dflt_value IS NULL FROM pragma_table_info(?)', (table,))
        return {name: bool(needed) for name, needed in rows}

    def lock_scope(self, scope_id: int) -> None:
        """SQLite has one writer: nobody else writes anywhere."""

    def try_lock_scope(self, scope_id: int) -> bool:
        return True

    @contextlib.contextmanager
    def transact(self) -> Iterator[None]:
        self.execute("BEGIN IMMEDIATE")  # an upgrade from read to write would fail at once while another one writes
        try:
            yield
        except BaseException:
            if self.in_transaction:
                self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        self.execute("BEGIN")
        try:
            yield
        finally:
            self.execute("ROLLBACK")


def connect(
    path: Path | str, *, durability: str = "full", read_only: bool = False, group: object | None = None
) -> SqliteConnection:
    """An open connection with extensions and pragmas as every part of staffstream uses it, commands and tests
    included.
    """
    connection: SqliteConnection = pysqlite3.connect(
        str(path), factory=SqliteConnection, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    try:
        connection.row_factory = pysqlite3.Row
        connection.shared_group = group
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


def get_error_name(error: BaseException) -> str | None:
    """SQLite's name of an error of the driver, such as SQLITE_CORRUPT; None for any other error."""
    if not isinstance(error, pysqlite3.Error):
        return None
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


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
