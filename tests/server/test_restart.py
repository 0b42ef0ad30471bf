"""kill -9 at any moment: what was acknowledged is there, what had begun ends honestly, what waited is answered."""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from staffstream.background.recovery import QUEUE_ROUND_S
from staffstream.domain import now_text
from staffstream.models.anthropic_sdk import Sdk
from staffstream.storage import run_pieces
from tests.tools.databases import connect
from tests.tools.frames import StreamReader
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S, PIECES, Gate, Reply
from tests.tools.server import Api, ServerProcess, serve_here, start_server
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio

SAID = "".join(PIECES)
LONG = [f"word{n} " for n in range(400)]


async def _wait_written(db: Path, run_id: str, text: str) -> None:
    """Return once the run's partial text on disk is this."""
    with contextlib.closing(connect(db, read_only=True)) as connection:
        async with asyncio.timeout(DEADLINE_S):
            while run_pieces.load_text(connection, run_id) != text:
                await asyncio.sleep(0.02)


def _check_integrity(db: Path) -> None:
    """The file is whole, and no run is left in between."""
    with contextlib.closing(connect(db)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


async def _hear_until_cut(stream_reader: StreamReader) -> str:
    """What was received of a stream whose server was killed."""
    with contextlib.suppress(httpx.HTTPError):
        while await stream_reader.next():
            pass
    assert not any(frame.is_terminal for frame in stream_reader.received.frames)
    return stream_reader.received.text


# ── one crash ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_that_had_begun(db: Path, provider: ScriptedProvider) -> None:
    """It ends failed, with what was on disk; its stream replays that with one error; the conversation goes on."""
    gate = provider.hold()
    gate.release(3)
    async with start_server(db, provider) as server:
        ada = await server.api.make_staff()
        async with server.api.stream(ada, "Hi") as stream_reader:
            await stream_reader.until("Hello from the")
            await _wait_written(db, stream_reader.run_id, "Hello from the")
            await server.kill()
    async with start_server(db, provider) as server:
        api = server.api
        run = await api.run(ada, stream_reader.run_id)
        assert (run["state"], run["error"]["code"], run["error"]["retryable"]) == ("failed", "server_restart", True)
        assert run["partial_text"] == "Hello from the"
        received = await api.rejoin(ada, stream_reader.run_id, last_event_id=f"{stream_reader.run_id}:6")
        assert (received.text, received.end["code"]) == ("from the", "server_restart")
        assert received.end["message_id"] == run["message_id"] == run["id"]
        reply = (await api.messages(ada))[0]
        assert (reply["id"], reply["content"], reply["status"]) == (run["id"], "Hello from the", "interrupted")
        assert (await api.ask(ada, "Go on")).text == SAID
    assert [m["content"][-1]["text"] for m in provider.chats[-1].body["messages"]] == ["Hi", "Hello from the", "Go on"]


async def test_a_stream_that_had_said_nothing(db: Path, provider: ScriptedProvider) -> None:
    """It fails without a message; its question is kept."""
    provider.script(Reply(head_gate=Gate()))
    async with start_server(db, provider) as server:
        ada = await server.api.make_staff()
        async with server.api.stream(ada, "Hi") as stream_reader:
            await provider.arrived(1)
            await server.kill()
    async with start_server(db, provider) as server:
        run = await server.api.run(ada, stream_reader.run_id)
        assert (run["state"], run["error"]["code"], run["message_id"]) == ("failed", "server_restart", None)
        assert await server.api.said(ada) == ["Hi"]
        assert (await server.api.ask(ada, "Go on")).text == SAID


async def test_what_waited_is_answered(db: Path, provider: ScriptedProvider) -> None:
    """Queued questions of both modes are answered after the restart, in their order, with nobody asking for it."""
    provider.script(Reply(head_gate=Gate()))
    async with start_server(db, provider) as server:
        ada = await server.api.make_staff()
        async with server.api.stream(ada, "1"):
            await provider.arrived(1)
            second = (await server.api.send(ada, "2"))["run_id"]
            async with server.api.stream(ada, "3", multitask_strategy="enqueue") as third:
                await server.kill()
    async with start_server(db, provider) as server:
        for run_id in (second, third.run_id):
            assert (await server.api.ended_run(ada, run_id))["state"] == "done"
        assert await server.api.said(ada) == ["1", "2", SAID, "3", SAID]
    assert [request.said for request in provider.chats] == ["1", "2", "3"]


async def test_an_asynchronous_run_is_made_again(db: Path, provider: ScriptedProvider) -> None:
    """One that had begun but of which nobody was sent anything is made from its beginning."""
    gate = provider.hold(["this is ", "never seen"])
    gate.release(1)
    async with start_server(db, provider) as server:
        ada = await server.api.make_staff()
        run_id = (await server.api.send(ada, "Hi"))["run_id"]
        await _wait_written(db, run_id, "this is ")
        await server.kill()
    async with start_server(db, provider) as server:
        run = await server.api.ended_run(ada, run_id)
        assert (run["state"], run["partial_text"]) == ("done", SAID)
        assert await server.api.said(ada) == ["Hi", SAID]


async def test_an_asynchronous_run_of_which_somebody_received_text(db: Path, provider: ScriptedProvider) -> None:
    """One of which text was sent is not made again, since its subscriber would receive two beginnings."""
    gate = provider.hold()
    gate.release(2)
    async with start_server(db, provider) as server:
        ada = await server.api.make_staff()
        run_id = (await server.api.send(ada, "Hi"))["run_id"]
        async with server.api.join(ada, run_id) as stream_reader:
            await stream_reader.until("Hello from")
            await _wait_written(db, run_id, "Hello from")
            await server.kill()
    async with start_server(db, provider) as server:
        run = await server.api.run(ada, run_id)
        assert (run["state"], run["error"]["code"], run["partial_text"]) == ("failed", "server_restart", "Hello from")
    assert len(provider.chats) == 1


async def test_a_row_of_crashes_does_not_cost_an_asynchronous_reply(db: Path, provider: ScriptedProvider) -> None:
    """However often it was begun in vain, it is made again, but after a while: it may be what crashes the server."""
    provider.script(Reply(head_gate=Gate()))
    async with start_server(db, provider) as server:
        ada = await server.api.make_staff()
        run_id = (await server.api.send(ada, "Hi"))["run_id"]
        await provider.arrived(1)
        await server.kill()
    with contextlib.closing(connect(db)) as connection:
        connection.execute("UPDATE runs SET attempts = 12 WHERE id = ?", (run_id,))
    async with start_server(db, provider) as server:
        assert (await server.api.run(ada, run_id))["state"] == "queued"
        other = (await server.api.post(f"/staff/{ada}/conversations", {}, 201))["id"]
        assert (await server.api.ask(ada, "Meanwhile", conversation_id=other)).text == SAID
        with contextlib.closing(connect(db)) as connection:
            assert connection.execute("SELECT not_before FROM runs WHERE id = ?", (run_id,)).fetchone()[0] > now_text()
            connection.execute("UPDATE runs SET not_before = NULL WHERE id = ?", (run_id,))
        assert (await server.api.ended_run(ada, run_id))["state"] == "done"
        assert await server.api.said(ada) == ["Hi", SAID]


async def test_no_attempt_is_spent_before_claude_can_be_asked(
    db: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends while it imports the SDK has made nothing: however often that is, a run does not wait."""
    imported = threading.Event()
    make = Sdk.__init__

    def make_late(sdk: Sdk, **options: Any) -> None:
        imported.wait(DEADLINE_S)
        make(sdk, **options)

    monkeypatch.setattr(Sdk, "__init__", make_late)
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        run_id = (await api.send(ada, "Hi"))["run_id"]
        await asyncio.sleep(2 * QUEUE_ROUND_S)
        with contextlib.closing(connect(db, read_only=True)) as connection:
            assert tuple(connection.execute("SELECT state, attempts FROM runs").fetchone()) == ("queued", 0)
        imported.set()
        assert (await api.ended_run(ada, run_id))["state"] == "done"


async def test_a_run_that_always_crashes_its_server_ends(db: Path, provider: ScriptedProvider) -> None:
    """A run that was begun as often as may be is not made for ever."""
    provider.default = Reply(head_gate=Gate())
    async with start_server(db, provider) as server:
        ada = await server.api.make_staff()
        run_id = (await server.api.send(ada, "Hi"))["run_id"]
        await provider.arrived(1)
        await server.kill()
    with contextlib.closing(connect(db)) as connection:
        connection.execute("UPDATE runs SET attempts = 100 WHERE id = ?", (run_id,))
    async with start_server(db, provider) as server:
        assert (await server.api.run(ada, run_id))["state"] == "failed"
    assert len(provider.chats) == 1


# ── many crashes ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_kill_at_any_moment(db: Path, provider: ScriptedProvider) -> None:
    """Under talk through both modes, cut at random instants: every acknowledged question is there; what was accepted by
    the asynchronous mode has its one reply, a stream its reply or an honest end, and what was received of one is kept
    but for the text of half a second.
    """
    random.seed(7)
    provider.default = lambda request: Reply(LONG[: random.randrange(400)], delay_s=0.002)(request)
    streams: dict[str, tuple[str, str]] = {}  # run id → what was received of it, staff id
    queued: dict[str, str] = {}
    questions: dict[str, str] = {}  # message id → question
    staff: list[str] = []
    for round_number in range(6):
        async with start_server(db, provider) as server:
            if not staff:
                staff = [await server.api.make_staff(f"S{n}", memory_enabled=n == 0) for n in range(4)]
            talks = [
                asyncio.create_task(_talk(server.api, each, f"r{round_number}", streams, queued, questions))
                for each in staff
            ]
            wanted = len(questions) + random.randrange(10)  # by time alone few, while it still loads Claude's SDK
            await until(lambda wanted=wanted: len(questions) >= wanted)
            await asyncio.sleep(random.uniform(0.0, 1.0))
            await server.kill()
            await asyncio.gather(*talks)
    with contextlib.closing(connect(db)) as connection:
        begun_later = {row["id"] for row in connection.execute("SELECT id FROM runs WHERE state = 'queued'")}
    provider.default = Reply()
    async with start_server(db, provider) as server:
        api = server.api
        said: dict[str, dict[str, Any]] = {}
        for each in staff:
            for run_id in [run for run, owner in queued.items() if owner == each]:
                assert (await api.ended_run(each, run_id))["state"] == "done"
            said |= {message["id"]: message for message in await api.messages(each, limit=200)}
        assert questions.keys() <= said.keys()
        assert all(said[message_id]["content"] == question for message_id, question in questions.items())
        answered = [message["reply_to"] for message in said.values() if message["message_type"] == "assistant"]
        assert len(answered) == len(set(answered))
        assert queued.keys() <= said.keys(), "a reply has its run's id"
        for run_id, (received, owner) in streams.items():
            # What had begun was ended before the server was ready; what was still queued is made now.
            run = await (api.ended_run if run_id in begun_later else api.run)(owner, run_id)
            assert run["state"] in ("done", "failed")
            kept = run["partial_text"]
            assert kept.startswith(received) or received.startswith(kept)
            if run["state"] == "failed":
                assert run["error"]["code"] == "server_restart"
    _check_integrity(db)
    assert len(questions) > 12
    assert provider.refusals == []


async def _talk(
    api: Api, staff_id: str, name: str, streams: dict[str, Any], queued: dict[str, str], questions: dict[str, str]
) -> None:
    """Ask by both modes in turn until the server is gone; note what was acknowledged and received."""
    with contextlib.suppress(httpx.HTTPError):
        for n in range(50):
            question = f"{name} question {n}"
            if n % 2:
                accepted = await api.send(staff_id, question)
                queued[accepted["run_id"]] = staff_id
                questions[accepted["message_id"]] = question
                continue
            async with api.stream(staff_id, question, multitask_strategy="enqueue") as stream_reader:
                streams[stream_reader.run_id] = ("", staff_id)
                questions[stream_reader.received.headers["x-user-message-id"]] = question
                try:
                    while await stream_reader.next():
                        pass
                finally:
                    streams[stream_reader.run_id] = (stream_reader.received.text, staff_id)


# ── two processes on one file ────────────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def _two_servers(db: Path, provider: ScriptedProvider) -> AsyncIterator[tuple[ServerProcess, ServerProcess]]:
    """Two processes that share the file and take a silent one for gone after a second."""
    async with (
        start_server(db, provider, "--lease-s", "1") as first,
        start_server(db, provider, "--lease-s", "1") as second,
    ):
        yield first, second


async def test_two_servers_share_the_work(db: Path, provider: ScriptedProvider) -> None:
    """Both answer, each run is made once, and each can be looked at, joined and stopped through the other."""
    async with _two_servers(db, provider) as (first, second):
        ada = await first.api.make_staff()
        provider.default = lambda request: Reply([f"re {request.said}"])(request)
        accepted = [await api.send(ada, f"q{n}") for n in range(10) for api in (first.api, second.api)]
        for each in accepted:
            assert (await second.api.ended_run(ada, each["run_id"]))["state"] == "done"
        talk = await first.api.said(ada, limit=200)
        assert talk[1::2] == [f"re {question}" for question in talk[::2]]
        assert sorted(request.said for request in provider.chats) == sorted(talk[::2])
        gate = provider.hold()
        gate.release(2)
        async with first.api.stream(ada, "Hi") as stream_reader, second.api.join(ada, stream_reader.run_id) as joined:
            await stream_reader.until("Hello from")
            await joined.until("Hello from")
            assert (await second.api.ask(ada, "Ho")).status == 409
            run = await second.api.cancel(ada, stream_reader.run_id)
            assert run["state"] == "cancelled"
            assert (await joined.rest()).end == (await stream_reader.rest()).end
        await provider.left(provider.chats[-1].number)  # others are for learning


async def test_a_second_server_leaves_the_first_ones_runs_alone(db: Path, provider: ScriptedProvider) -> None:
    """Starting beside a server that is making replies ends none of them."""
    gate = provider.hold()
    gate.release(1)
    async with start_server(db, provider) as first:
        ada = await first.api.make_staff()
        async with first.api.stream(ada, "Hi") as stream_reader:
            await stream_reader.token()
            async with start_server(db, provider) as second:
                assert (await second.api.run(ada, stream_reader.run_id))["state"] == "streaming"
                gate.open()
                assert (await stream_reader.rest()).end["type"] == "done"
                assert (await second.api.run(ada, stream_reader.run_id))["state"] == "done"


async def test_a_killed_server_is_tidied_up_after_by_the_other(db: Path, provider: ScriptedProvider) -> None:
    """Once its lease has run out: its stream fails with its text, and its queue is answered."""
    gate = provider.hold()
    gate.release(2)
    async with _two_servers(db, provider) as (first, second):
        ada = await first.api.make_staff()
        async with first.api.stream(ada, "1") as stream_reader:
            await stream_reader.until("Hello from")
            await _wait_written(db, stream_reader.run_id, "Hello from")
            queued = (await first.api.send(ada, "2"))["run_id"]
            await first.kill()
            run = await second.api.ended_run(ada, stream_reader.run_id)
            assert (run["state"], run["error"]["code"]) == ("failed", "server_restart")
            assert run["partial_text"] == "Hello from"
            assert (await second.api.ended_run(ada, queued))["state"] == "done"
    assert [request.said for request in provider.chats] == ["1", "2"]


async def test_a_busy_server_does_not_take_over_its_own_runs(db: Path, provider: ScriptedProvider) -> None:
    """Its leases run out while the database's writer is busy; nobody else is there, and it knows what it is making."""
    gate = provider.hold()
    gate.release(1)
    async with serve_here(db, provider, lease_s=0.5) as api:
        database = api.app.state.services.database
        ada = await api.make_staff()
        async with api.stream(ada, "Hi") as stream_reader:
            await stream_reader.token()
            for _ in range(4):  # between the renewal of a lease and the look for ones that ran out lies one of these
                await database.write(lambda tx: time.sleep(0.6))
            gate.open()
            received = await stream_reader.rest()
    assert (received.text, received.end["type"]) == (SAID, "done")


@pytest.mark.parametrize("mode", ["stream", "async"])
async def test_a_server_that_slept_past_its_lease(db: Path, provider: ScriptedProvider, mode: str) -> None:
    """The other one takes over what it was making; when it wakes it adds nothing: one reply, one end."""
    gates = [provider.hold([f"from the {name}"]) for name in ("first", "second")[: 1 if mode == "stream" else 2]]
    async with _two_servers(db, provider) as (first, second):
        ada = await first.api.make_staff()
        async with contextlib.AsyncExitStack() as stack:
            if mode == "stream":
                stream_reader = await stack.enter_async_context(first.api.stream(ada, "Hi"))
                run_id = stream_reader.run_id
            else:
                # The sleeper is to be the one that makes it: the other is asleep until it has begun.
                await second.freeze()
                run_id = (await first.api.send(ada, "Hi"))["run_id"]
            await provider.arrived(1)
            await first.freeze()
            second.thaw()
            if mode == "stream":
                run = await second.api.ended_run(ada, run_id)
                assert (run["state"], run["error"]["code"]) == ("failed", "server_restart")
            else:
                await provider.arrived(2)
            for gate in gates:
                gate.open()
            first.thaw()
            run = await second.api.ended_run(ada, run_id)
            if mode == "stream":
                assert (await stream_reader.rest()).end["code"] == "server_restart"
                assert await second.api.said(ada) == ["Hi"]
            else:
                assert (run["state"], run["partial_text"]) == ("done", "from the second")
                assert await second.api.said(ada) == ["Hi", "from the second"]
        assert await first.api.run(ada, run_id) == run
        assert (await first.api.ask(ada, "And now?")).text == SAID
        assert len(provider.chats) == (3 if mode == "async" else 2)
