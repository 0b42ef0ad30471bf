"""Copies of the whole database file: made while a server writes, checked by opening them, put back.

A copy is one consistent state: the snapshot is held while its pages are copied, so that writers neither wait for it nor
make it start again. It becomes visible under its name only when it is whole, checked and on the disk.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pysqlite3

from staffstream.domain import now_text
from staffstream.errors import SetupError
from staffstream.storage.schema import read_version
from staffstream.storage.sqlite.connections import SqliteConnection, connect
from staffstream.storage.sqlite.files import APPLICATION_ID, make_private, prepare_file
from staffstream.storage.sqlite.presence import FilePresence

Progress = Callable[[int, int], None]
"""Called with (pages copied, pages in all)."""

Steps = Callable[[], None]
"""Called every now and then during work whose end cannot be foreseen."""

_PAGES = 2048  # copied at a time
_STEP = 1_000_000  # SQLite's own instructions: some tens of milliseconds
_COUNTED = ("staff", "conversations", "messages", "memories")
_BESIDE = ("-journal", "-wal", "-shm")  # SQLite reads what it finds there into the file, whosever it was


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What is in a checked database file: its size and how many rows of what."""

    path: Path
    size_bytes: int
    counts: dict[str, int]


def make_backup(
    db: Path, target: Path, *, on_progress: Progress = lambda done, total: None, on_step: Steps = lambda: None
) -> BackupFacts:
    """Copy the database to `target`, which must not exist yet. Raises SetupError; then nothing is left there."""
    if not db.is_file():
        raise SetupError(f"There is no database at {db}.")
    for path in (target, *(Path(f"{target}{suffix}") for suffix in _BESIDE)):
        if os.path.lexists(path):
            raise SetupError(f"{path} exists already. Name another file.")
    with _make_whole(target) as part:
        _copy(db, part, on_progress)
        facts = check_backup(part, on_step=on_step)
    return replace(facts, path=target)


def check_backup(path: Path, *, on_step: Steps = lambda: None) -> BackupFacts:
    """Open the file and look through all of it. Raises SetupError when it is not a whole database of ours."""
    with _tell_trouble(f"{path} cannot be used as a backup"), contextlib.closing(_open_unchanged(path)) as connection:
        connection.set_progress_handler(lambda: on_step(), _STEP)
        return BackupFacts(path, path.stat().st_size, _look_through(connection, path))


def restore_backup(
    backup: Path, db: Path, *, on_progress: Progress = lambda done, total: None, on_step: Steps = lambda: None
) -> Path | None:
    """Put the backup in the database's place; returns where the present one was put aside, if there was one.

    Raises SetupError when the backup is not whole or a server is running on the database; then nothing has changed.
    """
    check_backup(backup, on_step=on_step)
    restored = db.with_name(db.name + ".restored")
    with _hold_alone(db), _tell_trouble(f"{db} cannot be replaced"):
        with _make_whole(restored, like=db) as part:
            _copy(backup, part, on_progress)
            check_backup(part, on_step=on_step)
        aside = _put_aside(db)
        os.replace(restored, db)
        _sync(db.parent)
    return aside


def compact_file(db: Path, *, on_step: Steps = lambda: None) -> tuple[int, int]:
    """Give back the space that erased rows took; returns the file's size before and after, in bytes.

    Needs free space of the file's size for a while. Raises SetupError when a server is running on the database.
    """
    if not db.is_file():
        raise SetupError(f"There is no database at {db}.")
    with _hold_alone(db), _tell_trouble(f"{db} cannot be compacted"):
        prepare_file(db)
        before = db.stat().st_size
        with contextlib.closing(connect(db)) as connection:
            connection.set_progress_handler(lambda: on_step(), _STEP)
            connection.execute("INSERT INTO memory_words (memory_words) VALUES ('optimize')")
            connection.execute("VACUUM")
            connection.execute("PRAGMA optimize")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return before, db.stat().st_size


@contextlib.contextmanager
def _hold_alone(db: Path) -> Iterator[None]:
    """No server may begin to use the file within the block. Raises SetupError when one does already."""
    with contextlib.closing(FilePresence(db)) as presence:
        if not presence.alone:
            raise SetupError(f"A server is running on {db}. Stop it first.")
        yield


@contextlib.contextmanager
def _tell_trouble(what: str) -> Iterator[None]:
    """An error of a file or the disk in words for the operator."""
    try:
        yield
    except pysqlite3.DatabaseError as error:
        raise SetupError(f"{what}: {error}.") from error
    except OSError as error:
        raise SetupError(f"{what}: {error.strerror}.") from error


def _open_unchanged(path: Path) -> SqliteConnection:
    """A connection that only reads; what a write-ahead log holds beside the file is seen too."""
    connection: SqliteConnection = pysqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, factory=SqliteConnection
    )
    return connection


def _copy(db: Path, part: Path, on_progress: Progress) -> None:
    with (
        _tell_trouble(f"{db} cannot be copied, perhaps because it is damaged or the disk is full"),
        contextlib.closing(_open_unchanged(db)) as source,
    ):
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # from here on the snapshot is held
        with contextlib.closing(pysqlite3.connect(str(part), isolation_level=None)) as copy:
            source.backup(copy, pages=_PAGES, progress=lambda _, left, total: on_progress(total - left, total))
            copy.execute("PRAGMA journal_mode = DELETE")  # a backup is one file


def _look_through(connection: SqliteConnection, path: Path) -> dict[str, int]:
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
    """Rename the file together with its write-ahead log, which SQLite would otherwise read into the new one; one that
    has outlived its file is put aside as well.
    """
    present = [suffix for suffix in (*_BESIDE, "") if os.path.lexists(f"{db}{suffix}")]
    aside = db.with_name(f"{db.name}.before-{now_text().replace(':', '').replace('.', '')}")
    for suffix in present:
        os.replace(f"{db}{suffix}", f"{aside}{suffix}")
    return aside if "" in present else None


@contextlib.contextmanager
def _make_whole(target: Path, *, like: Path | None = None) -> Iterator[Path]:
    """A name to write to, readable for its owner alone; it becomes `target` when the block ends well."""
    part = target.with_name(target.name + ".part")
    try:
        os.close(make_private(part, like=like))
    except FileExistsError as error:
        raise SetupError(f"{part} exists: another one is being made, or was broken off. Then erase it.") from error
    except OSError as error:
        raise SetupError(f"{part} cannot be made: {error.strerror}.") from error
    try:
        yield part
        with _tell_trouble(f"{target} cannot be made"):
            _sync(part)
            os.replace(part, target)
            _sync(target.parent)
    except BaseException:
        for name in (part.name, f"{part.name}-journal", f"{part.name}-wal", f"{part.name}-shm"):
            part.with_name(name).unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
