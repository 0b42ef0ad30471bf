"""SQLite as an engine: one file, opened by as many processes of one machine as want to."""

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from staffstream.storage.findings import Finding
from staffstream.storage.sqlite import checks
from staffstream.storage.sqlite.connections import SqliteConnection, connect, get_error_name
from staffstream.storage.sqlite.database import SqliteDatabase
from staffstream.storage.sqlite.files import prepare_file
from staffstream.storage.sqlite.presence import FilePresence
from staffstream.storage.wakeups import PolledWakeups


class SqliteEngine:
    """An `Engine` over the file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def place(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        return self.path.is_file()

    def prepare(self) -> None:
        prepare_file(self.path)

    def connect(self, *, read_only: bool = False) -> SqliteConnection:
        return connect(self.path, read_only=read_only)

    def join(self) -> FilePresence:
        return FilePresence(self.path)

    @contextlib.asynccontextmanager
    async def open(self, *, durability: str = "full") -> AsyncIterator[SqliteDatabase]:
        async with SqliteDatabase.open(self.path, durability=durability) as database:
            yield database

    @contextlib.asynccontextmanager
    async def open_wakeups(self) -> AsyncIterator[PolledWakeups]:
        yield PolledWakeups()

    def check(self) -> Iterator[Callable[[], Iterator[Finding]]]:
        yield checks.check_programs
        yield functools.partial(checks.check_disk, self.path)
        yield functools.partial(checks.check_file, self.path)

    def describe_error(self, error: BaseException) -> str | None:
        return get_error_name(error)
