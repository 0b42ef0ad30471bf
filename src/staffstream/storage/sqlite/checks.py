"""What `doctor` looks at where the database is an SQLite file: the build of SQLite, the disk, the file."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pysqlite3

from staffstream.storage.findings import Finding
from staffstream.storage.sqlite.backups import check_backup
from staffstream.storage.sqlite.connections import connect
from staffstream.storage.sqlite.presence import FilePresence

_MIN_FREE_BYTES = 200 * 1024 * 1024
_MAX_WAL_BYTES = 1024 * 1024 * 1024


def check_programs() -> Iterator[Finding]:
    """The versions that run here. Raises what loading them raises."""
    with contextlib.closing(connect(":memory:")):  # loads what has to be loaded
        pass
    yield Finding("ok", "SQLite", f"{pysqlite3.sqlite_version}, sqlite-vec {version('sqlite-vec')}")


def check_disk(db: Path) -> Iterator[Finding]:
    """Whether there is room to write, and to copy the file."""
    free = shutil.disk_usage(db.absolute().parent).free
    size = db.stat().st_size if db.exists() else 0
    text = f"{free / 1e9:.1f} GB free, the database has {size / 1e9:.3f} GB"
    if free < _MIN_FREE_BYTES:
        yield Finding("wrong", "disk", f"{text}. Make room: nothing can be saved once it is full.")
    elif free < size:
        yield Finding("note", "disk", f"{text}. A backup here, or `staffstream compact`, needs as much again.")
    else:
        yield Finding("ok", "disk", text)


def check_file(db: Path) -> Iterator[Finding]:
    """Whether the file can be written and is whole, and whether a server is running on it. Raises SetupError."""
    if not db.exists():
        place = "will be made" if os.access(db.absolute().parent, os.W_OK) else "cannot be made by this user"
        yield Finding("ok" if place == "will be made" else "wrong", "file", f"{db} is not there yet and {place}")
        return
    if not os.access(db, os.W_OK):
        yield Finding("wrong", "file", f"{db} cannot be written by this user. Give the server's user the right to.")
        return
    with contextlib.closing(FilePresence(db)) as presence:
        running = "a server is running on it" if not presence.alone else "no server is running on it"
    facts = check_backup(db)
    counts = ", ".join(f"{count:,} {name}" for name, count in facts.counts.items())
    yield Finding("ok", "file", f"{db} is whole; {counts}; {running}")
    wal = Path(f"{db}-wal")
    if wal.exists() and wal.stat().st_size > _MAX_WAL_BYTES:
        yield Finding("note", "file", "its write-ahead log is large: another program may hold it open")
