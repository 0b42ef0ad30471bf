"""Two server processes on one file: each reply is made into one message, each event has one id, whoever stops when."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from staffstream.domain import Owner
from staffstream.storage import run_pieces, runs
from tests.tools.databases import connect, transact
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Gate, Reply
from tests.tools.receiver import Receiver, ScriptedResponse
from tests.tools.server import ServerProcess, serve_here, start_server
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio

LEASE_S = "1"


@contextlib.asynccontextmanager
async def start(db: Path, provider: ScriptedProvider, **variables: str) -> AsyncIterator[ServerProcess]:
    """One of the processes; what it holds may be taken over a second after its last sign of life."""
    given = {"STAFFSTREAM_LEASE_S": LEASE_S, "STAFFSTREAM_WEBHOOK_ALLOW_PRIVATE": "127.0.0.1", **variables}
    async with start_server(db, provider, variables=given) as server:
        try:
            yield server
        finally:
            server.thaw()  # a stopped process would not even be asked to end


async def wait_for_state(server: ServerProcess, ada: str, run_id: str, *states: str) -> Any:
    async def look() -> Any:
        run = await server.api.run(ada, run_id)
        return run if run["state"] in states else None

    return await until(look)


async def test_a_run_taken_over_from_a_stopped_process_becomes_one_reply(db: Path, provider: ScriptedProvider) -> None:
    """The first is stopped past its lease in the middle of a reply, and wakes up when the second has made one."""
    slow, quick = Gate(), Reply(["made", " by the second"])
    provider.script(Reply(["made", " by the first"], gate=slow), quick)
    async with start(db, provider) as first, Receiver() as receiver:
        ada = await first.api.make_staff(webhook_url=receiver.url)
        sent = await first.api.send(ada, "Hi")
        await provider.arrived(1)
        slow.release(1)
        await wait_for_state(first, ada, sent["run_id"], "streaming")
        async with start(db, provider) as second:
            await first.freeze()
            run = await wait_for_state(second, ada, sent["run_id"], "done")
            assert run["partial_text"] == "made by the second"
            slow.open()  # Claude has gone on talking to the first meanwhile
            first.thaw()
            for server in (first, second):
                assert (await server.api.rejoin(ada, sent["run_id"])).text == "made by the second"
                assert await server.api.said(ada) == ["Hi", "made by the second"]
            assert await second.stop() == 0
        assert await first.stop() == 0
        assert len(provider.requests) == 2
        assert len({got.id for got in receiver.got}) == 1
        assert {got.event["data"]["content"] for got in receiver.got} == {"made by the second"}


async def test_who_joins_a_reply_that_was_taken_over_hears_the_new_one(db: Path, provider: ScriptedProvider) -> None:
    """The process that lost it still has the old text, which is in nobody's list of messages."""
    slow = Gate()
    provider.script(Reply(["the old", " one"], gate=slow), Reply(["the new one"]))
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        sent = await api.send(ada, "Hi")
        await provider.arrived(1)
        slow.release(1)

        async def has_begun() -> bool:
            return (await api.run(ada, sent["run_id"]))["partial_text"] == "the old"

        await until(has_begun)
        with contextlib.closing(connect(db)) as other, transact(other):  # as another process does after the lease
            [(run, delivered)] = runs.find_abandoned_runs(other, owner=Owner("another", 15.0), all_begun=True)
            assert not delivered
            assert runs.requeue_run(other, run)
        assert (await api.rejoin(ada, sent["run_id"])).text == "the new one"
        assert await api.said(ada) == ["Hi", "the new one"]


async def test_a_stopped_process_that_wakes_up_first_finishes_its_own_reply(
    db: Path, provider: ScriptedProvider
) -> None:
    """Within its lease nobody touches what it holds; the second process has nothing to do."""
    gate = Gate()
    provider.default = Reply(["made", " by the first"], gate=gate)
    async with start(db, provider, STAFFSTREAM_LEASE_S="60") as first:
        ada = await first.api.make_staff()
        sent = await first.api.send(ada, "Hi")
        await provider.arrived(1)
        async with start(db, provider, STAFFSTREAM_LEASE_S="60") as second:
            await first.freeze()
            assert (await second.api.run(ada, sent["run_id"]))["state"] in ("building", "streaming")
            first.thaw()
            gate.open()
            run = await wait_for_state(second, ada, sent["run_id"], "done")
            assert run["partial_text"] == "made by the first"
            assert await second.api.said(ada) == ["Hi", "made by the first"]
    assert len(provider.requests) == 1


async def test_a_stream_taken_over_ends_once_for_both_subscribers(db: Path, provider: ScriptedProvider) -> None:
    """A stream that somebody has read from is not made again: its partial text is saved by the second process, and the
    first one's subscriber receives the same end when that process wakes up.
    """
    gate = Gate()
    provider.default = Reply(["Half", " of it"], gate=gate)
    async with start(db, provider) as first:
        ada = await first.api.make_staff()
        async with first.api.stream(ada, "Hi") as stream_reader:
            gate.release(1)
            await stream_reader.until("Half")

            async def is_written() -> bool:
                return _read_partial(db, stream_reader.run_id) == "Half"

            await until(is_written)
            async with start(db, provider) as second:
                await first.freeze()
                run = await wait_for_state(second, ada, stream_reader.run_id, "failed")
                assert (run["error"]["code"], run["partial_text"]) == ("server_restart", "Half")
                elsewhere = await second.api.rejoin(ada, stream_reader.run_id)
                gate.open()
                first.thaw()
                received = await stream_reader.rest()
                assert received.end == elsewhere.end
                assert received.end["code"] == "server_restart"
                assert await first.api.said(ada) == ["Hi", "Half"]


async def test_a_live_reply_is_followed_from_the_other_process(db: Path, provider: ScriptedProvider) -> None:
    """Token by token, from the first process's pieces, each of which is written once; the end takes them away."""
    texts = ["One", " by", " one", "."]
    gate = provider.hold(texts)
    async with start(db, provider) as first, start(db, provider) as second:
        ada = await first.api.make_staff()
        async with first.api.stream(ada, "Hi") as here:
            async with second.api.join(ada, here.run_id) as there:
                for count in range(1, len(texts) + 1):
                    gate.release(1)
                    await there.until("".join(texts[:count]))
                    await here.until("".join(texts[:count]))
                assert [text for _, text in _read_pieces(db, here.run_id)] == texts
                assert (await second.api.run(ada, here.run_id))["partial_text"] == "".join(texts)
                gate.open()
                assert (await here.rest()).end == (await there.rest()).end
            assert _read_pieces(db, here.run_id) == []


async def test_a_cursor_ahead_of_what_was_saved_waits_for_it(db: Path, provider: ScriptedProvider) -> None:
    """Who has read more of the first process than that has saved goes on at the second without a gap or a repeat."""
    gate = provider.hold(["Half", " of it"])
    async with start(db, provider) as first, start(db, provider) as second:
        ada = await first.api.make_staff()
        async with first.api.stream(ada, "Hi") as here:
            await provider.arrived(1)
            await wait_for_state(second, ada, here.run_id, "streaming")
            async with second.api.join(ada, here.run_id, 6) as there:
                gate.open()
                received = await there.rest()
            assert received.text == "Half of it"[6:]
            assert received.end == (await here.rest()).end


async def test_a_run_that_waits_here_and_is_made_there_is_followed(db: Path, provider: ScriptedProvider) -> None:
    """A queued run's stream goes on whichever process takes it up."""
    gates = [provider.hold(["first"]), provider.hold(["second"])]
    async with start(db, provider) as first, start(db, provider) as second:
        ada = await first.api.make_staff()
        async with first.api.stream(ada, "1") as made:
            await provider.arrived(1)
            waiting = await first.api.send(ada, "2")
            async with second.api.join(ada, waiting["run_id"]) as there:
                for gate in gates:
                    gate.open()
                assert (await there.rest()).text == "second"
            await made.rest()


def _read_pieces(db: Path, run_id: str) -> list[tuple[int, str]]:
    with contextlib.closing(connect(db, read_only=True)) as connection:
        rows = connection.execute("SELECT start, text FROM run_pieces WHERE run_id = ? ORDER BY start", (run_id,))
        return [(row["start"], row["text"]) for row in rows]


def _read_partial(db: Path, run_id: str) -> str:
    with contextlib.closing(connect(db, read_only=True)) as connection:
        return run_pieces.load_text(connection, run_id)


async def test_a_delivery_taken_over_is_delivered_under_its_one_id(db: Path, provider: ScriptedProvider) -> None:
    """The first process is stopped while its receiver thinks; the second sends again; the first's result comes late
    and changes nothing.
    """
    thinking = Gate()
    async with Receiver() as receiver, start(db, provider) as first:
        receiver.script(ScriptedResponse(200, gate=thinking), ScriptedResponse(202))
        ada = await first.api.make_staff(webhook_url=receiver.url)
        await first.api.send(ada, "Hi")
        await receiver.arrived(1)
        async with start(db, provider) as second:
            await first.freeze()
            await receiver.arrived(2)

            async def is_delivered() -> Any:
                [delivery] = await second.api.get(f"/staff/{ada}/deliveries")
                return delivery if delivery["state"] == "delivered" else None

            delivery = await until(is_delivered)
            assert [attempt["status"] for attempt in delivery["attempts"]] == [202]
            thinking.open()
            first.thaw()
            await until(lambda: "was taken over" in first.log)
            assert await is_delivered() == delivery
            assert receiver.got[0].id == receiver.got[1].id == delivery["id"]
            assert receiver.got[0].body == receiver.got[1].body


async def test_two_processes_share_the_queue(db: Path, provider: ScriptedProvider) -> None:
    """Forty questions in twenty conversations, sent to both in turn: each is answered once, in the order of its
    conversation.
    """
    provider.default = Reply(["An", " answer"], delay_s=0.02)
    async with start(db, provider, STAFFSTREAM_ASYNC_CONCURRENCY="3") as first:
        ada = await first.api.make_staff()
        async with start(db, provider, STAFFSTREAM_ASYNC_CONCURRENCY="3") as second:
            apis = [first.api, second.api]
            threads = [(await first.api.post(f"/staff/{ada}/conversations", {}, 201))["id"] for _ in range(20)]
            for turn in range(2):
                for number, thread in enumerate(threads):
                    await apis[(number + turn) % 2].send(ada, f"question {turn}", conversation_id=thread)

            async def all_said(thread: str) -> list[str] | None:
                said = await second.api.said(ada, conversation_id=thread)
                return said if len(said) == 4 and said.count("An answer") == 2 else None

            for thread in threads:
                said = await until(lambda thread=thread: all_said(thread))
                assert said == ["question 0", "An answer", "question 1", "An answer"]
    assert len(provider.requests) == 40


@pytest.mark.parametrize("round_number", range(2))
async def test_stopping_at_any_moment_never_doubles_a_reply(
    db: Path, provider: ScriptedProvider, round_number: int
) -> None:
    """The first process is stopped and woken again and again within the twelve replies that both are making."""
    provider.default = Reply(["An", " answer"], delay_s=0.3)
    async with start(db, provider) as first:
        ada = await first.api.make_staff()
        async with start(db, provider) as second:
            threads = [(await first.api.post(f"/staff/{ada}/conversations", {}, 201))["id"] for _ in range(12)]
            for thread in threads:
                await first.api.send(ada, "question", conversation_id=thread)
            for _ in range(2):
                await first.freeze()
                await asyncio.sleep(1.3 + 0.1 * round_number)  # past the lease
                first.thaw()
                await asyncio.sleep(0.1)

            async def are_answered() -> bool:
                return all([len(await second.api.said(ada, conversation_id=thread)) == 2 for thread in threads])

            await until(are_answered)
            assert await first.stop() == 0
            assert await second.stop() == 0
    async with start(db, provider) as third:
        for thread in threads:
            assert await third.api.said(ada, conversation_id=thread) == ["question", "An answer"]
