"""`staffstream doctor`: looks at everything a server needs and says what to do about what is wrong."""

import argparse
import asyncio
import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from staffstream.cli.commands import add_db_option
from staffstream.domain import parse_time
from staffstream.errors import SetupError, StaffstreamError
from staffstream.models.embeddings import make_embedder
from staffstream.settings import Settings, name_variable, read_settings
from staffstream.storage import jobs, keys, runs
from staffstream.storage.database import Connection, Engine
from staffstream.storage.engines import choose_engine
from staffstream.storage.findings import Finding
from staffstream.storage.vectors import count_unembedded, find_stored_embedder, holds_vectors_of

_EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)


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
    engine = choose_engine(settings.db)
    own: list[Callable[[Settings, Engine], Iterator[Finding]]] = [
        _check_clock, _check_data, _check_embedder, _check_keys
    ]  # fmt: skip
    if ask:
        own.append(_try_embedder)
    yield Finding("ok", "Python", sys.version.split()[0])
    for of_place in engine.check():
        yield from _protect(of_place, engine)
    for check in own:
        yield from _protect(functools.partial(check, settings, engine), engine)
    yield from _check_claude(settings, ask=ask)


def _protect(check: Callable[[], Iterator[Finding]], engine: Engine) -> Iterator[Finding]:
    """What a check fails at is a finding too, in our words: an error's own text may hold what nobody should see."""
    subject = getattr(check, "func", check).__name__.removeprefix("_").removeprefix("check_")
    try:
        yield from check()
    except SetupError as error:
        yield Finding("wrong", subject, error.detail)
    except Exception as error:
        yield Finding("wrong", subject, f"cannot be checked ({_name_error(error, engine)})")


def _name_error(error: Exception, engine: Engine) -> str:
    if name := engine.describe_error(error):
        return name
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else type(error).__name__


def _check_clock(settings: Settings, engine: Engine) -> Iterator[Finding]:
    now = datetime.now(UTC)
    with _reading(engine) as connection:
        started = runs.find_last_start(connection) if connection else None
    newest = parse_time(started) if started else None
    if now < _EARLIEST:
        yield Finding("wrong", "clock", f"It shows {now:%Y-%m-%d}, which is past. Set it, and have NTP keep it.")
    elif newest and (newest - now).total_seconds() > 60:
        yield Finding(
            "wrong", "clock", f"It is behind the newest message, of {newest:%Y-%m-%d %H:%M} UTC. Have NTP keep it."
        )
    else:
        yield Finding("ok", "clock", f"{now:%Y-%m-%d %H:%M:%S} UTC")


@contextlib.contextmanager
def _reading(engine: Engine) -> Iterator[Connection | None]:
    """A connection that only reads; None where there is no database yet."""
    if not engine.exists():
        yield None
        return
    with contextlib.closing(engine.connect(read_only=True)) as connection:
        yield connection


def _check_data(settings: Settings, engine: Engine) -> Iterator[Finding]:
    with _reading(engine) as connection:
        if connection is None:
            return
        dead = {count.kind: count.dead for count in jobs.measure_jobs(connection) if count.dead}
        queued, oldest = runs.measure_queue(connection)
    if dead:
        kinds = ", ".join(f"{count} {kind}" for kind, count in dead.items())
        yield Finding("note", "jobs", f"given up: {kinds}. See: staffstream jobs list")
    if oldest and (datetime.now(UTC) - parse_time(oldest)).total_seconds() > settings.max_queue_age_s:
        yield Finding("wrong", "queue", f"{queued} replies wait, the oldest since {oldest}. Is a server running?")


def _check_embedder(settings: Settings, engine: Engine) -> Iterator[Finding]:
    embedder = make_embedder(settings)
    waiting = 0
    with _reading(engine) as connection:
        if connection is not None:
            stored = find_stored_embedder(connection)
            if stored and not holds_vectors_of(connection, embedder.name, embedder.dimensions):
                yield Finding(
                    "wrong", "embedder",
                    f"{embedder.name} is set, the vectors are {stored}'s. Set that one, or run: staffstream reembed",
                )  # fmt: skip
                return
            waiting = count_unembedded(connection)
    yield Finding(
        "ok", "embedder", f"{embedder.name}, {embedder.dimensions} dimensions; {waiting:,} memories wait for it"
    )


def _try_embedder(settings: Settings, engine: Engine) -> Iterator[Finding]:
    """Whether a remote embedder answers; one that runs here has been loaded by now."""
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
    async with contextlib.aclosing(make_embedder(settings)) as embedder:
        await embedder.embed(["Hi"], kind="query")


def _check_keys(settings: Settings, engine: Engine) -> Iterator[Finding]:
    if not settings.uses_keys:
        if settings.on_loopback:
            yield Finding("ok", "keys", f"off: whoever can reach {settings.host} on this machine may do everything")
        else:
            yield Finding("wrong", "keys", f"off is refused on {settings.host}. Unset {name_variable('auth')}.")
        return
    with _reading(engine) as connection:
        valid = sum(key.revoked_at is None for key in keys.list_keys(connection)) if connection else 0
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
