"""PostgreSQL as an engine: one database, opened by as many processes on as many machines as want to."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

from staffstream.storage.database import Group
from staffstream.storage.findings import Finding
from staffstream.storage.postgres import checks
from staffstream.storage.postgres.connections import PostgresConnection, connect, get_error_name
from staffstream.storage.postgres.database import PostgresDatabase
from staffstream.storage.postgres.presence import PostgresPresence
from staffstream.storage.postgres.tables import describe_place, find_version, open_or_refuse, prepare_tables
from staffstream.storage.postgres.wakeups import PostgresWakeups


class PostgresEngine:
    """An `Engine` at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def place(self) -> str:
        return describe_place(self._url)

    def exists(self) -> bool:
        with contextlib.closing(open_or_refuse(self._url)) as connection:
            return find_version(connection) > 0

    def prepare(self) -> None:
        prepare_tables(self._url)

    def connect(self, *, read_only: bool = False) -> PostgresConnection:
        return connect(self._url, Group(), read_only=read_only)

    def join(self) -> PostgresPresence:
        return PostgresPresence(self._url, open_or_refuse(self._url))

    @contextlib.asynccontextmanager
    async def open(self, *, durability: str = "full") -> AsyncIterator[PostgresDatabase]:
        async with PostgresDatabase.open(self._url, durability=durability) as database:
            yield database

    @contextlib.asynccontextmanager
    async def open_wakeups(self) -> AsyncIterator[PostgresWakeups]:
        async with PostgresWakeups.open(self._url) as wakeups:
            yield wakeups

    def check(self) -> Iterator[Callable[[], Iterator[Finding]]]:
        yield lambda: checks.check_server(self._url)

    def describe_error(self, error: BaseException) -> str | None:
        return get_error_name(error)
