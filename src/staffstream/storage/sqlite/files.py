"""The SQLite file itself: made, brought to today's tables, or refused in one clear line."""

import contextlib
import logging
import os
from pathlib import Path

import pysqlite3

from staffstream.errors import SetupError
from staffstream.storage.schema import read_migrations, read_schema, read_version
from staffstream.storage.sqlite.connections import SqliteConnection, connect

log = logging.getLogger(__name__)

OLDEST_SQLITE = (3, 51, 3)  # older ones can corrupt a database when the WAL is reset
APPLICATION_ID = 0x53544653  # schema.sql sets it


def prepare_file(path: Path, *, durability: str = "full") -> None:
    """Make the file, or bring an older one to today's tables, each step one transaction.

    Raises SetupError when the file cannot be used, and has then changed nothing in it.
    """
    check_place(path)
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


def check_place(path: Path) -> None:
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


def _migrate(connection: SqliteConnection, schema: str) -> None:
    with connection.transact():
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            _run_script(connection, schema)
            return
        for target, script in read_migrations():
            if target > version:
                log.info("migrating the database to schema %d", target)
                _run_script(connection, script)


def _run_script(connection: SqliteConnection, script: str) -> None:
    """Run statements one by one: `executescript` would commit the transaction we are in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if pysqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    connection.execute(statement)  # the last one may lack its semicolon
