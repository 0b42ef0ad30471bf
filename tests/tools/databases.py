"""A test's database as the product opens it, whichever engine it is on."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from staffstream.storage.database import Connection, Database, transact
from staffstream.storage.engines import choose_engine

__all__ = ["connect", "open_database", "prepare", "transact"]


def connect(db: Path, *, read_only: bool = False) -> Connection:
    """A connection to look into it, or to change it behind the server's back."""
    return choose_engine(db).connect(read_only=read_only)


def prepare(db: Path) -> None:
    """Make it, with today's tables."""
    choose_engine(db).prepare()


def open_database(db: Path) -> AbstractAsyncContextManager[Database]:
    """It, open as a server has it."""
    return choose_engine(db).open()
