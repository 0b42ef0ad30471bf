"""Which engine a database is on: SQLite for a path, PostgreSQL for a URL."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from staffstream.errors import SetupError
from staffstream.storage.database import Engine
from staffstream.storage.sqlite.engine import SqliteEngine


def choose_engine(db: Path | SecretStr) -> Engine:
    """The engine of a database, which nothing has opened yet. Raises SetupError where its driver is missing."""
    if isinstance(db, Path):
        return SqliteEngine(db)
    try:
        from staffstream.storage.postgres.engine import PostgresEngine
    except ImportError as error:
        raise SetupError("PostgreSQL needs its driver: pip install 'staffstream[postgres]'") from error
    return PostgresEngine(db.get_secret_value())


@contextlib.contextmanager
def hold_alone(engine: Engine) -> Iterator[None]:
    """No server may begin to use the database within the block. Raises SetupError when one does already."""
    with contextlib.closing(engine.join()) as presence:
        if not presence.alone:
            raise SetupError(f"A server is running on {engine.place}. Stop it first.")
        yield
