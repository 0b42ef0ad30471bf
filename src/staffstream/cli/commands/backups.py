"""`staffstream backup`, `restore` and `compact`: the database file as a whole."""

import argparse
import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from staffstream.cli.commands import add_db_option, get_file, show_progress
from staffstream.domain import now_text
from staffstream.errors import SetupError
from staffstream.storage.sqlite.backups import BackupFacts, Progress, Steps, compact_file, make_backup, restore_backup

_OURS = re.compile(r"staffstream-\d{8}T\d{9}Z\.db")


def add_commands(commands: Any) -> None:
    """Add `backup`, `restore` and `compact`."""
    backup = commands.add_parser("backup", help="copy the database, also while the server runs, and check the copy")
    backup.add_argument("target", type=Path, help="a new file, or a directory to put one named by the time in")
    backup.add_argument("--keep", type=int, metavar="N", help="in a directory: leave the newest N, erase older ones")
    backup.set_defaults(run=_backup)
    restore = commands.add_parser("restore", help="put a backup in the database's place; the server must be stopped")
    restore.add_argument("backup", type=Path)
    restore.set_defaults(run=_restore)
    compact = commands.add_parser("compact", help="give unused space back; the server must be stopped")
    compact.set_defaults(run=_compact)
    for parser in (backup, restore, compact):
        add_db_option(parser)


def _backup(args: argparse.Namespace) -> None:
    target: Path = args.target
    if args.keep is not None and (args.keep < 1 or not target.is_dir()):
        raise SetupError("--keep takes at least 1, and a directory as the target.")
    if target.is_dir():
        target = target / f"staffstream-{re.sub(r'[-:.]', '', now_text())}.db"
    with _show_copying() as (note, step):
        facts = make_backup(get_file(args.db), target, on_progress=note, on_step=step)
    _say(facts)
    if args.keep is not None:
        for path in _list_surplus(target.parent, args.keep):
            path.unlink()
            print(f"erased {path}")


def _list_surplus(shelf: Path, keep: int) -> list[Path]:
    """Backups beyond the newest, and what a broken-off one left a day or more ago."""
    whole = sorted(path for path in shelf.iterdir() if _OURS.fullmatch(path.name))
    parts = [path for path in shelf.glob("*.part") if _OURS.fullmatch(path.stem)]
    yesterday = time.time() - 24 * 3600
    return whole[:-keep] + [path for path in parts if path.stat().st_mtime < yesterday]


def _restore(args: argparse.Namespace) -> None:
    with _show_copying() as (note, step):
        aside = restore_backup(args.backup, get_file(args.db), on_progress=note, on_step=step)
    print(f"restored {args.db} from {args.backup}")
    if aside:
        print(f"what was there before is now {aside}; erase it when you no longer need it")


def _compact(args: argparse.Namespace) -> None:
    with show_progress(None, "steps") as progress:
        before, after = compact_file(get_file(args.db), on_step=lambda: _move_on(progress))
    print(f"{args.db}: {before:,} bytes before, {after:,} now")


@contextlib.contextmanager
def _show_copying() -> Iterator[tuple[Progress, Steps]]:
    """A bar for the pages that are copied, which says so while the copy is being checked."""
    with show_progress(None, "pages") as progress:

        def note(copied: int, total: int) -> None:
            progress.set_description("copying", refresh=False)
            progress.total = total
            progress.update(copied - progress.n)

        def step() -> None:
            progress.set_description("checking", refresh=False)
            _move_on(progress, 0)

        yield note, step


def _move_on(progress: "tqdm[Any]", steps: int = 1) -> None:
    """Show that work goes on. Returns nothing: a true value would have SQLite break off."""
    progress.n += steps
    progress.refresh()


def _say(facts: BackupFacts) -> None:
    counts = ", ".join(f"{count:,} {name}" for name, count in facts.counts.items())
    print(f"{facts.path}: {facts.size_bytes:,} bytes, checked; {counts}")
