"""`staffstream backup`, `restore` and `compact`: the database file as a whole."""

import argparse
import re
from pathlib import Path
from typing import Any

from staffstream.backups import BackupFacts, compact_file, make_backup, restore_backup
from staffstream.commands import add_db_option, show_progress
from staffstream.domain import now_text
from staffstream.errors import SetupError

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
    with show_progress(None, "pages") as progress:
        done = 0

        def note(copied: int, total: int) -> None:
            nonlocal done
            progress.total = total
            progress.update(copied - done)
            done = copied

        facts = make_backup(args.db, target, on_progress=note)
    _say(facts)
    if args.keep is not None:
        older = sorted(path for path in target.parent.iterdir() if _OURS.fullmatch(path.name))[: -args.keep]
        for path in older:
            path.unlink()
            print(f"erased {path}")


def _restore(args: argparse.Namespace) -> None:
    aside = restore_backup(args.backup, args.db)
    print(f"restored {args.db} from {args.backup}")
    if aside:
        print(f"what was there before is now {aside}; erase it when you no longer need it")


def _compact(args: argparse.Namespace) -> None:
    before, after = compact_file(args.db)
    print(f"{args.db}: {before:,} bytes before, {after:,} now")


def _say(facts: BackupFacts) -> None:
    counts = ", ".join(f"{count:,} {name}" for name, count in facts.counts.items())
    print(f"{facts.path}: {facts.size_bytes:,} bytes, checked; {counts}")
