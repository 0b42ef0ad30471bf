"""A test's database as the product opens it, whichever engine it is on."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from pydantic import SecretStr

from staffstream.storage.database import Connection, Database, transact
from staffstream.storage.engines import choose_engine
from tests.tools.postgres import Cluster

__all__ = ["connect", "find_place", "open_database", "prepare", "transact", "write_place"]


cluster: Cluster | None = None
"""Where the databases of a session on PostgreSQL are; None on SQLite."""


def find_place(db: Path) -> Path | SecretStr:
    """What the product is told of the database that a test calls by a path."""
    return SecretStr(cluster.find_url(db)) if cluster else db


def connect(db: Path, *, read_only: bool = False) -> Connection:
    """A connection to look into it, or to change it behind the server's back."""
    return choose_engine(find_place(db)).connect(read_only=read_only)


def prepare(db: Path) -> None:
    """Make it, with today's tables."""
    choose_engine(find_place(db)).prepare()


def open_database(db: Path) -> AbstractAsyncContextManager[Database]:
    """It, open as a server has it."""
    return choose_engine(find_place(db)).open()


def write_place(db: Path) -> str:
    """The same as the environment and the command line have it."""
    place = find_place(db)
    return place.get_secret_value() if isinstance(place, SecretStr) else str(place)
