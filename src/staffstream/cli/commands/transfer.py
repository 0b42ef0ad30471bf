"""`staffstream export` and `import`: one staff member with everything, and past chats from elsewhere."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from staffstream.cli.commands import add_db_option, open_file, print_line, show_progress
from staffstream.cli.commands.past_chats import import_past
from staffstream.domain import Scope, Staff
from staffstream.errors import SetupError
from staffstream.models.embeddings import make_embedder
from staffstream.settings import read_settings
from staffstream.storage import archive, jobs, staff
from staffstream.storage.database import Connection, transact
from staffstream.storage.memory_search import prepare_words
from staffstream.storage.vectors import EmbedNow, find_local, prepare_index

_MAX_LINE_CHARACTERS = 64 * 1024 * 1024


def add_commands(commands: Any) -> None:
    """Add `export` and `import`."""
    export = commands.add_parser("export", help="write a staff member with everything it holds as JSON Lines")
    export.add_argument("staff", help="its id or name")
    export.add_argument("--to", type=Path, metavar="FILE", help="a new file; by default standard output")
    export.set_defaults(run=_export)
    importing = commands.add_parser(
        "import", help="read such a file back; or, with --staff, an export of ChatGPT, Claude.ai, Letta or mem0"
    )
    importing.add_argument("file", type=Path, help="a file of `export`, or the others' ZIP, JSON or .af file")
    importing.add_argument("--staff", help="the staff member, by id or name, who is to know those conversations")
    importing.add_argument("--user", default="local", help="the user whose conversations they are [local]")
    importing.add_argument(
        "--learn", action="store_true", help="have the server learn facts from them; --dry-run tells the price first"
    )
    importing.add_argument(
        "--dry-run", action="store_true", help="save nothing, and tell what is in the file and what learning would cost"
    )
    importing.add_argument(
        "--keep-webhook", action="store_true", help="send replies to the webhook URL of the file, without asking"
    )
    importing.set_defaults(run=_import)
    for parser in (export, importing):
        add_db_option(parser)


# ── export ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _export(args: argparse.Namespace) -> None:
    with open_file(args.db) as connection, connection.snapshot():
        member = _find_staff(connection, args.staff)
        with _open_target(args.to) as file, show_progress(None, "rows") as progress:
            for line in archive.export_staff(connection, member.id):
                file.write(line + "\n")
                progress.update()


@contextlib.contextmanager
def _open_target(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        raise SetupError(f"{path} cannot be made: {error.strerror}.") from error
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            yield file
    except BaseException:
        path.unlink()
        raise


# ── import ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _import(args: argparse.Namespace) -> None:
    with open_file(args.db, make=True) as connection:
        embed = _find_embedder(connection)
        if args.staff is None:
            if args.learn or args.dry_run:
                raise SetupError("--learn and --dry-run are for exports of other services, which need --staff.")
            _import_staff(connection, args.file, embed, keep_webhook=args.keep_webhook)
        else:
            import_past(connection, args, _find_staff(connection, args.staff), embed)


def _import_staff(connection: Connection, path: Path, embed: EmbedNow | None, *, keep_webhook: bool) -> None:
    """All of it in one transaction: a file that turns out wrong at its end leaves nothing."""
    try:
        size = path.stat().st_size if path.is_file() else None
        with open(path, encoding="utf-8") as file, show_progress(size, "bytes") as progress, transact(connection):
            member, url = archive.import_staff(connection, _read_lines(file, progress), embed)
            for scope in staff.list_scopes(connection, member.id):
                _request_vectors(connection, scope, embed)
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} cannot be read: {error}. Conversations from elsewhere need --staff.") from error
    print_line(f"imported {member.name}")
    if url is not None:
        _set_webhook(connection, member, url, keep=keep_webhook)
    print(member.id)


def _set_webhook(connection: Connection, member: Staff, url: str, *, keep: bool) -> None:
    """Ask before replies are sent to an address that a file names."""
    print_line(f"the file's webhook, to which every reply would be sent: {url}")
    if not keep and sys.stdin.isatty():
        keep = input("keep it? [y/N] ").strip().lower() in ("y", "yes")
    if not keep:
        print_line("it was not taken over; --keep-webhook does that")
        return
    with transact(connection):
        staff.update_staff(connection, member.id, {"webhook_url": url})
    print_line("it is kept, and signed with a new secret")


def _read_lines(file: TextIO, progress: Any) -> Iterator[str]:
    while line := file.readline(_MAX_LINE_CHARACTERS):
        if len(line) == _MAX_LINE_CHARACTERS:
            raise SetupError("The file has a line longer than any that was exported.")
        progress.update(len(line.encode()))
        yield line


def _request_vectors(tx: Connection, scope: Scope, embed: EmbedNow | None) -> None:
    if embed is None:
        jobs.enqueue_job(tx, "embed", str(scope.id), scope_id=scope.id)


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _find_staff(connection: Connection, name: str) -> Staff:
    found = [member for member in staff.list_staff(connection) if name in (member.id, member.name)]
    if len(found) != 1:
        raise SetupError(f"{len(found) or 'No'} staff members have the id or name {name!r}.")
    return found[0]


def _find_embedder(connection: Connection) -> EmbedNow | None:
    """The embedder that is set, if it runs in this process; the vectors of another one are fetched by the server."""
    settings = read_settings()
    embedder = make_embedder(settings)
    with transact(connection):
        prepare_index(connection, embedder.name, embedder.dimensions)
        prepare_words(connection)
    return find_local(embedder)
