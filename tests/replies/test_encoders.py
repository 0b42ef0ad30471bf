"""The frames of our own stream: the exact bytes of the contract, and no character that cuts an event in two."""

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from staffstream.domain import RunEnd, RunFailure, clean_text
from staffstream.replies.encoders import RunEncoder
from tests.tools.frames import FrameReader, read_frame

ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""All of Unicode and what is none of it: lone surrogates too."""

LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def encode_end(end: RunEnd) -> bytes:
    return RunEncoder("r").encode_end(end)


def test_a_token_is_an_id_line_and_a_data_line() -> None:
    """The bytes of the contract."""
    assert RunEncoder("r1").encode_text(0, "Hello") == b'id: r1:5\ndata: {"type":"token","content":"Hello"}\n\n'


def test_a_done_has_what_the_guide_shows_and_more() -> None:
    """type and message_id first; stop_reason and usage are additions."""
    frame = encode_end(RunEnd("m1", "end_turn", {"output_tokens": 2}))
    assert frame == (
        b'data: {"type":"done","message_id":"m1","stop_reason":"end_turn","usage":{"output_tokens":2}}\n\n'
    )


def test_a_cancelled_done_says_so() -> None:
    """And only a cancelled one."""
    cancelled = read_frame(encode_end(RunEnd(cancelled=True))[:-2])
    assert cancelled.data["cancelled"] is True
    assert cancelled.data["message_id"] is None
    assert "cancelled" not in read_frame(encode_end(RunEnd("m"))[:-2]).data


def test_an_error_has_detail_code_retryable_and_the_saved_partial() -> None:
    """What a client needs to decide whether to ask again."""
    frame = read_frame(encode_end(RunEnd("m1", failure=RunFailure("upstream_broken", "It broke.", True)))[:-2])
    assert frame.data == {
        "type": "error", "detail": "It broke.", "code": "upstream_broken", "retryable": True, "message_id": "m1",
    }  # fmt: skip


def test_a_status_tells_phase_time_and_tokens() -> None:
    """The opt-in progress of a long reply."""
    frame = read_frame(RunEncoder("r").encode_status("thinking", elapsed_ms=12, tokens=3)[:-2])
    assert frame.data == {"type": "status", "phase": "thinking", "elapsed_ms": 12, "tokens": 3}


@given(ANY_TEXT)
def test_any_text_stays_one_line_and_comes_back(text: str) -> None:
    """Whatever Claude says, the frame is two lines to every splitter, and holds the text with surrogates replaced."""
    frame = RunEncoder("r").encode_text(0, text)
    assert frame.decode("utf-8").splitlines()[2:] == [""]
    assert json.loads(frame.split(b"data: ", 1)[1])["content"] == clean_text(text)


def test_every_line_end_of_unicode_is_escaped() -> None:
    """All that str.splitlines cuts at, U+0085, U+2028 and U+2029 among them."""
    frame = RunEncoder("r").encode_text(0, LINE_ENDS)
    assert not set(frame.decode()[:-2]) & set(LINE_ENDS) - {"\n"}
    assert read_frame(frame[:-2]).data["content"] == LINE_ENDS


@given(st.lists(ANY_TEXT.filter(bool), max_size=8), st.integers(1, 9))
def test_a_stream_cut_anywhere_reads_the_same(texts: list[str], size: int) -> None:
    """Frames are found again however the network cuts the bytes."""
    starts = itertools.accumulate(map(len, texts), initial=0)
    frames = [RunEncoder("r").encode_text(start, text) for start, text in zip(starts, texts, strict=False)]
    data = b"".join([*frames, RunEncoder.ping, encode_end(RunEnd())])
    reader = FrameReader()
    read = [frame for start in range(0, len(data), size) for frame in reader.feed(data[start : start + size])]
    reader.end()
    assert [frame.data["content"] for frame in read[:-2]] == [clean_text(text) for text in texts]
    assert reader.ended
