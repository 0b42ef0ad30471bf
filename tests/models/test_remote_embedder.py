"""A remote embedder under the whole server: what waits while it is away, and what is made up for when it is back."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools.databases import connect
from tests.tools.embedding_server import EmbeddingServer, ScriptedResponse, answer_well, count_vectors
from tests.tools.extractions import hasten_jobs
from tests.tools.provider import ScriptedProvider
from tests.tools.server import make_environment, serve_here
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio


class Moody(EmbeddingServer):
    """Answers as it is told to at the moment, with vectors of eight dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.good_answers = 1 << 30
        self.answers = self  # type: ignore[assignment]

    def pop(self, index: int) -> ScriptedResponse:
        """The next answer; after so many good ones, bad ones."""
        self.good_answers -= 1
        if self.status != 200 or self.good_answers < 0:
            return (self.status if self.status != 200 else 500), {}, {}
        _, headers, body = answer_well(self.asked[-1])
        for item in body["data"]:
            item["embedding"] += [0.5] * 5
        return 200, headers, body


@pytest.fixture
async def moody() -> AsyncIterator[tuple[Moody, dict[str, Any]]]:
    server = Moody()
    async with server.running() as url:
        yield server, {"embedder": "openai:m", "embedder_url": url, "embedder_dimensions": 8}


def count_dead(db: Path) -> int:
    with contextlib.closing(connect(db)) as connection:
        return int(connection.execute("SELECT count(*) FROM jobs WHERE state = 'dead'").fetchone()[0])


async def test_what_is_said_while_the_embedder_is_away_waits_for_it(
    db: Path, provider: ScriptedProvider, moody: tuple[Moody, dict[str, Any]]
) -> None:
    """Messages are accepted and found by their words, readiness says so, and the vectors follow."""
    server, settings = moody
    server.status = 401
    async with serve_here(db, provider, **settings) as api:
        ada = await api.make_staff()
        assert (await api.ask(ada, "The boiler code is 4711-zebra.")).end["type"] == "done"
        await until(lambda: count_dead(db) == 1)
        assert count_vectors(db) == 0
        found = await api.get(f"/staff/{ada}/memories", params={"query": "boiler code"})
        assert found[0]["text"] == "The boiler code is 4711-zebra."
        ready = await api.http.get(f"{api.url}/readyz")
        assert ready.status_code == 200
        assert (ready.json()["checks"]["embedder"], ready.json()["checks"]["jobs"]) == ("silent", "dead")
        server.status = 200
        await api.ask(ada, "Thank you.")
        await until(lambda: count_vectors(db) == 4)
        await until(lambda: count_dead(db) == 0)
        assert (await api.http.get(f"{api.url}/readyz")).json()["checks"]["embedder"] == "ok"


async def test_a_start_makes_up_for_vectors_that_are_missing(
    db: Path, provider: ScriptedProvider, moody: tuple[Moody, dict[str, Any]]
) -> None:
    """Nobody has to speak for what was given up: the next start asks again."""
    server, settings = moody
    server.status = 403
    async with serve_here(db, provider, **settings) as api:
        await api.post(f"/staff/{await api.make_staff()}/memories", {"text": "Kim likes tea."}, 201)
        await until(lambda: count_dead(db) == 1)
    server.status = 200
    async with serve_here(db, provider, **settings):
        hasten_jobs(db)
        await until(lambda: count_vectors(db) == 1)
        await until(lambda: count_dead(db) == 0)


async def test_reembedding_survives_a_kill(
    db: Path, provider: ScriptedProvider, moody: tuple[Moody, dict[str, Any]]
) -> None:
    """Killed in the middle, the next `staffstream reembed` asks for the rest alone, and shows how far it is."""
    server, settings = moody
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        await api.post(f"/staff/{ada}/memories", [{"text": f"Kim owns {n} boats."} for n in range(300)], 201)
    server.good_answers = 4  # of 64 texts: one batch of 256, and no more
    command = [sys.executable, "-m", "staffstream", "reembed", "--db", str(db)]
    variables = {f"STAFFSTREAM_{name.upper()}": str(value) for name, value in settings.items()}
    environment = make_environment(db, **variables)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await until(lambda: len(server.asked) > 4)
    process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(process.wait)
    assert count_vectors(db) == 256
    server.good_answers, asked = 1 << 30, len(server.asked)
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, env=environment | {"TERM": os.environ.get("TERM", "dumb")}, capture_output=True)
    )
    assert done.returncode == 0, done.stderr
    assert sum(len(request["input"]) for request in server.asked[asked:]) == 44
    assert count_vectors(db) == 300
    assert b"44/44" in done.stderr
