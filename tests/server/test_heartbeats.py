"""A comment line in every long silence of a stream, and none where there is no silence."""

import asyncio
from pathlib import Path

import pytest

from tests.tools.frames import StreamReader
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import PIECES, Gate, Reply
from tests.tools.server import serve_here

pytestmark = pytest.mark.anyio

SAID = "".join(PIECES)


async def _hear_pings(stream_reader: StreamReader, count: int) -> None:
    """Read that many heartbeats, and nothing else."""
    for _ in range(count):
        frame = await stream_reader.next()
        assert frame is not None
        assert frame.comment == "ping", frame


async def test_the_bytes_of_a_heartbeat(db: Path, provider: ScriptedProvider) -> None:
    """A comment line and a blank one: clients that split on newlines pass over it."""
    provider.script(Reply(start_gate=Gate()))
    async with serve_here(db, provider, heartbeat_s=0.05) as api:
        ada = await api.make_staff()
        async with api.http.stream("POST", f"/staff/{ada}/messages/stream", json={"content": "Hi"}) as response:
            assert await anext(response.aiter_raw()) == b": ping\n\n"


async def test_heartbeats_in_every_silence(db: Path, provider: ScriptedProvider) -> None:
    """Before the first token, between tokens and before the end; the text is whole in spite of them."""
    head = Gate()
    gate = Gate()
    provider.script(Reply(head_gate=head, gate=gate))
    async with serve_here(db, provider, heartbeat_s=0.05) as api:
        async with api.stream(await api.make_staff(), "Hi") as stream_reader:
            await _hear_pings(stream_reader, 2)
            head.open()
            for _ in PIECES:
                await _hear_pings(stream_reader, 2)
                gate.release()
                while (frame := await stream_reader.next()) and frame.comment:
                    pass
            await _hear_pings(stream_reader, 2)
            gate.open()
            received = await stream_reader.rest()
    assert (received.text, received.end["type"]) == (SAID, "done")


async def test_no_heartbeat_among_tokens(db: Path, provider: ScriptedProvider) -> None:
    """A stream that says something more often than that needs none, however long it lasts."""
    provider.script(Reply(["word "] * 16, delay_s=0.1))
    async with serve_here(db, provider, heartbeat_s=1.0) as api:
        received = await api.ask(await api.make_staff(), "Hi")
    assert [frame.type for frame in received.frames] == ["token"] * 16 + ["done"]


async def test_heartbeats_in_the_queue(db: Path, provider: ScriptedProvider) -> None:
    """A stream whose run has not begun yet is kept alive too."""
    gate = provider.hold()
    async with serve_here(db, provider, heartbeat_s=0.05) as api:
        ada = await api.make_staff()
        await api.send(ada, "1")
        await provider.arrived(1)
        async with api.stream(ada, "2", multitask_strategy="enqueue") as stream_reader:
            await _hear_pings(stream_reader, 2)
            gate.open()
            assert (await stream_reader.rest()).text == SAID


async def test_heartbeats_from_another_process(db: Path, provider: ScriptedProvider) -> None:
    """So is one that follows a run which another server on the same file makes."""
    gate = provider.hold()
    async with serve_here(db, provider) as maker, serve_here(db, provider, heartbeat_s=0.05) as other:
        ada = await maker.make_staff()
        async with maker.stream(ada, "Hi") as making, other.join(ada, making.run_id) as stream_reader:
            await _hear_pings(stream_reader, 2)
            gate.open()
            received = await stream_reader.rest()
            assert received.end == (await making.rest()).end
    assert received.text == SAID


async def test_status_events_are_the_heartbeats_of_who_asks_for_them(db: Path, provider: ScriptedProvider) -> None:
    """They tell how long it has been and how much was said, in place of each comment."""
    gate = provider.hold()
    gate.release(2)
    async with serve_here(db, provider, heartbeat_s=0.05) as api:
        async with api.stream(await api.make_staff(), "Hi", status_events=True) as stream_reader:
            while stream_reader.received.text != "Hello from":
                await stream_reader.next()
            beats = [await stream_reader.next() for _ in range(3)]
            gate.open()
            await stream_reader.rest()
    told = [frame.data for frame in beats if frame]
    assert [(data["phase"], data["tokens"]) for data in told] == [("responding", 2)] * 3
    assert told[0]["elapsed_ms"] < told[1]["elapsed_ms"] < told[2]["elapsed_ms"]


async def test_a_subscriber_that_left_between_heartbeats_is_forgotten(db: Path, provider: ScriptedProvider) -> None:
    """Nobody is followed for longer than it takes to notice."""
    gate = provider.hold()
    async with serve_here(db, provider, heartbeat_s=0.05) as api:
        async with api.stream(await api.make_staff(), "Hi") as stream_reader:
            await _hear_pings(stream_reader, 1)
        log = api.app.state.services.pipeline.active_runs.by_id[stream_reader.run_id].log
        async with asyncio.timeout(20):
            while log.subscriber_count:
                await asyncio.sleep(0.005)
        gate.open()
