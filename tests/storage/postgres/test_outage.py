"""A server whose PostgreSQL goes away while it runs, and comes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.tools import databases
from tests.tools.postgres import Cluster
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Gate, Reply
from tests.tools.server import Api, serve_here
from tests.tools.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.logs_errors]


@pytest.fixture
async def api(
    cluster: Cluster, db: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Api]:
    """A server on PostgreSQL, whichever engine the session is on."""
    monkeypatch.setattr(databases, "cluster", cluster)
    async with serve_here(db, provider, lease_s=1) as api:
        yield api


@contextlib.contextmanager
def being_away(cluster: Cluster) -> Iterator[None]:
    """PostgreSQL is stopped within the block."""
    cluster.stop()
    try:
        yield
    finally:
        cluster.start()


async def test_requests_are_refused_until_it_is_back(cluster: Cluster, api: Api, ada: str) -> None:
    """503 with Retry-After, and /readyz says why; the first request afterwards is answered."""
    with being_away(cluster):
        for path in (f"/staff/{ada}/messages", f"/staff/{ada}/messages/stream"):
            answer = await api.http.post(path, json={"content": "Hi"})
            assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        answer = await api.http.get(f"/staff/{ada}/messages")
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        ready = await api.http.get(f"{api.url}/readyz")
        assert (ready.status_code, ready.json()["checks"]["database"]) == (503, "storage_unavailable")
    assert (await api.ask(ada, "Are you back?")).end["type"] == "done"


async def test_a_reply_goes_on_while_it_is_away_and_is_saved(
    cluster: Cluster, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """Longer than its lease: nobody takes it for abandoned."""
    gate = Gate()
    provider.script(Reply(["before", " meanwhile", " after"], gate=gate))
    async with api.stream(ada, "Hi") as stream:
        gate.release(1)
        await stream.until("before")
        with being_away(cluster):
            gate.release(1)
            await stream.until("before meanwhile")
            await asyncio.sleep(1.5)  # past the lease
        gate.open()
        await stream.rest()
    assert stream.received.end["type"] == "done"
    assert await api.said(ada) == ["Hi", "before meanwhile after"]


async def test_a_reply_that_ends_while_it_is_away_is_saved_later(
    cluster: Cluster, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """Its stream ends in an error, since nothing is saved yet; the whole reply is there once PostgreSQL is."""
    gate = Gate()
    provider.script(Reply(["before", " meanwhile"], gate=gate))
    async with api.stream(ada, "Hi") as stream:
        gate.release(1)
        await stream.until("before")
        with being_away(cluster):
            gate.open()
            await stream.rest()
            assert (stream.received.end["type"], stream.received.end["code"]) == ("error", "storage_unavailable")
    assert stream.received.text == "before meanwhile"

    async def is_saved() -> bool:
        return await api.said(ada) == ["Hi", "before meanwhile"]

    await until(is_saved)
