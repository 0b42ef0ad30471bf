"""What every engine offers: connections that run statements, and a database that runs functions over them.

Storage functions take a `Connection` and know no driver. `engines.py` picks the engine; `sqlite/` and `postgres/`
implement it. The statements are one text for all engines, with `?`, `?1` and `:name` for parameters.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from staffstream.storage.findings import Finding
from staffstream.storage.wakeups import RunWakeups

if TYPE_CHECKING:
    from staffstream.storage.memory_search import MemorySearch

T = TypeVar("T")
Parameters = Sequence[Any] | Mapping[str, Any]


class Group:
    """Stands for the connections that read one database together."""


class Row(Protocol):
    """One row: its values by name or by position."""

    def __getitem__(self, key: Any, /) -> Any: ...

    def keys(self) -> Iterable[str]:
        """The names of its columns, in order."""
        ...


class Cursor(Protocol):
    """What a statement gave. `rowcount` is how many rows it changed."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """An open connection, for one thread at a time. Errors of the driver pass through it as they are."""

    @property
    def search(self) -> "MemorySearch":
        """Full text and vectors, the engine's own way."""
        ...

    @property
    def group(self) -> object:
        """Stands for all connections that read one database together: what is cached for one serves all."""
        ...

    @property
    def misfit_errors(self) -> tuple[type[Exception], ...]:
        """What `execute` raises for a value that does not fit its column."""
        ...

    def list_columns(self, table: str) -> dict[str, bool]:
        """A table's columns, each with whether it must be given a value: it may not be null and has no default."""
        ...

    def execute(self, statement: str, parameters: Any = (), /) -> Cursor: ...

    def executemany(self, statement: str, rows: Any, /) -> Cursor: ...

    def lock_scope(self, scope_id: int) -> None:
        """From here to the end of this transaction no other one writes in the scope: what is read of it now stays true.
        Nothing in a snapshot. The locks of a transaction are taken by ascending ids, or by `try_lock_scope`.
        """
        ...

    def try_lock_scope(self, scope_id: int) -> bool:
        """As `lock_scope`, without waiting; False when another transaction writes in the scope."""
        ...

    def transact(self) -> AbstractContextManager[None]:
        """The block is one transaction, rolled back when it raises."""
        ...

    def snapshot(self) -> AbstractContextManager[None]:
        """All reads of the block see one state of the database."""
        ...

    def close(self) -> None: ...


class Database(Protocol):
    """An open database. Work is handed in as plain functions over a connection and runs on a thread of its own."""

    on_commit: Callable[[int, float], None] | None
    """Called after each commit with (transactions in it, seconds it took)."""

    async def write(self, function: Callable[[Connection], T], *, then: Callable[[T], None] | None = None) -> T:
        """Run `function` as one transaction and return what it returned, after the commit.

        It may be run again when the commit meets another one, so it has no effects outside the database. `then` is
        called once with its value, in the event loop, right after the commit, whether or not the caller still waits:
        what must follow a write belongs there. What the function raises is raised here and leaves no trace. Raises
        StorageFull or StorageUnavailable when the commit fails. A caller that is cancelled does not stop a write that
        was handed in.
        """
        ...

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Run `function` over one consistent snapshot and return what it returned. Raises StorageUnavailable."""
        ...

    async def clear_log(self) -> None:
        """Leave nothing erased in the engine's log: call it after erasing what a user wants gone for good."""
        ...

    def measure_bytes(self) -> dict[str, int]:
        """Sizes on this machine's disk in bytes: `file`, and `wal` where there is one; empty where there are none."""
        ...


class Presence(Protocol):
    """Says that this process uses the database, until it is closed or the process ends, however that happens.

    The first process on a database is `alone` while it tidies up after the last one; then it shares it.
    """

    alone: bool

    async def enter(self) -> None:
        """Wait until the database may be opened: not while another process tidies up or restores a backup."""
        ...

    async def share(self) -> None:
        """Let other processes in; waits while another one is tidying up."""
        ...

    def kept(self) -> AbstractAsyncContextManager[None]:
        """Within the block, after `share`: should the engine lose sight of this process, it is told again."""
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """One kind of database at one place."""

    @property
    def place(self) -> str:
        """The place for people to read: a path, or a URL without its password."""
        ...

    def exists(self) -> bool:
        """Whether there is a database that could be opened."""
        ...

    def prepare(self) -> None:
        """Make the database, or bring an older one to today's tables. Raises SetupError; then nothing has changed."""
        ...

    def connect(self, *, read_only: bool = False) -> Connection:
        """A connection of its own for commands and tests; each statement outside `transact` is one transaction."""
        ...

    def join(self) -> Presence:
        """Take part in using the database. Raises SetupError."""
        ...

    def open(self, *, durability: str = "full") -> AbstractAsyncContextManager[Database]:
        """Prepare and open the database. Raises SetupError."""
        ...

    def open_wakeups(self) -> AbstractAsyncContextManager[RunWakeups]:
        """How this process and others that use the database tell each other of changed runs."""
        ...

    def check(self) -> Iterator[Callable[[], Iterator[Finding]]]:
        """The checks of `doctor` on the engine and on the place, in the order in which things would fail."""
        ...

    def describe_error(self, error: BaseException) -> str | None:
        """An error of the driver as a word that holds none of its text; None for any other error."""
        ...


def transact(connection: Connection) -> AbstractContextManager[None]:
    """The block is one transaction, for commands that work on a connection of their own."""
    return connection.transact()


# ── list parameters ──────────────────────────────────────────────────────────────────────────────────────────────────

IN_LIST = "IN (SELECT value FROM json_each(?))"
"""`id IN_LIST` in a statement, with `pack_list(ids)` as its parameter: one statement for lists of any length."""


class PackedList(str):
    """A list as one parameter: JSON text for engines that take that, or its `items`."""

    items: list[Any]


def pack_list(values: Iterable[str | int]) -> PackedList:
    """The parameter of IN_LIST, or of a `json_each(?)`."""
    items = list(values)
    packed = PackedList(json.dumps(items))
    packed.items = items
    return packed
