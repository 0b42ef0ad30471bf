"""Events to bytes: the exact bytes of the contract, and no character that cuts an event in two."""

import json

from hypothesis import given
from hypothesis import strategies as st

from staffstream.domain import RunFailure, clean_text
from staffstream.support import sse
from tests.tools.frames import FrameReader, read_frame

ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""All of Unicode and what is none of it: lone surrogates too."""

LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def test_a_token_is_an_id_line_and_a_data_line() -> None:
    """The bytes of the contract."""
    assert sse.encode_token("r1", 5, "Hello") == b'id: r1:5\ndata: {"type":"token","content":"Hello"}\n\n'


def test_a_done_has_what_the_guide_shows_and_more() -> None:
    """type and message_id first; stop_reason and usage are additions."""
    frame = sse.encode_done("m1", stop_reason="end_turn", usage={"output_tokens": 2})
    assert frame == (
        b'data: {"type":"done","message_id":"m1","stop_reason":"end_turn","usage":{"output_tokens":2}}\n\n'
    )


def test_a_cancelled_done_says_so() -> None:
    """And only a cancelled one."""
    cancelled = read_frame(sse.encode_done(None, stop_reason=None, usage=None, cancelled=True)[:-2])
    assert cancelled.data["cancelled"] is True
    assert cancelled.data["message_id"] is None
    assert "cancelled" not in read_frame(sse.encode_done("m", stop_reason=None, usage=None)[:-2]).data


def test_an_error_has_detail_code_retryable_and_the_saved_partial() -> None:
    """What a client needs to decide whether to ask again."""
    frame = read_frame(sse.encode_error(RunFailure("upstream_broken", "It broke.", True), "m1")[:-2])
    assert frame.data == {
        "type": "error", "detail": "It broke.", "code": "upstream_broken", "retryable": True, "message_id": "m1",
    }  # fmt: skip


def test_a_ping_is_a_comment() -> None:
    """A line that starts with a colon is skipped by every client."""
    assert read_frame(sse.PING[:-2]).comment == "ping"


def test_a_status_tells_phase_time_and_tokens() -> None:
    """The opt-in progress of a long reply."""
    frame = read_frame(sse.encode_status("thinking", elapsed_ms=12, tokens=3)[:-2])
    assert frame.data == {"type": "status", "phase": "thinking", "elapsed_ms": 12, "tokens": 3}


@given(ANY_TEXT)
def test_any_text_stays_one_line_and_comes_back(text: str) -> None:
    """Whatever Claude says, the frame is two lines to every splitter, and holds the text with surrogates replaced."""
    frame = sse.encode_token("r", 1, text)
    assert frame.decode("utf-8").splitlines()[2:] == [""]
    assert json.loads(frame.split(b"data: ", 1)[1])["content"] == clean_text(text)


def test_every_line_end_of_unicode_is_escaped() -> None:
    """All that str.splitlines cuts at, U+0085, U+2028 and U+2029 among them."""
    frame = sse.encode_token("r", 1, LINE_ENDS)
    assert not set(frame.decode()[:-2]) & set(LINE_ENDS) - {"\n"}
    assert read_frame(frame[:-2]).data["content"] == LINE_ENDS


def test_lone_surrogates_are_replaced_wherever_they_are() -> None:
    """In nested values and in keys."""
    value = {"a\ud800": ["\udfff", {"b": ("x\ud83d", 1)}], "fine": "😀"}
    assert json.loads(sse.encode_json(value)) == {"a\ufffd": ["\ufffd", {"b": ["x\ufffd", 1]}], "fine": "😀"}


@given(st.lists(ANY_TEXT.filter(bool), max_size=8), st.integers(1, 9))
def test_a_stream_cut_anywhere_reads_the_same(texts: list[str], size: int) -> None:
    """Frames are found again however the network cuts the bytes."""
    frames = [sse.encode_token("r", n, text) for n, text in enumerate(texts, 1)]
    data = b"".join([*frames, sse.PING, sse.encode_done(None, stop_reason=None, usage=None)])
    reader = FrameReader()
    read = [frame for start in range(0, len(data), size) for frame in reader.feed(data[start : start + size])]
    reader.end()
    assert [frame.data["content"] for frame in read[:-2]] == [clean_text(text) for text in texts]
    assert reader.ended
