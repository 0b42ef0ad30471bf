"""/readyz: what it tells a load balancer, and a person who looks."""

import itertools
import time
from pathlib import Path

import pytest

from staffstream.background.write_probe import PROBE_S
from tests.tools.provider import ScriptedProvider
from tests.tools.server import serve_here

pytestmark = pytest.mark.anyio


async def test_a_silent_embedder_is_told_and_replies_go_on(db: Path, provider: ScriptedProvider) -> None:
    """Memories are searched by words meanwhile, so the server is still fit for requests."""
    nowhere = {"embedder": "openai:m", "embedder_url": "http://127.0.0.1:9/v1", "embedder_dimensions": 8}
    async with serve_here(db, provider, **nowhere) as api:
        ready = await api.http.get(f"{api.url}/readyz")
        assert (ready.status_code, ready.json()["checks"]["embedder"]) == (200, "ok")
        assert (await api.ask(await api.make_staff(), "hello")).status == 200
        ready = await api.http.get(f"{api.url}/readyz")
        assert (ready.status_code, ready.json()["checks"]["embedder"]) == (200, "silent")


async def test_every_check_is_named(db: Path, provider: ScriptedProvider) -> None:
    """The database, what waits, what was given up, the embedder, and whether the server is about to stop."""
    async with serve_here(db, provider) as api:
        checks = (await api.http.get(f"{api.url}/readyz")).json()["checks"]
        assert checks == dict.fromkeys(("database", "queue", "background", "embedder", "jobs", "draining"), "ok")
        await api.app.drain(0)
        ready = await api.http.get(f"{api.url}/readyz")
        assert (ready.status_code, ready.json()["checks"]["draining"]) == (503, "draining")


async def test_asking_often_commits_seldom(db: Path, provider: ScriptedProvider) -> None:
    """Nobody needs a key to ask, and a commit waits for the disk."""
    async with serve_here(db, provider) as api:
        commits = itertools.count()
        api.app.state.services.database.on_commit = lambda *_: next(commits)
        started = time.monotonic()
        for _ in range(30):
            assert (await api.http.get(f"{api.url}/readyz")).status_code == 200
        background = 3  # rounds that end within the time may commit too
        assert next(commits) <= 1 + background + (time.monotonic() - started) / PROBE_S
