"""Another embedder: the server refuses to mix vectors, and `staffstream reembed` makes them anew."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from staffstream.app import create_app
from staffstream.cli.main import main
from staffstream.errors import SetupError
from tests.tools.databases import connect
from tests.tools.embedding_server import count_vectors
from tests.tools.provider import ScriptedProvider
from tests.tools.server import make_settings, serve_here

pytestmark = pytest.mark.anyio


def pretend_other_embedder(db: Path) -> None:
    with contextlib.closing(connect(db)) as connection:
        connection.execute("UPDATE meta SET value = 'another/384' WHERE key = 'embedder'")


async def test_another_embedder_is_refused_with_the_command_that_helps(db: Path, provider: ScriptedProvider) -> None:
    """Vectors of two embedders cannot be compared: the server does not start, and says what to run."""
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        for n in range(3):
            await api.post(f"/staff/{ada}/memories", {"text": f"Kim owns {n} boats."}, 201)
    pretend_other_embedder(db)
    with pytest.raises(SetupError, match="staffstream reembed"):
        async with create_app(make_settings(db, provider)).running():
            pass
    assert await asyncio.to_thread(main, ["reembed", "--db", str(db)]) == 0
    assert count_vectors(db) == 3
    async with serve_here(db, provider) as api:
        found = await api.get(f"/staff/{ada}/memories", params={"query": "boats"})
        assert len(found) == 3


async def test_a_stopped_reembedding_goes_on_where_it_was(
    db: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was embedded before the stop is kept: the second run does only the rest."""
    from staffstream.cli.commands import reembed

    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        await api.post(f"/staff/{ada}/memories", [{"text": f"Kim owns {n} boats."} for n in range(7)], 201)
    pretend_other_embedder(db)
    monkeypatch.setattr(reembed, "BATCH", 3)
    save, calls = reembed.save_vectors, []

    def save_once(*args: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(reembed, "save_vectors", save_once)
    assert await asyncio.to_thread(main, ["reembed", "--db", str(db)]) == 130
    assert count_vectors(db) == 3
    assert await asyncio.to_thread(main, ["reembed", "--db", str(db)]) == 0
    assert [len(args[2]) for args in calls[2:]] == [3, 1]  # type: ignore[arg-type]
    assert count_vectors(db) == 7


async def test_vectors_are_not_made_anew_beside_a_running_server(
    db: Path, provider: ScriptedProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server goes on with its embedder, so its questions would be compared with another one's vectors: refused,
    and what is stored can be recalled as before.
    """
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        await api.post(f"/staff/{ada}/memories", {"text": "Kim owns a boat."}, 201)
        pretend_other_embedder(db)
        assert await asyncio.to_thread(main, ["reembed", "--db", str(db)]) == 2
        assert "Stop it first" in capsys.readouterr().err
        assert count_vectors(db) == 1


def test_a_wrong_embedder_is_a_clear_refusal(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is touched, and the message lists what there is."""
    assert main(["reembed", "--db", str(db), "--embedder", "nonsense"]) == 2
    assert not db.exists()
