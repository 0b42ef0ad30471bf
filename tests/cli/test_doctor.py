"""`staffstream doctor`: what it finds, and what it says to do."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from staffstream.cli.commands import doctor
from staffstream.domain import now_text
from tests.tools.databases import connect, prepare
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import http_error
from tests.tools.server import KEY, make_environment, make_keys, make_settings, serve_here, start_server

pytestmark = pytest.mark.anyio


async def run_doctor(
    db: Path, provider: ScriptedProvider | None, *flags: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`staffstream doctor` as its operator runs it."""
    command = [sys.executable, "-m", "staffstream", "doctor", "--db", str(db), *flags]
    environment = make_environment(db, provider, **variables)
    return await asyncio.to_thread(
        subprocess.run, command, env=environment, cwd=db.parent, capture_output=True, text=True, timeout=60, check=False
    )


def find(db: Path, subject: str, **settings: Any) -> doctor.Finding:
    """The finding about a subject that is not all right, or else the last one about it."""
    found = [f for f in doctor.examine(make_settings(db, **settings), ask=False) if f.subject == subject]
    return next((finding for finding in found if finding.verdict != "ok"), found[-1])


@pytest.fixture
async def lived_in(db: Path, provider: ScriptedProvider) -> Path:
    """A database with a conversation in it."""
    async with serve_here(db, provider) as api:
        await api.ask(await api.make_staff(), "I live in Bergen.")
    return db


# ── the whole command ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_healthy_server_gets_a_clean_bill(lived_in: Path, provider: ScriptedProvider) -> None:
    """Status 0, a line a check, and the key was tried with the smallest question there is."""
    async with start_server(lived_in, provider):
        done = await run_doctor(lived_in, provider)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * len(lines)
    assert "1 staff, 1 conversations, 2 messages" in done.stdout
    assert "a server is running on it" in done.stdout
    assert provider.chats[-1].body["max_tokens"] == 1
    assert KEY not in done.stdout + done.stderr


async def test_it_changes_nothing(lived_in: Path, provider: ScriptedProvider) -> None:
    """A look at a stopped server's file leaves it as it was."""
    before = lived_in.read_bytes()
    assert (await run_doctor(lived_in, provider)).returncode == 0
    assert lived_in.read_bytes() == before


async def test_a_key_that_claude_refuses_is_found(lived_in: Path, provider: ScriptedProvider) -> None:
    """With status 1, what to do, and without the key."""
    provider.script(http_error(401, "authentication_error", message=f"invalid {KEY}"))
    done = await run_doctor(lived_in, provider)
    assert done.returncode == 1
    assert "wrong  claude" in done.stdout
    assert "upstream_key_refused" in done.stdout
    assert KEY not in done.stdout + done.stderr


async def test_nothing_is_asked_when_told_so(lived_in: Path, provider: ScriptedProvider) -> None:
    """For a machine without a network, or to save the thousandth of a cent."""
    asked = len(provider.chats)
    done = await run_doctor(lived_in, provider, "--no-ask")
    assert done.returncode == 0
    assert len(provider.chats) == asked


async def test_a_server_that_cannot_be_reached_is_told(lived_in: Path, provider: ScriptedProvider) -> None:
    """As what it is, within the connection's time."""
    done = await run_doctor(lived_in, provider, ANTHROPIC_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "upstream_broken" in done.stdout


async def test_wrong_settings_are_told_first(db: Path, provider: ScriptedProvider) -> None:
    """Status 2, as with every command."""
    done = await run_doctor(db, provider, STAFFSTREAM_PORT="many")
    assert done.returncode == 2
    assert "STAFFSTREAM_PORT" in done.stderr


# ── each check ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_key_it_says_where_to_put_one(db: Path) -> None:
    """Or how to do without."""
    finding = find(db, "claude", offline=False)
    assert finding.verdict == "wrong"
    assert "ANTHROPIC_API_KEY" in finding.text
    assert find(db, "claude", offline=True).verdict == "note"


def test_a_file_that_is_not_there_yet_is_fine(db: Path) -> None:
    """The server makes it; the doctor does not."""
    assert find(db, "file").verdict == "ok"
    assert not db.exists()


async def test_a_damaged_file_is_found(lived_in: Path) -> None:
    """Damaged pages, a file cut short, another program's database, no database."""
    whole = lived_in.read_bytes()
    for damaged in (
        whole[:8192] + b"\xa5" * 100_000 + whole[108_192:],
        whole[: len(whole) // 2],
        b"hello",
        whole[:68] + b"\0\0\0\1" + whole[72:],
    ):
        lived_in.write_bytes(damaged)
        assert find(lived_in, "file").verdict == "wrong"


async def test_a_clock_that_is_behind_the_data_is_found(lived_in: Path) -> None:
    """Ids and times would no longer be in order."""
    assert find(lived_in, "clock").verdict == "ok"
    with contextlib.closing(connect(lived_in)) as connection:
        connection.execute("UPDATE runs SET building_at = ?", (now_text(3600),))
    finding = find(lived_in, "clock")
    assert finding.verdict == "wrong"
    assert "NTP" in finding.text


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(("free", "verdict"), [(10**12, "ok"), (250 * 2**20, "note"), (10**6, "wrong")])
async def test_a_disk_that_runs_full_is_found(
    lived_in: Path, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str
) -> None:
    """Too little for a copy is a note, too little to go on is wrong."""
    with lived_in.open("r+b") as file:
        file.truncate(300 * 2**20)  # sparse: it takes no room here
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, free))
    assert find(lived_in, "disk").verdict == verdict


async def test_another_embedder_is_found(lived_in: Path) -> None:
    """With the command that makes the vectors anew."""
    assert find(lived_in, "embedder").verdict == "ok"
    with contextlib.closing(connect(lived_in)) as connection:
        connection.execute("UPDATE meta SET value = 'another/384' WHERE key = 'embedder'")
    finding = find(lived_in, "embedder")
    assert finding.verdict == "wrong"
    assert "staffstream reembed" in finding.text


async def test_a_remote_embedder_that_does_not_answer_is_found(lived_in: Path, provider: ScriptedProvider) -> None:
    """It is tried with one word, unless nothing is to be asked."""
    variables = {
        "STAFFSTREAM_EMBEDDER": "openai:m", "STAFFSTREAM_EMBEDDER_URL": "http://127.0.0.1:9/v1",
        "STAFFSTREAM_EMBEDDER_DIMENSIONS": "256",
    }  # fmt: skip
    with contextlib.closing(connect(lived_in)) as connection:
        connection.execute("UPDATE meta SET value = 'openai:m/256' WHERE key = 'embedder'")
    done = await run_doctor(lived_in, provider, **variables)
    assert done.returncode == 1
    assert "wrong  embedder: openai:m does not answer (embedder_unavailable)" in done.stdout


async def test_work_that_is_stuck_is_found(lived_in: Path) -> None:
    """Dead jobs are a note, replies that nobody makes are wrong."""
    with contextlib.closing(connect(lived_in)) as connection:
        connection.execute("UPDATE jobs SET state = 'dead', due_at = NULL")
        connection.execute(
            "UPDATE runs SET state = 'queued', finished_at = NULL, created_at = ?, building_at = NULL",
            (now_text(-9999),),
        )
    assert find(lived_in, "jobs").verdict == "note"
    assert find(lived_in, "queue").verdict == "wrong"


def test_missing_keys_are_found(db: Path) -> None:
    """Where keys are asked for; off is told for what it is, and refused where others can reach the server."""
    prepare(db)
    assert find(db, "keys", auth="keys").verdict == "wrong"
    assert find(db, "keys").verdict == "ok"
    assert find(db, "keys", host="0.0.0.0", auth="off").verdict == "wrong"
    make_keys(db, ada="admin")
    assert find(db, "keys", host="0.0.0.0").verdict == "ok"


async def test_an_errors_own_text_is_not_printed(lived_in: Path) -> None:
    """It may quote what nobody should see; the driver's name for it says enough."""
    with contextlib.closing(connect(lived_in)) as connection:
        connection.execute("ALTER TABLE jobs RENAME TO secret_name")
    finding = find(lived_in, "data")
    assert finding == ("wrong", "data", "cannot be checked (SQLITE_ERROR)")
