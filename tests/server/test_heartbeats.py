"""A comment line in every long silence of a stream, and none where there is no silence."""

import asyncio
from pathlib import Path

import pytest

from tests.far_end import PIECES, FarEnd, Gate, Reply
from tests.frames import Hearing
from tests.server import serve_here

pytestmark = pytest.mark.anyio

SAID = "".join(PIECES)


async def _hear_pings(hearing: Hearing, count: int) -> None:
    """Read that many heartbeats, and nothing else."""
    for _ in range(count):
        frame = await hearing.next()
        assert frame is not None
        assert frame.comment == "ping", frame


async def test_the_bytes_of_a_heartbeat(db: Path, far: FarEnd) -> None:
    """A comment line and a blank one: clients that split on newlines pass over it."""
    far.script(Reply(start_gate=Gate()))
    async with serve_here(db, far, heartbeat_s=0.05) as api:
        ada = await api.make_staff()
        async with api.http.stream("POST", f"/staff/{ada}/messages/stream", json={"content": "Hi"}) as response:
            assert await anext(response.aiter_raw()) == b": ping\n\n"


async def test_heartbeats_in_every_silence(db: Path, far: FarEnd) -> None:
    """Before the first token, between tokens and before the end; the text is whole in spite of them."""
    head = Gate()
    gate = Gate()
    far.script(Reply(head_gate=head, gate=gate))
    async with serve_here(db, far, heartbeat_s=0.05) as api:
        async with api.stream(await api.make_staff(), "Hi") as hearing:
            await _hear_pings(hearing, 2)
            head.open()
            for _ in PIECES:
                await _hear_pings(hearing, 2)
                gate.release()
                while (frame := await hearing.next()) and frame.comment:
                    pass
            await _hear_pings(hearing, 2)
            gate.open()
            heard = await hearing.rest()
    assert (heard.text, heard.end["type"]) == (SAID, "done")


async def test_no_heartbeat_among_tokens(db: Path, far: FarEnd) -> None:
    """A stream that says something more often than that needs none, however long it lasts."""
    far.script(Reply(["word "] * 16, delay_s=0.1))
    async with serve_here(db, far, heartbeat_s=1.0) as api:
        heard = await api.ask(await api.make_staff(), "Hi")
    assert [frame.type for frame in heard.frames] == ["token"] * 16 + ["done"]


async def test_heartbeats_in_the_queue(db: Path, far: FarEnd) -> None:
    """A stream whose run has not begun yet is kept alive too."""
    gate = far.hold()
    async with serve_here(db, far, heartbeat_s=0.05) as api:
        ada = await api.make_staff()
        await api.send(ada, "1")
        await far.arrived(1)
        async with api.stream(ada, "2", multitask_strategy="enqueue") as hearing:
            await _hear_pings(hearing, 2)
            gate.open()
            assert (await hearing.rest()).text == SAID


async def test_heartbeats_from_another_process(db: Path, far: FarEnd) -> None:
    """So is one that follows a run which another server on the same file makes."""
    gate = far.hold()
    async with serve_here(db, far) as maker, serve_here(db, far, heartbeat_s=0.05) as other:
        ada = await maker.make_staff()
        async with maker.stream(ada, "Hi") as making, other.join(ada, making.run_id) as hearing:
            await _hear_pings(hearing, 2)
            gate.open()
            heard = await hearing.rest()
            assert heard.end == (await making.rest()).end
    assert heard.text == SAID


async def test_status_events_are_the_heartbeats_of_who_asks_for_them(db: Path, far: FarEnd) -> None:
    """They tell how long it has been and how much was said, in place of each comment."""
    gate = far.hold()
    gate.release(2)
    async with serve_here(db, far, heartbeat_s=0.05) as api:
        async with api.stream(await api.make_staff(), "Hi", status_events=True) as hearing:
            while hearing.heard.text != "Hello from":
                await hearing.next()
            beats = [await hearing.next() for _ in range(3)]
            gate.open()
            await hearing.rest()
    told = [frame.data for frame in beats if frame]
    assert [(data["phase"], data["tokens"]) for data in told] == [("responding", 2)] * 3
    assert told[0]["elapsed_ms"] < told[1]["elapsed_ms"] < told[2]["elapsed_ms"]


async def test_a_reader_that_left_between_heartbeats_is_forgotten(db: Path, far: FarEnd) -> None:
    """Nobody is followed for longer than it takes to notice."""
    gate = far.hold()
    async with serve_here(db, far, heartbeat_s=0.05) as api:
        async with api.stream(await api.make_staff(), "Hi") as hearing:
            await _hear_pings(hearing, 1)
        log = api.app.state.service.pipeline.active[hearing.run_id].log
        async with asyncio.timeout(20):
            while log.reader_count:
                await asyncio.sleep(0.005)
        gate.open()
