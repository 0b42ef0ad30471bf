"""`staffstream doctor`: looks at everything a server needs and says what to do about what is wrong."""

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from staffstream.cli.commands import add_db_option
from staffstream.domain import parse_time
from staffstream.errors import SetupError, StaffstreamError
from staffstream.models.embeddings import make_embedder
from staffstream.settings import Settings, name_variable, read_settings
from staffstream.storage import jobs, keys, runs
from staffstream.storage.backups import check_backup
from staffstream.storage.database import SQLITE_VERSION, DriverError, Presence, connect
from staffstream.storage.memory_search import count_unembedded, holds_vectors_of

_LEAST_FREE_BYTES = 200 * 1024 * 1024
_MOST_WAL_BYTES = 1024 * 1024 * 1024
_EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)

Verdict = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `note` is worth knowing, `wrong` keeps the server from working as it should."""

    verdict: Verdict
    subject: str
    text: str


def add_commands(commands: Any) -> None:
    """Add `doctor`."""
    parser = commands.add_parser("doctor", help="check key, file, embedder, clock and disk, and say what to do")
    parser.add_argument(
        "--no-ask", action="store_true", help="do not send Claude the one-word question that tries the key"
    )
    add_db_option(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    """Exit status 1 if something is wrong."""
    settings = read_settings(db=args.db)
    findings = list(examine(settings, ask=not args.no_ask))
    for finding in findings:
        print(f"{finding.verdict:5}  {finding.subject}: {finding.text}")
    return int(any(finding.verdict == "wrong" for finding in findings))


def examine(settings: Settings, *, ask: bool) -> Iterator[Finding]:
    """Every check, in the order in which things would fail."""
    checks: list[Callable[[Settings], Iterator[Finding]]] = [
        _check_programs, _check_clock, _check_disk, _check_file, _check_data, _check_embedder, _check_keys
    ]  # fmt: skip
    if ask:
        checks.append(_try_embedder)
    for check in checks:
        yield from _protect(check, settings)
    yield from _check_claude(settings, ask=ask)


def _protect(check: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    """What a check stumbles over is a finding too."""
    try:
        yield from check(settings)
    except SetupError as error:
        yield Finding("wrong", check.__name__.removeprefix("_check_"), error.detail)
    except (DriverError, OSError) as error:
        yield Finding("wrong", check.__name__.removeprefix("_check_"), f"{type(error).__name__}: {error}")


def _check_programs(settings: Settings) -> Iterator[Finding]:
    with contextlib.closing(connect(":memory:")):  # loads what has to be loaded
        pass
    versions = f"SQLite {SQLITE_VERSION}, sqlite-vec {version('sqlite-vec')}"
    yield Finding("ok", "programs", f"Python {sys.version.split()[0]}, {versions}")


def _check_clock(settings: Settings) -> Iterator[Finding]:
    now = datetime.now(UTC)
    newest = _find_newest(settings.db)
    if now < _EARLIEST:
        yield Finding("wrong", "clock", f"It shows {now:%Y-%m-%d}, which is past. Set it, and have NTP keep it.")
    elif newest and (newest - now).total_seconds() > 60:
        yield Finding(
            "wrong", "clock", f"It is behind the newest message, of {newest:%Y-%m-%d %H:%M} UTC. Have NTP keep it."
        )
    else:
        yield Finding("ok", "clock", f"{now:%Y-%m-%d %H:%M:%S} UTC")


def _find_newest(db: Path) -> datetime | None:
    if not db.is_file() or not db.stat().st_size:
        return None
    with contextlib.closing(connect(db, read_only=True)) as connection:
        newest = connection.execute("SELECT max(building_at) FROM runs").fetchone()[0]
    return parse_time(newest) if newest else None


def _check_disk(settings: Settings) -> Iterator[Finding]:
    free = shutil.disk_usage(settings.db.absolute().parent).free
    size = settings.db.stat().st_size if settings.db.exists() else 0
    text = f"{free / 1e9:.1f} GB free, the database has {size / 1e9:.3f} GB"
    if free < _LEAST_FREE_BYTES:
        yield Finding("wrong", "disk", f"{text}. Make room: nothing can be saved once it is full.")
    elif free < size:
        yield Finding("note", "disk", f"{text}. A backup here, or `staffstream compact`, needs as much again.")
    else:
        yield Finding("ok", "disk", text)


def _check_file(settings: Settings) -> Iterator[Finding]:
    db = settings.db
    if not db.exists():
        place = "will be made" if os.access(db.absolute().parent, os.W_OK) else "cannot be made by this user"
        yield Finding("ok" if place == "will be made" else "wrong", "file", f"{db} is not there yet and {place}")
        return
    if not os.access(db, os.W_OK):
        yield Finding("wrong", "file", f"{db} cannot be written by this user. Give the server's user the right to.")
        return
    with contextlib.closing(Presence(db)) as presence:
        running = "a server is running on it" if not presence.alone else "no server is running on it"
    facts = check_backup(db)
    counts = ", ".join(f"{count:,} {name}" for name, count in facts.counts.items())
    yield Finding("ok", "file", f"{db} is whole; {counts}; {running}")
    wal = Path(f"{db}-wal")
    if wal.exists() and wal.stat().st_size > _MOST_WAL_BYTES:
        yield Finding("note", "file", "its write-ahead log is large: another program may hold it open")


def _check_data(settings: Settings) -> Iterator[Finding]:
    if not settings.db.is_file():
        return
    with contextlib.closing(connect(settings.db, read_only=True)) as connection:
        dead = {count.kind: count.dead for count in jobs.measure_jobs(connection) if count.dead}
        queued, oldest = runs.measure_queue(connection)
    if dead:
        kinds = ", ".join(f"{count} {kind}" for kind, count in dead.items())
        yield Finding("note", "jobs", f"given up: {kinds}. See: staffstream jobs list")
    if oldest and (datetime.now(UTC) - parse_time(oldest)).total_seconds() > settings.max_queue_age_s:
        yield Finding("wrong", "queue", f"{queued} replies wait, the oldest since {oldest}. Is a server running?")


def _check_embedder(settings: Settings) -> Iterator[Finding]:
    key = settings.embedder_key.get_secret_value() if settings.embedder_key else None
    embedder = make_embedder(
        settings.embedder, url=settings.embedder_url, key=key, dimensions=settings.embedder_dimensions
    )
    waiting = 0
    if settings.db.is_file():
        with contextlib.closing(connect(settings.db, read_only=True)) as connection:
            stored = connection.execute("SELECT value FROM meta WHERE key = 'embedder'").fetchone()
            if stored and not holds_vectors_of(connection, embedder.name, embedder.dimensions):
                yield Finding(
                    "wrong", "embedder",
                    f"{embedder.name} is set, the vectors are {stored[0]}'s. Set that one, or run: staffstream reembed",
                )  # fmt: skip
                return
            waiting = count_unembedded(connection)
    yield Finding(
        "ok", "embedder", f"{embedder.name}, {embedder.dimensions} dimensions; {waiting:,} memories wait for it"
    )


def _try_embedder(settings: Settings) -> Iterator[Finding]:
    """Whether a far embedder answers; one that runs here has been loaded by now."""
    if settings.embedder.partition(":")[0] not in ("voyage", "openai"):
        return
    try:
        asyncio.run(_embed_word(settings))
    except StaffstreamError as error:
        text = f"{settings.embedder} does not answer ({error.code}). Look at its key, address and dimensions."
        yield Finding("wrong", "embedder", text)
    else:
        yield Finding("ok", "embedder", "it answers")


async def _embed_word(settings: Settings) -> None:
    from staffstream.app import open_embedder  # as late as this: it loads the SDK too

    async with open_embedder(settings) as embedder:
        await embedder.embed(["Hi"], kind="query")


def _check_keys(settings: Settings) -> Iterator[Finding]:
    if not settings.uses_keys:
        if settings.on_loopback:
            yield Finding("ok", "keys", f"off: whoever can reach {settings.host} on this machine may do everything")
        else:
            yield Finding("wrong", "keys", f"off is refused on {settings.host}. Unset {name_variable('auth')}.")
        return
    if settings.db.is_file():
        with contextlib.closing(connect(settings.db, read_only=True)) as connection:
            valid = sum(key.revoked_at is None for key in keys.list_keys(connection))
        if valid:
            yield Finding("ok", "keys", f"{valid} valid")
            return
    yield Finding("wrong", "keys", "there is none. Make one with: staffstream keys create NAME")


def _check_claude(settings: Settings, *, ask: bool) -> Iterator[Finding]:
    if settings.offline:
        yield Finding("note", "claude", "offline is set: a stand-in answers")
    elif settings.anthropic_api_key is None:
        yield Finding("wrong", "claude", "there is no ANTHROPIC_API_KEY. Set it, or start with --offline.")
    elif not ask:
        yield Finding("note", "claude", f"there is a key; it was not tried with {settings.model}")
    else:
        yield asyncio.run(_ask_claude(settings))


async def _ask_claude(settings: Settings) -> Finding:
    """The smallest request there is: it costs less than a thousandth of a cent."""
    from staffstream.app import make_chat_model  # as late as this: loading the SDK takes a second
    from staffstream.models.chat import Prompt, PromptMessage, Text

    prompt = Prompt(settings.model, 1, [], [PromptMessage("user", [Text("Hi")])])
    try:
        async with contextlib.aclosing(make_chat_model(settings)) as chat_model:
            await chat_model.stream_reply(prompt, lambda events: None)
    except StaffstreamError as error:
        return Finding("wrong", "claude", f"{error.detail} ({error.code}; model {settings.model})")
    return Finding("ok", "claude", f"{settings.model} answers")
