"""Joining a run by cursor: all the text after it, no gap and no repeat, live, when it is over, and after a restart."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from staffstream.domain import make_id
from tests.far_end import DEADLINE_S, STREAM_HEAD, FarEnd, Gate, Reply, steps
from tests.far_end_cases import ONE, OPEN, TWO, Close
from tests.frames import Heard, Hearing
from tests.server import Api, finish_hearing, serve_here

pytestmark = pytest.mark.anyio

PIECES = ("Grüße", " 👩‍👩‍👧", "", "\u2028", " a\0b", " — ", "und so weiter", ".")
SAID = "".join(PIECES)


def _check_tail(heard: Heard, after: int, text: str = SAID) -> None:
    """What was heard is the text after the cursor, under cursors that count its characters."""
    assert heard.text == text[after:]
    at = after
    for frame in heard.frames:
        if frame.type == "token":
            at += len(frame.data["content"])
            assert frame.id == f"{heard.run_id}:{at}"


async def _join_everywhere(api: Api, staff_id: str, run_id: str, text: str = SAID) -> list[Heard]:
    """Join at every cursor; all hear the same end."""
    heard = [await api.rejoin(staff_id, run_id, after) for after in range(len(text) + 1)]
    for after, each in enumerate(heard):
        _check_tail(each, after, text)
    assert [each.end for each in heard] == [heard[0].end] * len(heard)
    return heard


# ── every cursor ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("told", range(len(PIECES)))
async def test_every_cursor_of_a_live_reply(api: Api, far: FarEnd, ada: str, told: int) -> None:
    """Wherever the reply stands, whoever joins at any cursor of it hears exactly the rest."""
    gate = far.hold(PIECES)
    gate.release(told)
    async with api.stream(ada, "Hi") as first:
        await first.until("".join(PIECES[:told]))
        joined: list[tuple[int, asyncio.Task[Heard]]] = []
        for after in range(len("".join(PIECES[:told])) + 1):
            joined.append((after, asyncio.create_task(api.rejoin(ada, first.run_id, after))))
        await _wait_for_readers(api, first.run_id, len(joined) + 1)
        gate.open()
        heard = await first.rest()
        for after, task in joined:
            _check_tail(await task, after)
            assert (await task).end == heard.end
    _check_tail(heard, 0)


async def _wait_for_readers(api: Api, run_id: str, count: int) -> None:
    log = api.app.state.service.pipeline.active[run_id].log
    async with asyncio.timeout(DEADLINE_S):
        while log.reader_count != count:
            await asyncio.sleep(0.005)


async def test_every_cursor_of_a_finished_reply(api: Api, far: FarEnd, ada: str) -> None:
    """A run that is over is heard as if it were live, its end included."""
    far.script(Reply(PIECES))
    first = await api.ask(ada, "Hi")
    for heard in await _join_everywhere(api, ada, first.run_id):
        assert heard.end == first.end


async def test_every_cursor_after_a_restart(db: Path, far: FarEnd) -> None:
    """So it is when the process that made it is gone; for a failed and a cancelled reply too."""
    gate = far.hold(PIECES)
    far.script(Reply(PIECES), steps(STREAM_HEAD, OPEN, ONE, TWO, Close()))
    async with serve_here(db, far, upstream_retries=0) as api:
        ada = await api.make_staff()
        gate.release(2)
        async with api.stream(ada, "Hi") as hearing:
            await hearing.until("".join(PIECES[:2]))
            await api.cancel(ada, hearing.run_id)
            cancelled = await hearing.rest()
        whole, failed = await api.ask(ada, "Hi"), await api.ask(ada, "Hi")
    async with serve_here(db, far) as api:
        for first in (cancelled, whole, failed):
            for heard in await _join_everywhere(api, ada, first.run_id, first.text):
                assert heard.end == first.end
    assert (cancelled.end["cancelled"], whole.end["type"], failed.end["type"]) == (True, "done", "error")
    assert failed.text == "One two"


async def test_a_reader_that_comes_back_again_and_again(api: Api, far: FarEnd, ada: str) -> None:
    """One that is cut after every token and joins with the last id it saw reads each character once."""
    gate = far.hold(PIECES)
    text, last = "", None
    async with api.stream(ada, "Hi") as first:
        run_id = first.run_id
    for n in range(1, len(PIECES) + 1):
        gate.release()
        await gate.passed(n)
        if PIECES[n - 1]:
            async with api.join(ada, run_id, last_event_id=last) as hearing:
                while len(text) < len("".join(PIECES[:n])):
                    text += await hearing.token()
                    last = hearing.heard.frames[-1].id
    gate.open()
    heard = await api.rejoin(ada, run_id, last_event_id=last)
    assert text + heard.text == SAID
    assert heard.end["type"] == "done"


async def test_joining_while_the_reply_ends(api: Api, far: FarEnd, ada: str) -> None:
    """A join that falls into the moment of the end hears the rest and the end, from the log or from the saved text."""
    for _ in range(8):
        gate = far.hold(PIECES)
        gate.release(len(PIECES))
        async with api.stream(ada, "Hi") as first:
            await first.until(SAID)
            gate.open()
            joined = await asyncio.gather(*(api.rejoin(ada, first.run_id, after) for after in range(len(SAID) + 1)))
            for after, heard in enumerate(joined):
                assert heard.status == 200
                _check_tail(heard, after)
            await first.rest()


# ── how a cursor is given ────────────────────────────────────────────────────────────────────────────────────────────


async def test_forms_of_a_cursor(api: Api, far: FarEnd, ada: str) -> None:
    """A bare number or a frame's whole id, as Last-Event-ID or as ?after=; the header goes before."""
    far.script(Reply(PIECES))
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
async def test_bad_cursors_are_refused(api: Api, far: FarEnd, ada: str, live: bool) -> None:
    """A cursor that is none, one beyond the end, or another run's is a 400 before any frame."""
    gate = far.hold(PIECES)
    gate.release(2)
    async with api.stream(ada, "Hi") as first:
        await first.until("".join(PIECES[:2]))
        if not live:
            gate.open()
            await first.rest()
        beyond = len(first.heard.text) + 1
        for after in (*BAD_CURSORS, f"{make_id()}:0", str(beyond), f"{first.run_id}:{beyond}"):
            heard = await api.rejoin(ada, first.run_id, after)
            assert (heard.status, heard.problem["code"]) == (400, "bad_cursor"), after
            if after.isascii() and after == after.strip():
                heard = await api.rejoin(ada, first.run_id, last_event_id=after)
                assert (heard.status, heard.problem["code"]) == (400, "bad_cursor"), after
        gate.open()


async def test_unknown_runs(api: Api, ada: str) -> None:
    """No such run, no such staff member, or another staff member's run: 404, for every call on a run."""
    bob = await api.make_staff("Bob")
    run_id = (await api.ask(ada, "Hi")).run_id
    for staff_id, unknown in ((ada, make_id()), (ada, "x"), (bob, run_id), (make_id(), run_id)):
        path = f"/staff/{staff_id}/runs/{unknown}"
        for method, tail in (("GET", ""), ("GET", "/stream"), ("POST", "/cancel")):
            async with api.open(method, path + tail) as hearing:
                assert (await finish_hearing(hearing)).problem["code"] == "not_found"
                assert hearing.heard.status == 404
        async with api.open("HEAD", path + "/stream") as hearing:
            assert hearing.heard.status == 404


async def test_head_has_the_headers_alone(api: Api, far: FarEnd, ada: str) -> None:
    """HEAD tells what GET would, with no body, live and over, and leaves no reader behind."""
    gate = far.hold(PIECES)
    async with api.stream(ada, "Hi") as first:
        for _ in range(2):
            async with api.open("HEAD", f"/staff/{ada}/runs/{first.run_id}/stream") as hearing:
                assert (hearing.heard.status, await hearing.response.aread()) == (200, b"")
                assert hearing.heard.headers["content-type"] == "text/event-stream"
                assert hearing.run_id == first.run_id
            gate.open()
            await first.rest()


async def test_headers_of_a_stream(api: Api, ada: str) -> None:
    """Both doors to a stream say whose it is and that nobody should hold it back."""
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


async def test_two_tabs(api: Api, far: FarEnd, ada: str) -> None:
    """The second tab's question is refused with the run's id; joining that, it sees the same reply and the same end."""
    gate = far.hold(PIECES)
    async with api.stream(ada, "Hi") as first:
        refused = await api.ask(ada, "Hi")
        assert (refused.status, refused.problem["code"]) == (409, "conversation_busy")
        assert refused.problem["run_id"] == first.run_id
        async with api.join(ada, refused.problem["run_id"]) as second:
            gate.open()
            assert (await second.rest()).text == (await first.rest()).text == SAID
            assert second.heard.end == first.heard.end
    assert len(far.requests) == 1


async def test_readers_do_not_wait_for_each_other(api: Api, far: FarEnd, ada: str) -> None:
    """One that reads on hears each token at once, whatever one that does not read has missed."""
    gate = far.hold(PIECES)
    async with api.stream(ada, "Hi") as idle, api.join(ada, idle.run_id) as eager:
        for piece in PIECES:
            gate.release()
            if piece:
                assert await eager.token() == piece
        gate.open()
        await eager.rest()
        _check_tail(await idle.rest(), 0)


async def test_a_disconnect_keeps_the_run_going(api: Api, far: FarEnd, ada: str) -> None:
    """A reader that leaves, even the only one, stops nothing: the reply is saved whole."""
    gate = far.hold(PIECES)
    gate.release(1)
    async with api.stream(ada, "Hi") as hearing:
        await hearing.token()
    await _wait_for_readers(api, hearing.run_id, 0)
    gate.open()
    run = await api.ended_run(ada, hearing.run_id)
    assert (run["state"], run["partial_text"]) == ("done", SAID)
    assert (await api.messages(ada))[0]["content"] == SAID
    assert not far.requests[0].left.is_set()


async def test_joining_before_the_first_token(api: Api, far: FarEnd, ada: str) -> None:
    """While Claude has not accepted yet, a run can be looked at, joined and refused to others."""
    start = Gate()
    far.script(Reply(PIECES, head_gate=start))
    asking = asyncio.create_task(api.ask(ada, "Hi"))
    await far.arrived(1)
    run_id = (await api.ask(ada, "Me too")).problem["run_id"]
    run = await api.run(ada, run_id)
    assert (run["state"], run["partial_text"], run["cursor"], run["message_id"]) == ("building", "", 0, None)
    async with api.join(ada, run_id) as hearing:
        start.open()
        _check_tail(await hearing.rest(), 0)
    assert (await asking).end == hearing.heard.end


async def test_joining_an_asynchronous_run(api: Api, far: FarEnd, ada: str) -> None:
    """What was asked by the other door can be heard too, from the queue on."""
    gate = far.hold(PIECES)
    ids = [(await api.send(ada, text))["run_id"] for text in ("One", "Two")]
    async with api.join(ada, ids[0]) as first, api.join(ada, ids[1]) as queued:
        assert (await api.run(ada, ids[1]))["state"] == "queued"
        gate.open()
        _check_tail(await first.rest(), 0)
        assert (await queued.rest()).end["message_id"] == ids[1]


@pytest.mark.logs_errors
async def test_a_bug_ends_a_stream_too(api: Api, far: FarEnd, ada: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error frame that says nothing of it; the run itself goes on."""
    gate = far.hold(PIECES)
    first = (await api.send(ada, "1"))["run_id"]
    await far.arrived(1)
    queued = (await api.send(ada, "2"))["run_id"]

    async def fail(*_: object) -> None:
        raise RuntimeError("secret")

    async with api.join(ada, queued) as hearing:
        monkeypatch.setattr(api.app.state.service.database, "read", fail)
        heard = await finish_hearing(hearing)
        monkeypatch.undo()
    assert (heard.end["code"], heard.end["message_id"]) == ("internal_error", None)
    assert "secret" not in str(heard.frames)
    gate.open()
    for run_id in (first, queued):
        assert (await api.ended_run(ada, run_id))["state"] == "done"


# ── looking at a run ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_shows_what_it_has_said(api: Api, far: FarEnd, ada: str) -> None:
    """Its text and cursor are of the same moment, to the last token, and the cursor can be joined at."""
    gate = far.hold(PIECES)
    async with api.stream(ada, "Hi") as first:
        for n in (2, 4, 6):
            gate.release(2)
            await first.until("".join(PIECES[:n]))
            run = await api.run(ada, first.run_id)
            assert (run["state"], run["partial_text"]) == ("streaming", first.heard.text)
            assert run["cursor"] == len(run["partial_text"])
            async with api.join(ada, first.run_id, run["cursor"]) as joined:
                assert joined.heard.status == 200
        gate.open()
        heard = await first.rest()
    run = await api.run(ada, first.run_id)
    assert (run["state"], run["partial_text"], run["cursor"]) == ("done", SAID, len(SAID))
    assert run["message_id"] == run["id"] == heard.end["message_id"]
    moments = [run[name] for name in ("created_at", "building_at", "streaming_at", "first_token_at", "finished_at")]
    assert moments == sorted(moments)
    assert "error" not in run


# ── status events ────────────────────────────────────────────────────────────────────────────────────────────────────


async def _phases(hearing: Hearing, until: str) -> Sequence[str]:
    """The phases told up to and with one of them."""
    told: list[str] = []
    while not told or told[-1] != until:
        frame = await hearing.next()
        assert frame is not None
        assert frame.type == "status"
        assert frame.data["elapsed_ms"] >= 0
        told.append(frame.data["phase"])
    return told


async def test_status_events(api: Api, far: FarEnd, ada: str) -> None:
    """Who asks for them is told building, thinking and responding as they come; who does not hears none."""
    head, gate = Gate(), Gate()
    far.script(Reply(PIECES, head_gate=head, gate=gate))
    run_id = (await api.send(ada, "Hi"))["run_id"]
    await far.arrived(1)
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
    assert {frame.type for frame in plain.heard.frames} == {"token", "done"}


async def test_status_events_on_asking(api: Api, far: FarEnd, ada: str) -> None:
    """They are to be had on the first stream too, and every token stands between them in order."""
    heard = await api.ask(ada, "Hi", status_events=True)
    assert [frame.data["phase"] for frame in heard.frames if frame.type == "status"][-1] == "responding"
    assert heard.end["type"] == "done"
    assert (await api.messages(ada))[0]["content"] == heard.text
