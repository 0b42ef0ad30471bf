"""Connections to PostgreSQL by psycopg, which run our statements as storage functions write them."""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format
from psycopg.types.numeric import Int8, Int8BinaryDumper
from psycopg.types.string import StrBinaryDumper

from staffstream.errors import StaffstreamError, StorageFull, StorageUnavailable
from staffstream.storage.database import PackedList
from staffstream.storage.postgres.search import PostgresSearch
from staffstream.storage.postgres.translation import Form, translate

log = logging.getLogger(__name__)

CONNECT_S = 5
_SILENCE: Mapping[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}
"""A server that went away without a word is lost after about 20 s."""
SCOPES, OTHERS = 1, 2  # kinds of advisory locks


# ── values and rows ──────────────────────────────────────────────────────────────────────────────────────────────────


# PostgreSQL's text cannot hold U+0000. It is written as U+10FFFF, which is no character, with a 0 behind it, and
# U+10FFFF itself with a 1, so that every text comes back whole.
_ESCAPE, _NUL, _SELF = "\U0010ffff", "\U0010ffff0", "\U0010ffff1"


class _TextDumper(StrBinaryDumper):
    def dump(self, value: str) -> Any:
        if "\0" in value or _ESCAPE in value:
            value = value.replace(_ESCAPE, _SELF).replace("\0", _NUL)
        return super().dump(value)


class _TextLoader(Loader):
    format = Format.BINARY

    def load(self, data: Any) -> str:
        text = str(data, "utf-8")
        return text.replace(_NUL, "\0").replace(_SELF, _ESCAPE) if _ESCAPE in text else text


class _PlainTextLoader(_TextLoader):
    format = Format.TEXT


class _IntegerDumper(Dumper):
    """Every integer as int8: a smaller one by its value would keep indexes on int8 columns from being used."""

    format = Int8BinaryDumper.format
    oid = Int8BinaryDumper.oid

    def dump(self, value: int) -> bytes:
        return int(value).to_bytes(8, "big", signed=True)


class _Row(tuple[Any, ...]):
    """A row by name or position, as SQLite's."""

    __slots__ = ()
    places: Mapping[str, int] = {}

    def __getitem__(self, key: Any, /) -> Any:
        return tuple.__getitem__(self, self.places[key] if type(key) is str else key)

    def keys(self) -> list[str]:
        return list(self.places)


_row_types: dict[tuple[str, ...], type[_Row]] = {}


def _make_rows(cursor: Any) -> Any:
    """psycopg's row factory: one type of row a set of names. Of two columns of one name the first counts."""
    description = cursor.description
    if description is None:
        return tuple
    names = tuple(column.name for column in description)
    kind = _row_types.get(names)
    if kind is None:
        places = {name: place for place, name in reversed(list(enumerate(names)))}
        places = dict(sorted(places.items(), key=lambda item: item[1]))
        kind = _row_types[names] = type("Row", (_Row,), {"places": places, "__slots__": ()})
    return kind


# ── the connection ───────────────────────────────────────────────────────────────────────────────────────────────────


class PostgresConnection:
    """A `Connection` over psycopg's. It commits each statement unless one of its blocks says otherwise."""

    search = PostgresSearch()
    misfit_errors = (psycopg.IntegrityError, psycopg.DataError, psycopg.ProgrammingError, OverflowError, TypeError)

    def __init__(self, driver: "psycopg.Connection[Any]", group: object, *, read_only: bool = False) -> None:
        self.driver = driver
        self.group = group
        self._read_only = read_only
        self._held: set[int] = set()
        self._writing = False
        self.may_have_committed = False
        """Whether the last transaction had been told to commit: if it failed then, its outcome is unknown."""
        row = driver.execute("SELECT hashtext(current_schema())").fetchone()
        self.namespace = int(row[0]) if row and row[0] is not None else 0
        """Of advisory locks: they hold for a whole database server, and ours mean one schema."""

    @property
    def in_use(self) -> bool:
        return not self.driver.closed and not self.driver.broken

    def execute(self, statement: str, parameters: Any = (), /) -> Any:
        text, sources = translate(statement)
        return self.driver.execute(text, _order(sources, parameters))

    def executemany(self, statement: str, rows: Any, /) -> Any:
        text, sources = translate(statement)
        cursor = self.driver.cursor()
        cursor.executemany(text, [_order(sources, row) for row in rows])
        return cursor

    def list_columns(self, table: str) -> dict[str, bool]:
        rows = self.execute(
            "SELECT column_name, is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO' AS needed"
            " FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = ?",
            (table,),
        )
        return {row["column_name"]: bool(row["needed"]) for row in rows}

    def lock_scope(self, scope_id: int) -> None:
        """Only one transaction writes in a scope at a time; SQLite's one writer gives as much."""
        if self._writing and scope_id and scope_id not in self._held:
            self.driver.execute("SELECT pg_advisory_xact_lock($1::int4, $2::int4)", (self.namespace ^ SCOPES, scope_id))
            self._held.add(scope_id)

    def try_lock_scope(self, scope_id: int) -> bool:
        """As `lock_scope`, without waiting; False when another transaction writes in the scope."""
        if self._writing and scope_id not in self._held:
            row = self.driver.execute(
                "SELECT pg_try_advisory_xact_lock($1::int4, $2::int4)", (self.namespace ^ SCOPES, scope_id)
            ).fetchone()
            if row is None or not row[0]:
                return False
            self._held.add(scope_id)
        return True

    @contextlib.contextmanager
    def transact(self) -> Iterator[None]:
        self.may_have_committed = False
        self.driver.execute("BEGIN READ WRITE")
        self._writing = True
        try:
            yield
            self.may_have_committed = True
            self.driver.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._writing = False
            self._held.clear()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        self.driver.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            yield
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        with contextlib.suppress(psycopg.Error):  # a lost connection has rolled back by itself
            self.driver.execute("ROLLBACK")

    def close(self) -> None:
        self.driver.close()


def _order(sources: Sequence[tuple[int | str, Form]], parameters: Any) -> list[Any]:
    """The parameters in the order of $1, $2 …"""
    return [parameters[source] if form == "plain" else _FORMS[form](parameters[source]) for source, form in sources]


def _write_array(value: Any) -> Any:
    return value.items if isinstance(value, PackedList) else value


def _write_json(value: str) -> str:
    """JSON whose texts PostgreSQL can take out: a U+0000 is written there as it is in columns."""
    return _JSON_NUL.sub(r"\1\\udbff\\udfff0", str(value)) if "\\u0000" in value else str(value)


_JSON_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
_FORMS: Mapping[str, Callable[[Any], Any]] = {"array": _write_array, "json": _write_json}


def connect(url: str, group: object, *, durability: str = "full", read_only: bool = False) -> PostgresConnection:
    """An open connection. Raises psycopg.Error."""
    driver = psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=CONNECT_S,
        application_name="staffstream",
        cursor_factory=psycopg.RawCursor,
        row_factory=_make_rows,
        client_encoding="utf8",
        **_SILENCE,
    )
    try:
        driver.adapters.register_dumper(str, _TextDumper)
        for name in ("text", "varchar"):
            driver.adapters.register_loader(name, _TextLoader)
            driver.adapters.register_loader(name, _PlainTextLoader)
        for kind in (int, bool, Int8):
            driver.adapters.register_dumper(kind, _IntegerDumper)
        driver.execute(f"SET synchronous_commit = {'on' if durability == 'full' else 'off'}")
        if read_only:
            driver.execute("SET default_transaction_read_only = on")
        return PostgresConnection(driver, group, read_only=read_only)
    except BaseException:
        driver.close()
        raise


@contextlib.asynccontextmanager
async def connect_aside(url: str, *, durability: str = "normal") -> AsyncIterator[PostgresConnection]:
    """A connection that is opened in a thread and closed with the block, or by itself when its opener is cancelled
    first. Raises psycopg.Error.
    """
    loop = asyncio.get_running_loop()
    opening = loop.run_in_executor(None, lambda: connect(url, object(), durability=durability))
    try:
        connection = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda opened: None if opened.exception() else opened.result().close())
        raise
    with contextlib.closing(connection):
        yield connection


async def wait_readable(connection: PostgresConnection) -> None:
    """Return when the server has sent something, or closed the connection."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    descriptor = connection.driver.fileno()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

RERUN = ("23505", "23503", "40001", "40P01")
"""A transaction that met another one, and is run again: unique and foreign keys, serialization, deadlock."""


def get_error_name(error: BaseException) -> str | None:
    """psycopg's class of an error and its SQLSTATE, none of its text; None for any other error."""
    if not isinstance(error, psycopg.Error):
        return None
    return f"{type(error).__name__} {error.sqlstate}" if error.sqlstate else type(error).__name__


def translate_error(error: BaseException) -> BaseException:
    """What a caller should see: storage trouble as a StaffstreamError, anything else (a bug, say) as it is."""
    translated: StaffstreamError
    if isinstance(error, (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory)):
        translated = StorageFull()
    elif isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)):
        translated = StorageUnavailable()
    else:
        return error
    log.error("the database refused a transaction: %s", get_error_name(error))
    translated.__cause__ = error
    return translated
