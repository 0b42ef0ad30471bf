"""Joining a run by cursor: all the text after it, no gap and no repeat, live, when it is over, and after a restart."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from staffstream.domain import make_id
from tests.tools.frames import ReadStream, StreamReader
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import ONE, OPEN, TWO, Close
from tests.tools.provider_script import DEADLINE_S, STREAM_HEAD, Gate, Reply, steps
from tests.tools.server import Api, finish_hearing, serve_here

pytestmark = pytest.mark.anyio

PIECES = ("Grüße", " 👩‍👩‍👧", "", "\u2028", " a\0b", " — ", "und so weiter", ".")
SAID = "".join(PIECES)


def _check_tail(received: ReadStream, after: int, text: str = SAID) -> None:
    """What was received is the text after the cursor, under cursors that count its characters."""
    assert received.text == text[after:]
    at = after
    for frame in received.frames:
        if frame.type == "token":
            at += len(frame.data["content"])
            assert frame.id == f"{received.run_id}:{at}"


async def _join_everywhere(api: Api, staff_id: str, run_id: str, text: str = SAID) -> list[ReadStream]:
    """Join at every cursor; all receive the same end."""
    received = [await api.rejoin(staff_id, run_id, after) for after in range(len(text) + 1)]
    for after, each in enumerate(received):
        _check_tail(each, after, text)
    assert [each.end for each in received] == [received[0].end] * len(received)
    return received


# ── every cursor ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("told", range(len(PIECES)))
async def test_every_cursor_of_a_live_reply(api: Api, provider: ScriptedProvider, ada: str, told: int) -> None:
    """Wherever the reply stands, whoever joins at any cursor of it receives exactly the rest."""
    gate = provider.hold(PIECES)
    gate.release(told)
    async with api.stream(ada, "Hi") as first:
        await first.until("".join(PIECES[:told]))
        joined: list[tuple[int, asyncio.Task[ReadStream]]] = []
        for after in range(len("".join(PIECES[:told])) + 1):
            joined.append((after, asyncio.create_task(api.rejoin(ada, first.run_id, after))))
        await _wait_for_readers(api, first.run_id, len(joined) + 1)
        gate.open()
        received = await first.rest()
        for after, task in joined:
            _check_tail(await task, after)
            assert (await task).end == received.end
    _check_tail(received, 0)


async def _wait_for_readers(api: Api, run_id: str, count: int) -> None:
    log = api.app.state.services.pipeline.active_runs.by_id[run_id].log
    async with asyncio.timeout(DEADLINE_S):
        while log.subscriber_count != count:
            await asyncio.sleep(0.005)


async def test_every_cursor_of_a_finished_reply(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """A run that is over is received as if it were live, its end included."""
    provider.script(Reply(PIECES))
    first = await api.ask(ada, "Hi")
    for received in await _join_everywhere(api, ada, first.run_id):
        assert received.end == first.end


async def test_every_cursor_after_a_restart(db: Path, provider: ScriptedProvider) -> None:
    """So it is when the process that made it is gone; for a failed and a cancelled reply too."""
    gate = provider.hold(PIECES)
    provider.script(Reply(PIECES), steps(STREAM_HEAD, OPEN, ONE, TWO, Close()))
    async with serve_here(db, provider, upstream_retries=0) as api:
        ada = await api.make_staff()
        gate.release(2)
        async with api.stream(ada, "Hi") as stream_reader:
            await stream_reader.until("".join(PIECES[:2]))
            await api.cancel(ada, stream_reader.run_id)
            cancelled = await stream_reader.rest()
        whole, failed = await api.ask(ada, "Hi"), await api.ask(ada, "Hi")
    async with serve_here(db, provider) as api:
        for first in (cancelled, whole, failed):
            for received in await _join_everywhere(api, ada, first.run_id, first.text):
                assert received.end == first.end
    assert (cancelled.end["cancelled"], whole.end["type"], failed.end["type"]) == (True, "done", "error")
    assert failed.text == "One two"


async def test_a_subscriber_that_comes_back_again_and_again(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """One that is cut after every token and joins with the last id it saw reads each character once."""
    gate = provider.hold(PIECES)
    text, last = "", None
    async with api.stream(ada, "Hi") as first:
        run_id = first.run_id
    for n in range(1, len(PIECES) + 1):
        gate.release()
        await gate.passed(n)
        if PIECES[n - 1]:
            async with api.join(ada, run_id, last_event_id=last) as stream_reader:
                while len(text) < len("".join(PIECES[:n])):
                    text += await stream_reader.token()
                    last = stream_reader.received.frames[-1].id
    gate.open()
    received = await api.rejoin(ada, run_id, last_event_id=last)
    assert text + received.text == SAID
    assert received.end["type"] == "done"


async def test_joining_while_the_reply_ends(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """A join at the moment of the end receives the rest and the end, from the log or from the saved text."""
    for _ in range(8):
        gate = provider.hold(PIECES)
        gate.release(len(PIECES))
        async with api.stream(ada, "Hi") as first:
            await first.until(SAID)
            gate.open()
            joined = await asyncio.gather(*(api.rejoin(ada, first.run_id, after) for after in range(len(SAID) + 1)))
            for after, received in enumerate(joined):
                assert received.status == 200
                _check_tail(received, after)
            await first.rest()


# ── how a cursor is given ────────────────────────────────────────────────────────────────────────────────────────────


async def test_forms_of_a_cursor(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """A bare number or a frame's whole id, as Last-Event-ID or as ?after=; the header goes before."""
    provider.script(Reply(PIECES))
    run_id = (await api.ask(ada, "Hi")).run_id
    for after in (None, "", 0, "0", f"{run_id}:0"):
        _check_tail(await api.rejoin(ada, run_id, after), 0)
        _check_tail(await api.rejoin(ada, run_id, last_event_id=None if after is None else str(after)), 0)
    for after in ("7", "007", f"{run_id}:7"):
        _check_tail(await api.rejoin(ada, run_id, after), 7)
        _check_tail(await api.rejoin(ada, run_id, last_event_id=after), 7)
    _check_tail(await api.rejoin(ada, run_id, 3, last_event_id=f"{run_id}:7"), 7)


BAD_CURSORS = ["-1", "1.5", "1e3", "x", "７", "²", "0x1", " 1x", "9" * 5000, ":", "None", "1:1", f"{make_id()}:1", "+1"]


@pytest.mark.parametrize("live", [True, False])
async def test_bad_cursors_are_refused(api: Api, provider: ScriptedProvider, ada: str, live: bool) -> None:
    """A cursor that is none, one beyond the end, or another run's is a 400 before any frame."""
    gate = provider.hold(PIECES)
    gate.release(2)
    async with api.stream(ada, "Hi") as first:
        await first.until("".join(PIECES[:2]))
        if not live:
            gate.open()
            await first.rest()
        beyond = len(first.received.text) + 1
        for after in (*BAD_CURSORS, f"{make_id()}:0", str(beyond), f"{first.run_id}:{beyond}"):
            received = await api.rejoin(ada, first.run_id, after)
            assert (received.status, received.problem["code"]) == (400, "bad_cursor"), after
            if after.isascii() and after == after.strip():
                received = await api.rejoin(ada, first.run_id, last_event_id=after)
                assert (received.status, received.problem["code"]) == (400, "bad_cursor"), after
        gate.open()


async def test_unknown_runs(api: Api, ada: str) -> None:
    """No such run, no such staff member, or another staff member's run: 404, for every call on a run."""
    bob = await api.make_staff("Bob")
    run_id = (await api.ask(ada, "Hi")).run_id
    for staff_id, unknown in ((ada, make_id()), (ada, "x"), (bob, run_id), (make_id(), run_id)):
        path = f"/staff/{staff_id}/runs/{unknown}"
        for method, tail in (("GET", ""), ("GET", "/stream"), ("POST", "/cancel")):
            async with api.open(method, path + tail) as stream_reader:
                assert (await finish_hearing(stream_reader)).problem["code"] == "not_found"
                assert stream_reader.received.status == 404
        async with api.open("HEAD", path + "/stream") as stream_reader:
            assert stream_reader.received.status == 404


async def test_head_has_the_headers_alone(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """HEAD tells what GET would, with no body, live and over, and leaves no subscriber behind."""
    gate = provider.hold(PIECES)
    async with api.stream(ada, "Hi") as first:
        for _ in range(2):
            async with api.open("HEAD", f"/staff/{ada}/runs/{first.run_id}/stream") as stream_reader:
                assert (stream_reader.received.status, await stream_reader.response.aread()) == (200, b"")
                assert stream_reader.received.headers["content-type"] == "text/event-stream"
                assert stream_reader.run_id == first.run_id
            gate.open()
            await first.rest()


async def test_headers_of_a_stream(api: Api, ada: str) -> None:
    """Both modes to a stream say whose it is and that nobody should hold it back."""
    first = await api.ask(ada, "Hi")
    joined = await api.rejoin(ada, first.run_id)
    for headers in (first.headers, joined.headers):
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-cache"
        assert headers["connection"] == "keep-alive"
        assert headers["x-accel-buffering"] == "no"
    ids = ("x-run-id", "x-user-message-id", "x-conversation-id")
    assert [first.headers[name] for name in ids] == [joined.headers[name] for name in ids]
    assert (await api.messages(ada))[1]["id"] == first.headers["x-user-message-id"]


# ── several readers ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_two_tabs(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """The second tab's question is refused with the run's id; joining that, it sees the same reply and the same end."""
    gate = provider.hold(PIECES)
    async with api.stream(ada, "Hi") as first:
        refused = await api.ask(ada, "Hi")
        assert (refused.status, refused.problem["code"]) == (409, "conversation_busy")
        assert refused.problem["run_id"] == first.run_id
        async with api.join(ada, refused.problem["run_id"]) as second:
            gate.open()
            assert (await second.rest()).text == (await first.rest()).text == SAID
            assert second.received.end == first.received.end
    assert len(provider.requests) == 1


async def test_subscribers_do_not_wait_for_each_other(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """One that reads on receives each token at once, whatever one that does not read has missed."""
    gate = provider.hold(PIECES)
    async with api.stream(ada, "Hi") as idle, api.join(ada, idle.run_id) as eager:
        for piece in PIECES:
            gate.release()
            if piece:
                assert await eager.token() == piece
        gate.open()
        await eager.rest()
        _check_tail(await idle.rest(), 0)


async def test_a_disconnect_keeps_the_run_going(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """A subscriber that leaves, even the only one, stops nothing: the reply is saved whole."""
    gate = provider.hold(PIECES)
    gate.release(1)
    async with api.stream(ada, "Hi") as stream_reader:
        await stream_reader.token()
    await _wait_for_readers(api, stream_reader.run_id, 0)
    gate.open()
    run = await api.ended_run(ada, stream_reader.run_id)
    assert (run["state"], run["partial_text"]) == ("done", SAID)
    assert (await api.messages(ada))[0]["content"] == SAID
    assert not provider.requests[0].left.is_set()


async def test_joining_before_the_first_token(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """While Claude has not accepted yet, a run can be looked at, joined and refused to others."""
    start = Gate()
    provider.script(Reply(PIECES, head_gate=start))
    asking = asyncio.create_task(api.ask(ada, "Hi"))
    await provider.arrived(1)
    run_id = (await api.ask(ada, "Me too")).problem["run_id"]
    run = await api.run(ada, run_id)
    assert (run["state"], run["partial_text"], run["cursor"], run["message_id"]) == ("building", "", 0, None)
    async with api.join(ada, run_id) as stream_reader:
        start.open()
        _check_tail(await stream_reader.rest(), 0)
    assert (await asking).end == stream_reader.received.end


async def test_joining_an_asynchronous_run(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """What was asked by the other mode can be received too, from the queue on."""
    gate = provider.hold(PIECES)
    ids = [(await api.send(ada, text))["run_id"] for text in ("One", "Two")]
    async with api.join(ada, ids[0]) as first, api.join(ada, ids[1]) as queued:
        assert (await api.run(ada, ids[1]))["state"] == "queued"
        gate.open()
        _check_tail(await first.rest(), 0)
        assert (await queued.rest()).end["message_id"] == ids[1]


@pytest.mark.logs_errors
async def test_a_bug_ends_a_stream_too(
    api: Api, provider: ScriptedProvider, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an error frame that says nothing of it; the run itself goes on."""
    gate = provider.hold(PIECES)
    first = (await api.send(ada, "1"))["run_id"]
    await provider.arrived(1)
    queued = (await api.send(ada, "2"))["run_id"]

    async def fail(*_: object) -> None:
        raise RuntimeError("secret")

    async with api.join(ada, queued) as stream_reader:
        monkeypatch.setattr(api.app.state.services.database, "read", fail)
        received = await finish_hearing(stream_reader)
        monkeypatch.undo()
    assert (received.end["code"], received.end["message_id"]) == ("internal_error", None)
    assert "secret" not in str(received.frames)
    gate.open()
    for run_id in (first, queued):
        assert (await api.ended_run(ada, run_id))["state"] == "done"


# ── looking at a run ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_shows_its_text(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """Its text and cursor are of the same moment, to the last token, and the cursor can be joined at."""
    gate = provider.hold(PIECES)
    async with api.stream(ada, "Hi") as first:
        for n in (2, 4, 6):
            gate.release(2)
            await first.until("".join(PIECES[:n]))
            run = await api.run(ada, first.run_id)
            assert (run["state"], run["partial_text"]) == ("streaming", first.received.text)
            assert run["cursor"] == len(run["partial_text"])
            async with api.join(ada, first.run_id, run["cursor"]) as joined:
                assert joined.received.status == 200
        gate.open()
        received = await first.rest()
    run = await api.run(ada, first.run_id)
    assert (run["state"], run["partial_text"], run["cursor"]) == ("done", SAID, len(SAID))
    assert run["message_id"] == run["id"] == received.end["message_id"]
    moments = [run[name] for name in ("created_at", "building_at", "streaming_at", "first_token_at", "finished_at")]
    assert moments == sorted(moments)
    assert "error" not in run


# ── status events ────────────────────────────────────────────────────────────────────────────────────────────────────


async def _phases(stream_reader: StreamReader, until: str) -> Sequence[str]:
    """The phases received up to and with one of them."""
    told: list[str] = []
    elapsed_ms = 0
    while not told or told[-1] != until:
        frame = await stream_reader.next()
        assert frame is not None
        assert frame.type == "status"
        assert frame.data["elapsed_ms"] >= elapsed_ms
        elapsed_ms = frame.data["elapsed_ms"]
        told.append(frame.data["phase"])
    return told


async def test_status_events(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """Who asks for them receives building, thinking and responding as they come; who does not ask receives none."""
    head, gate = Gate(), Gate()
    provider.script(Reply(PIECES, head_gate=head, gate=gate))
    run_id = (await api.send(ada, "Hi"))["run_id"]
    await provider.arrived(1)
    async with (
        api.open("GET", f"/staff/{ada}/runs/{run_id}/stream", params={"events": "status"}) as told,
        api.join(ada, run_id) as plain,
    ):
        assert await _phases(told, "building") == ["building"]
        head.open()
        assert await _phases(told, "thinking") == ["thinking"]
        gate.open()
        assert await _phases(told, "responding") == ["responding"]
        _check_tail(await told.rest(), 0)
        _check_tail(await plain.rest(), 0)
    assert {frame.type for frame in plain.received.frames} == {"token", "done"}


async def test_status_events_on_asking(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """They are to be had on the first stream too, and every token stands between them in order."""
    received = await api.ask(ada, "Hi", status_events=True)
    assert [frame.data["phase"] for frame in received.frames if frame.type == "status"][-1] == "responding"
    assert received.end["type"] == "done"
    assert (await api.messages(ada))[0]["content"] == received.text
