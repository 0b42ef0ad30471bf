"""Stopping a run: at any moment, more than once, without waiting for Claude, and with one end that all agree on."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.tools.frames import ReadStream
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import ONE, OPEN
from tests.tools.provider_script import PIECES, STREAM_HEAD, Gate, Reply, Stall, steps
from tests.tools.server import Api, serve_here

pytestmark = pytest.mark.anyio

SAID = "".join(PIECES)


def _check_cancelled(run: dict[str, Any], received: ReadStream, text: str) -> None:
    """The run and its stream tell the same: cancelled, with this text kept."""
    message_id = run["id"] if text else None
    assert (run["state"], run["partial_text"], run["message_id"]) == ("cancelled", text, message_id)
    assert "error" not in run
    assert received.text == text
    assert (received.end["type"], received.end["cancelled"], received.end["message_id"]) == ("done", True, message_id)


async def test_cancel_before_claude_answers(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """With nothing said there is no message; Claude, who has not even sent a status line, is hung up on."""
    provider.script(Reply(head_gate=Gate()))
    async with api.stream(ada, "Hi") as stream_reader:
        await provider.arrived(1)
        run = await api.cancel(ada, stream_reader.run_id)
        _check_cancelled(run, await stream_reader.rest(), "")
    await provider.left(1)
    assert [message["message_type"] for message in await api.messages(ada)] == ["user"]


async def test_cancel_before_the_response_starts(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """A stream that is cancelled while its client still waits for the status is a 200 that ends at once."""
    provider.script(Reply(head_gate=Gate()))
    asking = asyncio.create_task(api.ask(ada, "Hi"))
    await provider.arrived(1)
    run_id = (await api.ask(ada, "Hi")).problem["run_id"]
    run = await api.cancel(ada, run_id)
    _check_cancelled(run, await asking, "")


@pytest.mark.parametrize("script", [steps(STREAM_HEAD, Stall()), steps(STREAM_HEAD, OPEN, Stall(ping_every_s=0.01))])
async def test_cancel_while_claude_is_silent(api: Api, provider: ScriptedProvider, ada: str, script: Any) -> None:
    """A provider that says nothing, or nothing but pings, holds no cancel up."""
    provider.script(script)
    async with api.stream(ada, "Hi") as stream_reader:
        await provider.arrived(1)
        run = await api.cancel(ada, stream_reader.run_id)
        _check_cancelled(run, await stream_reader.rest(), "")
    await provider.left(1)


async def test_cancel_keeps_the_text(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """The text so far is a message of status cancelled, and part of what Claude is told next."""
    gate = provider.hold()
    gate.release(2)
    async with api.stream(ada, "Hi") as stream_reader:
        await stream_reader.until("Hello from")
        run = await api.cancel(ada, stream_reader.run_id)
        _check_cancelled(run, await stream_reader.rest(), "Hello from")
    await provider.left(1)
    reply = (await api.messages(ada))[0]
    assert (reply["id"], reply["content"], reply["status"]) == (run["id"], "Hello from", "cancelled")
    assert (await api.ask(ada, "Go on")).end["type"] == "done"
    assert [m["content"][-1]["text"] for m in provider.requests[-1].body["messages"]] == ["Hi", "Hello from", "Go on"]


async def test_cancel_is_idempotent(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """Again, many times at once, or after the end: always the one final state, and nothing changes any more."""
    gate = provider.hold()
    gate.release(1)
    async with api.stream(ada, "Hi") as stream_reader:
        await stream_reader.token()
        answers = await asyncio.gather(*(api.cancel(ada, stream_reader.run_id) for _ in range(10)))
        await stream_reader.rest()
    messages = await api.messages(ada)
    answers.append(await api.cancel(ada, stream_reader.run_id))
    assert answers == [answers[0]] * 11
    assert answers[0]["state"] == "cancelled"
    assert await api.messages(ada) == messages


async def test_cancel_after_the_end_changes_nothing(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """A reply that is done stays done, one that failed stays failed."""
    provider.script(Reply(), steps(STREAM_HEAD, OPEN, ONE))
    done, failed = await api.ask(ada, "Hi"), await api.ask(ada, "Hi")
    messages = await api.messages(ada)
    assert (await api.cancel(ada, done.run_id))["state"] == "done"
    assert (await api.cancel(ada, failed.run_id))["state"] == "failed"
    assert await api.messages(ada) == messages


async def test_cancel_ends_every_stream_of_the_run(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """All who follow it receive the same end."""
    gate = provider.hold()
    gate.release(1)
    async with api.stream(ada, "Hi") as first, api.join(ada, first.run_id) as second:
        await first.token()
        await second.token()
        run = await api.cancel(ada, first.run_id)
        _check_cancelled(run, await first.rest(), "Hello")
        _check_cancelled(run, await second.rest(), "Hello")
    _check_cancelled(run, await api.rejoin(ada, first.run_id), "Hello")


async def test_cancel_in_the_queue(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """A run that waits ends unmade, whichever mode it came by; those before and after it are answered."""
    gate = provider.hold()
    first = (await api.send(ada, "1"))["run_id"]
    await provider.arrived(1)
    second = (await api.send(ada, "2"))["run_id"]
    async with api.stream(ada, "3", multitask_strategy="enqueue") as third:
        fourth = (await api.send(ada, "4"))["run_id"]
        assert (await api.cancel(ada, second))["state"] == "cancelled"
        _check_cancelled(await api.cancel(ada, third.run_id), await third.rest(), "")
    gate.open()
    assert [(await api.ended_run(ada, run))["state"] for run in (first, second, fourth)] == [
        "done",
        "cancelled",
        "done",
    ]
    assert [request.said for request in provider.requests] == ["1", "4"]


async def test_cancel_of_an_asynchronous_run(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """It is not made again, even if nothing had been said."""
    provider.script(Reply(head_gate=Gate()))
    run_id = (await api.send(ada, "Hi"))["run_id"]
    await provider.arrived(1)
    assert (await api.cancel(ada, run_id))["state"] == "cancelled"
    assert (await api.ask(ada, "And now?")).text == SAID
    assert [request.said for request in provider.requests] == ["Hi", "And now?"]


async def test_stop_and_done_race(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """Whoever comes first, run, stream, message and answer agree, and there is one end."""
    ends = set()
    for n in range(40):
        gate = provider.hold()
        gate.release(len(PIECES))
        async with api.stream(ada, "Hi") as stream_reader:
            await stream_reader.until(SAID)
            gate.open()
            for _ in range(n % 8):  # the cancel sets out a little later each time
                await asyncio.sleep(0)
            run = await api.cancel(ada, stream_reader.run_id)
            received = await stream_reader.rest()
        ends.add(run["state"])
        reply = (await api.messages(ada, limit=1))[0]
        assert await api.run(ada, run["id"]) == run
        assert received.text == reply["content"] == run["partial_text"] == SAID
        if run["state"] == "done":
            assert (reply["status"], received.end.get("cancelled")) == ("complete", None)
        else:
            _check_cancelled(run, received, SAID)
            assert reply["status"] == "cancelled"
        assert received.end["message_id"] == reply["id"]
    assert ends <= {"done", "cancelled"}


async def test_cancel_and_begin_race(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """A run that is cancelled in the moment in which its turn comes is cancelled: it says nothing more, and the
    conversation goes on.
    """
    for n in range(20):
        gate = provider.hold()
        gate.release(len(PIECES))
        async with api.stream(ada, "1") as first:
            await first.until(SAID)
            async with api.stream(ada, "2", multitask_strategy="enqueue") as second:
                gate.open()
                for _ in range(n % 10):
                    await asyncio.sleep(0)
                run = await api.cancel(ada, second.run_id)
                received = await second.rest()
            assert (await first.rest()).end.get("cancelled") is None
        assert await api.run(ada, run["id"]) == run
        if run["state"] == "cancelled":
            _check_cancelled(run, received, run["partial_text"])
        else:
            assert received.text == SAID
    assert (await api.ask(ada, "3")).text == SAID
    assert provider.refusals == []


async def test_a_run_whose_claim_is_seen_before_it_begins_keeps_what_it_says(
    api: Api, provider: ScriptedProvider, ada: str
) -> None:
    """Its row says that it is being made a moment before this process knows; it is not ended from its row then."""
    gate = provider.hold()
    gate.release(1)
    services, go_on = api.app.state.services, threading.Event()
    active_runs = services.pipeline.active_runs.by_id
    async with api.stream(ada, "1") as stream:
        await stream.token()
        active = active_runs.pop(stream.run_id)  # as if what follows the claim's commit were yet to be done
        blocking = asyncio.create_task(services.database.write(lambda tx: go_on.wait(10)))
        stopping = asyncio.create_task(services.pipeline.stopper.stop(active.run))
        await asyncio.sleep(0)
        active_runs[stream.run_id] = active
        go_on.set()
        await asyncio.gather(blocking, stopping)
        received = await stream.rest()
    run = await api.run(ada, stream.run_id)
    assert run["partial_text"] == received.text != ""
    assert run["state"] == "cancelled"


# ── erasing under a run ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("what", ["conversation", "staff member"])
async def test_erasing_ends_the_runs(api: Api, provider: ScriptedProvider, ada: str, what: str) -> None:
    """Deleting what a run belongs to ends every stream of it once, the queued one's too, and leaves nothing."""
    gate = provider.hold()
    gate.release(1)
    async with api.stream(ada, "1") as first:
        await first.token()
        conversation_id = first.received.headers["x-conversation-id"]
        async with api.stream(ada, "2", multitask_strategy="enqueue") as second:
            path = f"/staff/{ada}/conversations/{conversation_id}" if what == "conversation" else f"/staff/{ada}"
            assert (await api.http.delete(path)).status_code == 204
            assert (await first.rest()).end["type"] in ("done", "error")
            assert (await second.rest()).end["type"] in ("done", "error")
    await provider.left(1)
    await api.get(f"/staff/{ada}/runs/{first.run_id}", 404)
    await api.get(f"/staff/{ada}/runs/{second.run_id}", 404)
    if what == "conversation":
        assert await api.messages(ada) == []
        assert (await api.ask(ada, "3")).text == SAID


async def test_erasing_while_replies_end(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """Whatever meets in one moment, every stream has its one end and the next question is answered."""
    for n in range(20):
        conversation_id = (await api.post(f"/staff/{ada}/conversations", {}, 201))["id"]
        gate = provider.hold()
        gate.release(len(PIECES))
        async with api.stream(ada, "1", conversation_id=conversation_id) as stream_reader:
            await stream_reader.until(SAID)
            gate.open()
            for _ in range(n % 10):
                await asyncio.sleep(0)
            path = f"/staff/{ada}/conversations/{conversation_id}"
            assert (await api.http.delete(path)).status_code == 204
            assert (await stream_reader.rest()).end["type"] in ("done", "error")
        await api.get(f"/staff/{ada}/runs/{stream_reader.run_id}", 404)


async def test_cancel_when_nobody_reads(db: Path, provider: ScriptedProvider) -> None:
    """A run whose subscriber has left is stopped all the same, and its text is there after a restart."""
    gate = provider.hold()
    gate.release(1)
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        async with api.stream(ada, "Hi") as stream_reader:
            await stream_reader.token()
        assert (await api.cancel(ada, stream_reader.run_id))["partial_text"] == "Hello"
        await provider.left(1)
    async with serve_here(db, provider) as api:
        _check_cancelled(await api.run(ada, stream_reader.run_id), await api.rejoin(ada, stream_reader.run_id), "Hello")
