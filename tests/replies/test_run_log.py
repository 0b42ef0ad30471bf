"""The log of one run: every subscriber receives the same text, whenever it joins and however it reads."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffstream.domain import RunEnd
from staffstream.errors import BadCursor
from staffstream.replies.encoders import RunEncoder
from staffstream.replies.run_log import RunLog, encode_ended_run
from staffstream.support import sse
from tests.tools.frames import Frame, FrameReader

pytestmark = pytest.mark.anyio

END = RunEnd("m", stop_reason="end_turn")
DONE = RunEncoder("r").encode_end(END)
LONG_S = 3600.0


def _read(*writes: bytes) -> list[Frame]:
    reader = FrameReader()
    frames = [frame for data in writes for frame in reader.feed(data)]
    reader.end()
    return frames


def _text(frames: list[Frame]) -> str:
    return "".join(frame.data["content"] for frame in frames if frame.type == "token")


async def _collect(stream: AsyncGenerator[bytes, None]) -> list[bytes]:
    async with contextlib.aclosing(stream) as writes:
        return [data async for data in writes]


def _make_log(*texts: str, closed: bool = True) -> RunLog:
    log = RunLog("r")
    for text in texts:
        log.append(text)
    if closed:
        log.close(END)
    return log


async def test_what_waits_is_one_write_of_many_frames() -> None:
    """A subscriber that wakes to several tokens gets each in its own frame, all in one write."""
    log = _make_log("Hel", "lo", "!")
    writes = await _collect(log.follow(heartbeat_s=LONG_S))
    assert len(writes) == 1
    frames = _read(*writes)
    assert [frame.data.get("content") for frame in frames] == ["Hel", "lo", "!", None]
    assert [frame.id for frame in frames] == ["r:3", "r:5", "r:6", None]
    assert frames[-1].type == "done"


@given(st.lists(st.text(max_size=4), max_size=6), st.data())
def test_a_subscriber_joins_at_any_cursor(texts: list[str], data: st.DataObject) -> None:
    """At a frame's edge or within one, before or after the rest was said or the past was folded: all after the cursor,
    nothing twice, whatever part of it a push takes.
    """
    said_by_then = data.draw(st.integers(0, len(texts)))
    after = data.draw(st.integers(0, len("".join(texts[:said_by_then]))))
    pushes = data.draw(st.none() | st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)))
    folds = data.draw(st.sets(st.integers(0, len(texts))))
    frames = asyncio.run(_join(texts, said_by_then, after, pushes, folds))
    said = "".join(texts)
    assert _text(frames) == said[after:]
    assert [frame.cursor for frame in frames[:-1]][-1:] == ([len(said)] if len(said) > after else [])
    assert frames[-1].type == "done"


async def _join(
    texts: list[str], said_by_then: int, after: int, pushes: list[bool] | None, folds: set[int]
) -> list[Frame]:
    """What a subscriber receives that joins at a cursor when some of the texts have been said. `pushes` says which
    of its pushes take what they are given, `folds` when the log is folded.
    """
    log, writes = _make_log(closed=False), []

    def push(data: bytes) -> bool:
        assert pushes is not None
        if taken := pushes.pop():
            writes.append(data)
        return taken

    async def follow() -> None:
        async for data in log.follow(after, heartbeat_s=LONG_S, push=push if pushes is not None else None):
            writes.append(data)

    async with asyncio.TaskGroup() as group:
        for number, text in enumerate([*texts, ""]):
            if number in folds:
                log.fold(log.cursor)
            if number == said_by_then:
                group.create_task(follow())
                await asyncio.sleep(0)
            log.append(text)
            if number % 2:  # else the next comes while the reader has not yet woken
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        log.close(END)
    return _read(*writes)


async def test_a_subscriber_that_sleeps_is_sent_what_is_said_in_that_very_call() -> None:
    """No task is woken for it, and several texts of one read are one write of a frame each."""
    log, pushed = RunLog("r"), []

    def push(data: bytes) -> bool:
        pushed.append(data)
        return True

    stream = log.follow(heartbeat_s=LONG_S, push=push)
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    log.append("a", "", "b")
    log.append("c")
    assert [len(_read(data)) for data in pushed] == [2, 1]
    assert not waiting.done()
    log.close(END)
    assert await waiting == DONE
    assert await _collect(stream) == []


async def test_a_push_that_is_refused_goes_the_slow_way() -> None:
    """A subscriber whose connection is full is woken, and sent the same frames when it has room."""
    log = RunLog("r")
    stream = log.follow(heartbeat_s=LONG_S, push=lambda data: False)
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    log.append("a")
    log.append("b")
    assert _text(_read(await waiting)) == "ab"
    log.close(END)
    assert await _collect(stream) == [DONE]


async def test_what_all_have_been_sent_is_folded() -> None:
    """Who joins later gets it in one frame, and who lags behind still each token in its own."""
    log = _make_log("a", "b", closed=False)
    lagging = log.follow(heartbeat_s=LONG_S)
    await anext(lagging)
    log.append("c")
    log.append("d")
    log.fold(log.cursor)
    late = log.follow(heartbeat_s=LONG_S)
    assert [frame.data["content"] for frame in _read(await anext(late), await anext(late))] == ["ab", "c", "d"]
    assert [frame.data["content"] for frame in _read(await anext(lagging))] == ["c", "d"]
    log.fold(log.cursor)
    log.close(END)
    assert [frame.data.get("content") for frame in _read(*await _collect(log.follow(heartbeat_s=LONG_S)))] == [
        "abcd",
        None,
    ]
    assert log.text == "abcd"
    await late.aclose()
    await lagging.aclose()


async def test_an_empty_text_makes_no_frame() -> None:
    """The cursor grows with every frame."""
    log = _make_log("", "a", "")
    assert [frame.type for frame in _read(*await _collect(log.follow(heartbeat_s=LONG_S)))] == ["token", "done"]


async def test_subscribers_are_woken_and_do_not_wait_for_each_other() -> None:
    """One reads as it comes, one takes nothing until the end; both receive everything."""
    log = RunLog("r")
    quick, lazy = log.follow(heartbeat_s=LONG_S), log.follow(heartbeat_s=LONG_S)
    received = []
    for text in ("one", " two", " three"):
        log.append(text)
        received.append(await anext(quick))
    assert log.subscriber_count == 1, "a reader counts from its first read on"
    log.close(END)
    received += await _collect(quick)
    assert _text(_read(*received)) == _text(_read(*await _collect(lazy))) == "one two three"
    assert log.subscriber_count == 0


async def test_a_subscriber_that_leaves_is_forgotten() -> None:
    """While it waits for more, too."""
    log = _make_log("a", closed=False)
    stream = log.follow(heartbeat_s=LONG_S)
    await anext(stream)
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert log.subscriber_count == 0


async def test_silence_is_filled_with_pings() -> None:
    """One after each heartbeat of silence, and text still comes through."""
    log = RunLog("r")
    stream = log.follow(heartbeat_s=0.01)
    assert await anext(stream) == await anext(stream) == sse.PING
    log.append("a")
    assert (await anext(stream)).startswith(b"id: r:1\n")
    log.close(END)
    assert (await _collect(stream))[-1] == DONE


async def test_status_tells_each_phase_once_and_beats_instead_of_pings() -> None:
    """For subscribers that asked for it."""
    log = RunLog("r")
    stream = log.follow(heartbeat_s=0.01, encoder=RunEncoder("r", wants_status=True))
    phases = [_read(await anext(stream))[0].data for _ in range(2)]
    assert [event["phase"] for event in phases] == ["building", "building"]
    log.enter_phase("thinking")
    while (frames := _read(await anext(stream)))[0].data["phase"] != "thinking":
        pass
    log.enter_phase("responding")
    log.append("a")
    frames = _read(await anext(stream))
    while frames[0].data.get("phase") == "thinking":
        frames = _read(await anext(stream))
    assert [frame.type for frame in frames] == ["status", "token"]
    assert frames[0].data["phase"] == "responding"
    log.close(END)
    assert (await _collect(stream))[-1] == DONE


async def test_a_subscriber_may_be_ahead_of_the_log() -> None:
    """It has read more elsewhere: it is sent what comes after its cursor, and the end."""
    log = RunLog("r")
    stream = asyncio.create_task(_collect(log.follow(5, heartbeat_s=LONG_S)))
    await asyncio.sleep(0)
    for text in ("abc", "def", "gh"):
        log.append(text)
        await asyncio.sleep(0)
    log.close(END)
    frames = _read(*await stream)
    assert _text(frames) == "fgh"
    assert [frame.cursor for frame in frames[:-1]] == [6, 8]


async def test_a_slow_subscriber_does_not_keep_old_texts_apart() -> None:
    """What is old is folded though it has not been sent to everybody; nothing is lost."""
    log = RunLog("r")
    stream = log.follow(heartbeat_s=LONG_S)
    log.append("0")
    assert _text(_read(await anext(stream))) == "0"
    texts = [str(number % 10) for number in range(3000)]
    for text in texts:
        log.append(text)
    log.fold(log.cursor)
    log.close(END)
    frames = _read(*await _collect(stream))
    assert _text(frames) == "".join(texts)
    assert len(frames) < 1500
    assert log.read_after(log.cursor - 3) == "789"


async def test_the_first_close_counts() -> None:
    """Exactly one terminal frame, whoever comes second."""
    log = _make_log("a", closed=False)
    log.close(END)
    log.close(RunEnd("other"))
    assert (await _collect(log.follow(heartbeat_s=LONG_S)))[-1].endswith(RunEncoder("r").encode_end(END))


async def test_a_log_closed_without_an_end_ends_its_subscribers() -> None:
    """The run goes on elsewhere: what was said is delivered, and no terminal frame is made up."""
    log = _make_log("a", closed=False)
    stream = log.follow(heartbeat_s=LONG_S)
    first = await anext(stream)
    log.close(None)
    assert _text(_read(first, *await _collect(stream))) == "a"


async def test_text_and_cursor_count_characters() -> None:
    """Not bytes, not UTF-16 units."""
    log = _make_log("Grüße ", "👩‍👩‍👧")
    assert log.text == "Grüße 👩‍👩‍👧"
    assert log.cursor == len(log.text) == 11


@given(st.text(max_size=12), st.data())
def test_an_ended_run_reads_the_same(text: str, data: st.DataObject) -> None:
    """From the saved text, at every cursor."""
    after = data.draw(st.integers(0, len(text)))
    frames = _read(encode_ended_run(RunEncoder("r"), text, after, END))
    assert _text(frames) == text[after:]
    assert frames[-1].type == "done"


@pytest.mark.parametrize("after", [-1, 4])
def test_a_cursor_beyond_an_ended_run_is_refused(after: int) -> None:
    """It is another run's, or made up."""
    with pytest.raises(BadCursor):
        encode_ended_run(RunEncoder("r"), "abc", after, END)
