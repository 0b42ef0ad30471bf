"""Commands that work on the data: one module a group, each with an `add_commands(commands)` for the command line.

They open the SQLite file with the same build of SQLite and the same settings as the server, which may be running.
"""

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from tqdm import tqdm

from staffstream.errors import SetupError
from staffstream.settings import Settings, name_variable, read_database
from staffstream.storage.database import Connection
from staffstream.storage.engines import choose_engine


def add_db_option(parser: argparse.ArgumentParser) -> None:
    """`--db`, as every command that touches the data takes it."""
    default = Settings.model_fields["db"].default
    variable = name_variable("db")
    parser.add_argument(
        "--db",
        type=read_database,
        default=read_database(os.environ.get(variable) or str(default)),
        help=f"the SQLite file, or a postgresql:// URL [{variable}; default {default}]",
    )


def get_file(db: Path | SecretStr) -> Path:
    """The database's file, for commands that work on one. Raises SetupError where there is none."""
    if isinstance(db, Path):
        return db
    raise SetupError("This works on an SQLite file. Use PostgreSQL's own tools: pg_dump, pg_restore, VACUUM.")


@contextlib.contextmanager
def open_file(path: Path | SecretStr, *, make: bool = False) -> Iterator[Connection]:
    """A connection to the file, brought to today's tables; made only if `make` says so. Raises SetupError."""
    engine = choose_engine(path)
    if not make and not engine.exists():
        raise SetupError(f"There is no database at {engine.place}. Name it with --db or {name_variable('db')}.")
    engine.prepare()
    with contextlib.closing(engine.connect()) as connection:
        yield connection


_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {9, 10}, "\ufffd")


def make_printable(text: str) -> str:
    """The text with U+FFFD in place of control characters, which a terminal would obey. Tabs and line ends stay."""
    return text.translate(_CONTROLS)


def print_line(text: str) -> None:
    """Print one line in which somebody else may have put words."""
    print(make_printable(text.replace("\n", "\ufffd")))


def show_progress(total: int | None, what: str) -> "tqdm[Any]":
    """A progress bar on standard error, for commands that take long."""
    tqdm.monitor_interval = 0  # no thread of its own
    return tqdm(total=total, unit=f" {what}", unit_scale=what == "bytes")
