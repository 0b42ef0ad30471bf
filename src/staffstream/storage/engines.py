"""Which engine a database is on: SQLite for a path."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from staffstream.errors import SetupError
from staffstream.storage.database import Engine
from staffstream.storage.sqlite.engine import SqliteEngine


def choose_engine(db: Path) -> Engine:
    """The engine of a database, which is opened by it and not yet."""
    return SqliteEngine(db)


@contextlib.contextmanager
def hold_alone(engine: Engine) -> Iterator[None]:
    """No server may begin to use the database within the block. Raises SetupError when one does already."""
    with contextlib.closing(engine.join()) as presence:
        if not presence.alone:
            raise SetupError(f"A server is running on {engine.place}. Stop it first.")
        yield
