"""The database file deleted, moved or replaced under the running server."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools.provider import ScriptedProvider
from tests.tools.server import serve_here

pytestmark = [pytest.mark.anyio, pytest.mark.logs_errors]


def delete(db: Path) -> None:
    db.unlink()


def move(db: Path) -> None:
    db.rename(db.with_suffix(".moved"))


def replace(db: Path) -> None:
    copy = db.with_suffix(".copy")
    shutil.copy(db, copy)
    copy.replace(db)


def delete_wal(db: Path) -> None:
    db.with_name(db.name + "-wal").unlink()


@pytest.mark.parametrize("lose", [delete, move, replace, delete_wal])
async def test_nothing_is_acknowledged_once_the_file_is_lost(
    db: Path, provider: ScriptedProvider, lose: Callable[[Path], None]
) -> None:
    """What goes into a file without a name is gone with the process: messages are refused, /readyz fails, and the log
    says what happened.
    """
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        await api.ask(ada, "Before")
        lose(db)
        for mode in ("messages", "messages/stream"):
            answer = await api.http.post(f"/staff/{ada}/{mode}", json={"content": "After"})
            assert (answer.status_code, answer.json()["code"]) == (503, "storage_lost")
        ready = await api.http.get(f"{api.url}/readyz")
        assert (ready.status_code, ready.json()["checks"]["database"]) == (503, "storage_lost")
        assert len(provider.requests) == 1


async def test_a_reply_does_not_end_as_saved_once_the_file_is_lost(db: Path, provider: ScriptedProvider) -> None:
    """Its stream ends in an error."""
    gate = provider.hold(["one", " two"])
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        gate.release()
        async with api.stream(ada, "Hi") as stream_reader:
            await stream_reader.until("one")
            db.unlink()
            gate.open()
            received = await stream_reader.rest()
            assert received.end["type"] == "error"
