"""Copies of the whole database file: made while a server writes, checked by opening them, put back.

A copy is one consistent state: the snapshot is held while its pages are copied, so that writers neither wait for it nor
make it start again. It becomes visible under its name only when it is whole, checked and on the disk.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pysqlite3

from staffstream.database import APPLICATION_ID, Connection, Presence, connect, read_version
from staffstream.domain import now_text
from staffstream.errors import SetupError

Progress = Callable[[int, int], None]
"""Called with (pages copied, pages in all)."""

_PAGES = 2048  # copied at a time
_COUNTED = ("staff", "conversations", "messages", "memories")


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What is in a checked database file: its size and how many rows of what."""

    path: Path
    size_bytes: int
    counts: dict[str, int]


def make_backup(db: Path, target: Path, *, on_progress: Progress = lambda done, total: None) -> BackupFacts:
    """Copy the database to `target`, which must not exist yet. Raises SetupError; then nothing is left there."""
    if not db.is_file():
        raise SetupError(f"There is no database at {db}.")
    if target.exists():
        raise SetupError(f"{target} exists already. Name another file.")
    with _make_whole(target) as part:
        try:
            _copy(db, part, on_progress)
        except pysqlite3.DatabaseError as error:
            raise SetupError(f"{db} cannot be copied: {error}. If it is damaged, restore a backup.") from error
        check_backup(part)
    return check_backup(target)


def check_backup(path: Path) -> BackupFacts:
    """Open the file and look through all of it. Raises SetupError when it is not a whole database of ours."""
    try:
        with contextlib.closing(pysqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return BackupFacts(path, path.stat().st_size, _look_through(connection, path))
    except (pysqlite3.DatabaseError, OSError) as error:
        raise SetupError(f"{path} cannot be used as a backup: {error}.") from error


def restore_backup(backup: Path, db: Path) -> Path | None:
    """Put the backup in the database's place; returns where the present one was put aside, if there was one.

    Raises SetupError when the backup is not whole or a server is running on the database; then nothing has changed.
    """
    check_backup(backup)
    with contextlib.closing(Presence(db)) as presence:
        if not presence.alone:
            raise SetupError(f"A server is running on {db}. Stop it first.")
        with _make_whole(db.with_name(db.name + ".restored")) as part:
            shutil.copyfile(backup, part)
            check_backup(part)
        aside = _put_aside(db)
        os.replace(db.with_name(db.name + ".restored"), db)
        _sync(db.parent)
    return aside


def compact_file(db: Path) -> tuple[int, int]:
    """Give back the space that erased rows took; returns the file's size before and after, in bytes.

    Needs free space of the file's size for a while. Raises SetupError when a server is running on the database.
    """
    if not db.is_file():
        raise SetupError(f"There is no database at {db}.")
    with contextlib.closing(Presence(db)) as presence:
        if not presence.alone:
            raise SetupError(f"A server is running on {db}. Stop it first.")
        before = db.stat().st_size
        with contextlib.closing(connect(db)) as connection:
            connection.execute("INSERT INTO memory_words (memory_words) VALUES ('optimize')")
            connection.execute("VACUUM")
            connection.execute("PRAGMA optimize")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return before, db.stat().st_size


def _copy(db: Path, part: Path, on_progress: Progress) -> None:
    with contextlib.closing(connect(db)) as source:
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # from here on the snapshot is held
        with contextlib.closing(pysqlite3.connect(str(part), isolation_level=None)) as copy:
            source.backup(copy, pages=_PAGES, progress=lambda _, left, total: on_progress(total - left, total))
            copy.execute("PRAGMA journal_mode = DELETE")  # a backup is one file


def _look_through(connection: Connection, path: Path) -> dict[str, int]:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise SetupError(f"{path} is no database of staffstream.")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > read_version():
        raise SetupError(f"{path} was made by a newer staffstream. Upgrade staffstream.")
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
    if found != ["ok"]:
        raise SetupError(f"{path} is damaged: {found[0]}.")
    if connection.execute("PRAGMA foreign_key_check").fetchone():
        raise SetupError(f"{path} is damaged: some rows have lost what they belong to.")
    return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _COUNTED}


def _put_aside(db: Path) -> Path | None:
    """Rename the file together with its write-ahead log, which SQLite would otherwise read into the new one."""
    if not db.exists():
        return None
    aside = db.with_name(f"{db.name}.before-{now_text().replace(':', '').replace('.', '')}")
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{db}{suffix}", f"{aside}{suffix}")
    return aside


@contextlib.contextmanager
def _make_whole(target: Path) -> Iterator[Path]:
    """A name to write to, readable for its owner alone; it becomes `target` when the block ends well."""
    part = target.with_name(target.name + ".part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise SetupError(f"{part} cannot be made: {error.strerror}.") from error
    try:
        yield part
        _sync(part)
        os.replace(part, target)
        _sync(target.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
