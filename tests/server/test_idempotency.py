"""Idempotency-Key: the same question twice is one run, whoever asks, by whichever mode, before and after a restart."""

import asyncio
from pathlib import Path

import pytest

from staffstream.storage import run_pieces
from tests.tools.databases import connect
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import CASES, ONE, OPEN
from tests.tools.provider_script import DEADLINE_S, PIECES, STREAM_HEAD, Gate, Hold, Reply, http_error, steps
from tests.tools.server import Api, serve_here, start_server

pytestmark = pytest.mark.anyio

SAID = "".join(PIECES)


async def _count_questions(api: Api, staff_id: str) -> int:
    return sum(message["message_type"] == "user" for message in await api.messages(staff_id))


async def test_the_same_key_twice_at_once(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """Both receive the one reply to its one end; Claude is asked once and the question is saved once."""
    gate = provider.hold()
    gate.release(2)
    asking = [asyncio.create_task(api.ask(ada, "Hi", key="k")) for _ in range(5)]
    await provider.arrived(1)
    gate.open()
    received = [await task for task in asking]
    assert {each.run_id for each in received} == {received[0].run_id}
    assert [(each.text, each.end) for each in received] == [(SAID, received[0].end)] * 5
    assert len(provider.requests) == 1
    assert await _count_questions(api, ada) == 1


async def test_the_same_key_while_the_reply_is_made(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """A repeated question joins the run from its beginning, though the conversation is busy."""
    gate = provider.hold()
    gate.release(2)
    async with api.stream(ada, "Hi", key="k") as first:
        await first.until("Hello from")
        async with api.stream(ada, "Hi", key="k") as second:
            await second.until("Hello from")
            gate.open()
            assert (await second.rest()).end == (await first.rest()).end
    assert first.run_id == second.run_id
    assert len(provider.requests) == 1


async def test_the_same_key_after_the_end(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """The end is replayed: of a reply, of a cancelled one, and of one that failed."""
    gate = provider.hold()
    gate.release(1)
    provider.script(Reply(), steps(STREAM_HEAD, OPEN, ONE), CASES["http_400"].script)
    async with api.stream(ada, "Hi", key="cancelled") as stream_reader:
        await stream_reader.token()
        await api.cancel(ada, stream_reader.run_id)
        cancelled = await stream_reader.rest()
    done, failed = await api.ask(ada, "Hi", key="done"), await api.ask(ada, "Hi", key="failed")
    refused = await api.ask(ada, "Hi", key="refused")
    for key, first in (("cancelled", cancelled), ("done", done), ("failed", failed)):
        again = await api.ask(ada, "Hi", key=key)
        assert (again.run_id, again.text, again.end) == (first.run_id, first.text, first.end)
    again = await api.ask(ada, "Hi", key="refused")
    assert again.run_id == refused.problem["run_id"]
    assert again.end["code"] == refused.problem["code"] == "upstream_refused"
    assert len(provider.requests) == 4


async def test_the_doors_share_a_key(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """What was asked by one mode is received, or accepted, by the other as the same run."""
    gate = provider.hold()
    accepted = await api.send(ada, "Hi", key="k")
    async with api.stream(ada, "Hi", key="k") as stream_reader:
        gate.open()
        assert (await stream_reader.rest()).text == SAID
    assert stream_reader.run_id == accepted["run_id"]
    assert stream_reader.received.headers["x-user-message-id"] == accepted["message_id"]
    streamed = await api.ask(ada, "Ho", key="l")
    assert (await api.send(ada, "Ho", key="l"))["run_id"] == streamed.run_id
    assert await api.send(ada, "Hi", key="k") == accepted
    assert len(provider.requests) == 2


async def test_the_same_key_in_the_queue(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """A question that still waits is not asked a second time either."""
    gate = provider.hold()
    first = await api.send(ada, "1")
    await provider.arrived(1)
    waiting = [await api.send(ada, "2", key="k") for _ in range(3)]
    assert waiting == [waiting[0]] * 3
    async with api.stream(ada, "2", key="k") as stream_reader:
        gate.open()
        assert (await stream_reader.rest()).text == SAID
    assert stream_reader.run_id == waiting[0]["run_id"] != first["run_id"]
    assert [request.said for request in provider.requests] == ["1", "2"]


async def test_a_subscriber_stays_with_a_run_that_is_made_again(db: Path, provider: ScriptedProvider) -> None:
    """An asynchronous run that is put back has not failed: who asked again by the stream receives its reply."""
    gate = Gate()
    provider.script(lambda request: [Hold(gate), *http_error(529, "overloaded_error")(request)])
    async with serve_here(db, provider, upstream_retries=0) as api:
        ada = await api.make_staff()
        accepted = await api.send(ada, "Hi", key="k")
        await provider.arrived(1)
        asking = asyncio.create_task(api.ask(ada, "Hi", key="k"))
        async with asyncio.timeout(DEADLINE_S):
            while not api.app.state.services.limits._streams:
                await asyncio.sleep(0.001)
        gate.open()
        received = await asking
    assert (received.text, received.run_id) == (SAID, accepted["run_id"])


async def test_another_body_is_refused(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """A key belongs to one question: another text, conversation or webhook is a 422, and nothing is asked."""
    conversation_id = (await api.post(f"/staff/{ada}/conversations", {}, 201))["id"]
    await api.ask(ada, "Hi", key="k")
    for other in (
        await api.ask(ada, "Hi ", key="k"),
        await api.ask(ada, "Hi", key="k", conversation_id=conversation_id),
    ):
        assert (other.status, other.problem["code"]) == (422, "idempotency_mismatch")
    url = "https://example.org/hook"
    assert (await api.send(ada, "Hi", 422, key="k", webhook_url=url))["code"] == "idempotency_mismatch"
    assert len(provider.requests) == 1
    assert await _count_questions(api, ada) == 1


async def test_a_key_is_one_staff_members(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """The same key to another staff member is another question."""
    bob = await api.make_staff("Bob")
    received = [await api.ask(staff_id, "Hi", key="k") for staff_id in (ada, bob)]
    assert received[0].run_id != received[1].run_id
    assert len(provider.requests) == 2


async def test_a_refused_question_uses_no_key_up(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """A key whose question was not accepted, being busy or too long, is free for the next attempt."""
    gate = provider.hold()
    async with api.stream(ada, "Hi") as stream_reader:
        assert (await api.ask(ada, "Ho", key="k")).status == 409
        gate.open()
        await stream_reader.rest()
    assert (await api.ask(ada, "long " * 30_000, key="l")).status == 413
    assert (await api.ask(ada, "Ho", key="k")).text == SAID
    assert (await api.ask(ada, "short", key="l")).text == SAID


async def test_the_length_of_a_key(api: Api, ada: str) -> None:
    """1 to 255 characters."""
    assert (await api.ask(ada, "Hi", key="k" * 255)).end["type"] == "done"
    for key in ("", "k" * 256):
        received = await api.ask(ada, "Hi", key=key)
        assert (received.status, received.problem["code"]) == (400, "bad_request")


async def test_a_key_lasts_a_day(db: Path, api: Api, provider: ScriptedProvider, ada: str) -> None:
    """After 24 hours the same key is a new question, also with another body."""
    first = await api.ask(ada, "Hi", key="k")
    _age_keys(db, hours=23)
    assert (await api.ask(ada, "Hi", key="k")).run_id == first.run_id
    _age_keys(db, hours=2)
    second = await api.ask(ada, "Ho", key="k")
    assert second.run_id != first.run_id
    assert (await api.ask(ada, "Ho", key="k")).run_id == second.run_id
    assert len(provider.requests) == 2


def _age_keys(db: Path, *, hours: int) -> None:
    """Make every key that much older than it is."""
    connection = connect(db)
    connection.execute(
        "UPDATE idempotency_keys SET created_at = strftime('%Y-%m-%dT%H:%M:%fZ', created_at, ?)", (f"-{hours} hours",)
    )
    connection.close()


# ── restarts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_key_outlives_its_server(db: Path, provider: ScriptedProvider) -> None:
    """After a clean restart the same key replays the end."""
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        first = await api.ask(ada, "Hi", key="k")
    async with serve_here(db, provider) as api:
        again = await api.ask(ada, "Hi", key="k")
        assert (again.run_id, again.text, again.end) == (first.run_id, first.text, first.end)
        assert (await api.ask(ada, "Ho", key="k")).status == 422
    assert len(provider.requests) == 1


async def test_a_key_outlives_a_crash(db: Path, provider: ScriptedProvider) -> None:
    """A reply that the crash cut off is replayed as the failure it is, with its text; a new key asks anew."""
    gate = provider.hold()
    gate.release(2)
    async with start_server(db, provider) as server:
        ada = await server.api.make_staff()
        async with server.api.stream(ada, "Hi", key="k") as stream_reader:
            await stream_reader.until("Hello from")
            await _wait_written(db, stream_reader.run_id, "Hello from")
            await server.kill()
    async with start_server(db, provider) as server:
        again = await server.api.ask(ada, "Hi", key="k")
        assert (again.run_id, again.text, again.end["code"]) == (stream_reader.run_id, "Hello from", "server_restart")
        assert len(provider.requests) == 1
        assert (await server.api.ask(ada, "Hi", key="l")).text == SAID


async def test_a_key_of_the_asynchronous_door_outlives_a_crash(db: Path, provider: ScriptedProvider) -> None:
    """Who repeats the question after the restart is told of the same run, which is made again; by the other mode the
    same key receives it, and another body is still refused.
    """
    provider.script(Reply(head_gate=Gate()))
    async with start_server(db, provider) as server:
        ada = await server.api.make_staff()
        accepted = await server.api.send(ada, "Hi", key="k")
        waiting = await server.api.send(ada, "Ho", key="l")
        await provider.arrived(1)
        await server.kill()
    async with start_server(db, provider) as server:
        api = server.api
        assert await api.send(ada, "Hi", key="k") == accepted
        assert await api.send(ada, "Ho", key="l") == waiting
        for key, content, first in (("k", "Hi", accepted), ("l", "Ho", waiting)):
            received = await api.ask(ada, content, key=key)
            assert (received.run_id, received.text, received.end["message_id"]) == (
                first["run_id"],
                SAID,
                first["run_id"],
            )
        assert (await api.send(ada, "Hu", 422, key="k"))["code"] == "idempotency_mismatch"
        assert await api.said(ada) == ["Hi", SAID, "Ho", SAID]
    assert [request.said for request in provider.chats] == ["Hi", "Hi", "Ho"]


async def _wait_written(db: Path, run_id: str, text: str) -> None:
    """Return once the run's partial text on disk is this."""
    connection = connect(db, read_only=True)
    async with asyncio.timeout(20):
        while run_pieces.load_text(connection, run_id) != text:
            await asyncio.sleep(0.02)
    connection.close()


async def test_a_key_is_known_to_another_process(db: Path, provider: ScriptedProvider) -> None:
    """Two servers on one file: the second one joins the run that the first one makes, and does not make it again."""
    start = Gate()
    provider.script(Reply(start_gate=start))
    async with serve_here(db, provider) as first, serve_here(db, provider) as second:
        ada = await first.make_staff()
        asking = asyncio.create_task(first.ask(ada, "Hi", key="k"))
        await provider.arrived(1)
        async with second.stream(ada, "Hi", key="k") as stream_reader:
            start.open()
            received = await stream_reader.rest()
        assert received.text == SAID
        assert received.end == (await asking).end
        assert received.run_id == (await asking).run_id
    assert len(provider.requests) == 1
