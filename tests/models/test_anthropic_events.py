"""The reader of Claude's stream as a pure protocol, without I/O. test_anthropic_sdk.py has it with a socket."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffstream.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamIncomplete,
    UpstreamKeyRefused,
    UpstreamMalformed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)
from staffstream.models.anthropic_events import EventReader
from staffstream.models.chat import Event, Finished, Started, Thinking
from staffstream.models.offline.wire import (
    PING,
    STOP_MESSAGE,
    ProviderMessage,
    add_delta,
    add_text,
    encode_event,
    finish_message,
    start_block,
    start_message,
    stop_block,
)
from tests.tools.provider_script import error_body

USAGE = {"input_tokens": 20, "output_tokens": 6}
ANSWER = ProviderMessage("msg_1", (), USAGE, "end_turn", model="claude-test")
START = encode_event(start_message(ANSWER))
END = encode_event(stop_block()) + encode_event(finish_message(ANSWER)) + encode_event(STOP_MESSAGE)


def _say(*pieces: str) -> bytes:
    return START + encode_event(start_block()) + b"".join(encode_event(add_text(piece)) for piece in pieces) + END


def _text(events: list[Event]) -> str:
    return "".join(event for event in events if isinstance(event, str))


def _feed(data: bytes, *cuts: int) -> list[Event]:
    """The events of a whole stream that arrives in pieces cut at these places."""
    reader = EventReader()
    edges = [0, *sorted(cuts), len(data)]
    events = [event for a, b in itertools.pairwise(edges) for event in reader.feed(data[a:b])]
    reader.end()
    return events


def test_a_reply_is_accepted_said_and_finished() -> None:
    """One Started with the model, the text, one Finished with reason and usage."""
    events = _feed(_say("Hel", "lo"))
    assert events == [Started("claude-test"), "Hel", "lo", Finished("end_turn", USAGE)]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_stream_may_be_cut_at_every_byte(newline: bytes) -> None:
    """The same events wherever two reads meet, within a character and between CR and LF too."""
    data = _say("Grüße 👩‍👩‍👧", "\u2028 日本").replace(b"\n", newline)
    whole = _feed(data)
    assert _text(whole) == "Grüße 👩‍👩‍👧\u2028 日本"
    for cut in range(len(data) + 1):
        assert _text(_feed(data, cut)) == _text(whole), cut
    assert _text(_feed(data, *range(len(data)))) == _text(whole)


@given(st.lists(st.text(st.characters(exclude_categories=())), max_size=5), st.data())
def test_any_text_comes_through_any_cuts(pieces: list[str], data: st.DataObject) -> None:
    """Whatever is said in whatever pieces: surrogate pairs are put together again, and all the rest stays."""
    stream = _say(*pieces)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    units = "".join(pieces).encode("utf-16-le", "surrogatepass")
    received = _text(_feed(stream, *cuts))
    assert _without_lone(received) == _without_lone(units.decode("utf-16-le", "replace"))
    received.encode("utf-8")


def _without_lone(text: str) -> str:
    return text.replace("\ufffd", "")


@given(st.binary(max_size=400), st.data())
def test_no_bytes_raise_anything_but_our_own(noise: bytes, data: st.DataObject) -> None:
    """Noise in the middle of a reply ends it as ours, or is skipped; it never becomes another exception."""
    stream = _say("one", "two")
    place = data.draw(st.integers(0, len(stream)))
    try:
        events = _feed(stream[:place] + noise + stream[place:])
    except UpstreamError:
        return
    assert isinstance(events[-1], Finished)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "delta", "text", "message", "usage", "content_block", "error", "index", "model"])
            | st.text(max_size=2),
            inner
            | st.sampled_from(
                ["message_start", "content_block_start", "content_block_delta", "text_delta", "message_delta", "error",
                 "message_stop", "text"]
            ),
            max_size=5,
        ),
        max_leaves=12,
    )
)  # fmt: skip
def test_no_json_raises_anything_but_our_own(value: object) -> None:
    """Events of any shape: skipped, understood, or UpstreamError."""
    reader = EventReader()
    reader.feed(START)
    try:
        events = reader.feed(b"data: " + json.dumps(value).encode() + b"\n\n")
    except UpstreamError:
        return
    assert all(isinstance(event, str | Started | Thinking | Finished) for event in events)
    assert all(event for event in events if isinstance(event, str))


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (("a\ud83d", "\ude00b"), "a😀b"),
        (("a\ud83d", "b"), "a\ufffdb"),
        (("\ude00",), "\ufffd"),
        (("\ud83d", "\ud83d", "\ude00"), "\ufffd😀"),
        (("\ud83d",), ""),
        (("a\0b",), "a\0b"),
    ],
)
def test_surrogates(pieces: tuple[str, ...], said: str) -> None:
    """Halves in two deltas meet; a lone one is replaced, or dropped if it is the last thing said."""
    assert _text(_feed(_say(*pieces))) == said


def test_nothing_is_read_after_the_end() -> None:
    """Neither more text nor a late error changes a finished reply."""
    late = encode_event(add_text("more")) + encode_event(error_body("api_error", "late")) + b"data: {\n\n"
    assert _text(_feed(_say("a") + late)) == "a"


@pytest.mark.parametrize("data", [b"", START, _say("a")[: -len(encode_event(STOP_MESSAGE))], _say("a")[:-1]])
def test_an_end_without_message_stop_is_incomplete(data: bytes) -> None:
    """However clean it looks."""
    with pytest.raises(UpstreamIncomplete):
        _feed(data)


@pytest.mark.parametrize("payload", [b"{", b"[1]", b"7", b'"text"', b"\xff", b"[" * 100_000, b"{}}"])
def test_what_is_no_event_is_malformed(payload: bytes) -> None:
    """Cut JSON, JSON that is no object, nesting without end, bytes that are no UTF-8."""
    with pytest.raises(UpstreamMalformed):
        _feed(START + b"data: " + payload + b"\n\n" + END)


@pytest.mark.parametrize("early", [encode_event(add_text("a")), encode_event(STOP_MESSAGE)])
def test_text_or_an_end_before_the_start_is_malformed(early: bytes) -> None:
    """A reply begins with message_start."""
    with pytest.raises(UpstreamMalformed):
        _feed(early + _say("a"))


@pytest.mark.parametrize("delta", [{"type": "text_delta", "text": 7}, {"type": "text_delta", "text": ["a"]}])
def test_text_that_is_none_is_malformed(delta: dict[str, Any]) -> None:
    """Rather than shown as something nobody said."""
    with pytest.raises(UpstreamMalformed):
        _feed(START + encode_event(add_delta(delta)) + END)


def test_an_event_without_end_is_refused() -> None:
    """Memory is bounded: 2 MB without a blank line is no event, and the error says so."""
    reader = EventReader()
    reader.feed(START)
    for _ in range(2049):
        reader.feed(b"x" * 1024)
    with pytest.raises(UpstreamMalformed) as caught:
        reader.end()
    assert "2 MB" in caught.value.detail


class _CountedBytes(bytes):
    """Bytes that count how many of them are looked at or copied, in whatever is made of them."""

    work = 0

    def _count(self) -> None:
        _CountedBytes.work += len(self)

    def __contains__(self, part: Any) -> bool:
        self._count()
        return super().__contains__(part)

    def __add__(self, other: Any) -> "_CountedBytes":
        joined = _CountedBytes(bytes(self) + bytes(other))
        joined._count()
        return joined

    def __radd__(self, other: Any) -> "_CountedBytes":
        return _CountedBytes(other) + self

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        if not isinstance(part, bytes):
            return part
        counted = _CountedBytes(part)
        counted._count()
        return counted

    def replace(self, old: Any, new: Any, count: Any = -1) -> "_CountedBytes":
        self._count()
        return _CountedBytes(super().replace(old, new, count))

    def split(self, sep: Any = None, maxsplit: Any = -1) -> Any:
        self._count()
        return [_CountedBytes(part) for part in super().split(sep, maxsplit)]

    def find(self, *args: Any) -> int:
        self._count()
        return super().find(*args)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_large_event_costs_what_its_bytes_cost(newline: bytes) -> None:
    """However small the reads are in which it comes: each byte is looked at a few times, not once a read."""
    _CountedBytes.work = 0
    text = "many words " * 100_000
    stream = _say(text).replace(b"\n", newline)
    reader = EventReader()
    events = [
        event
        for start in range(0, len(stream), 1000)
        for event in reader.feed(_CountedBytes(stream[start : start + 1000]))
    ]
    assert _text(events) == text
    assert len(stream) < _CountedBytes.work < 10 * len(stream)


def test_other_blocks_are_signs_of_life() -> None:
    """Thinking, tools and kinds nobody knows yet are no text and no error."""
    deltas = [
        {"type": "thinking_delta", "thinking": "Hm."},
        {"type": "signature_delta", "signature": "x"},
        {"type": "input_json_delta", "partial_json": "{"},
        {"type": "citations_delta", "citation": {}},
        {"type": "new_delta"},
    ]
    data = START + encode_event(start_block(0, {"type": "thinking", "thinking": ""}))
    data += b"".join(encode_event(add_delta(delta)) for delta in deltas) + encode_event(PING)
    assert _feed(data + END) == [
        Started("claude-test"), Thinking(), Thinking("Hm."), *[Thinking()] * 4, Finished("end_turn", USAGE),
    ]  # fmt: skip


def test_usage_is_overwritten_not_added() -> None:
    """The API's counts are cumulative; what is no count is left out."""
    first = {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 3, "odd": "x"}}
    second = {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 5}}
    events = _feed(START + encode_event(first) + encode_event(second) + encode_event(STOP_MESSAGE))
    assert events[-1] == Finished("max_tokens", USAGE | {"output_tokens": 5})


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("overloaded_error", UpstreamOverloaded),
        ("rate_limit_error", UpstreamRateLimited),
        ("api_error", UpstreamBroken),
        ("timeout_error", UpstreamTimeout),
        ("authentication_error", UpstreamKeyRefused),
        ("invalid_request_error", UpstreamRefused),
        ("unheard_of_error", UpstreamRefused),
        ("", UpstreamBroken),
    ],
)
def test_an_error_event_is_one_of_our_errors(kind: str, error: type[UpstreamError]) -> None:
    """By its type; its message goes to no client."""
    with pytest.raises(error) as caught:
        _feed(START + encode_event(error_body(kind, "secret words")))
    assert type(caught.value) is error
    assert "secret" not in caught.value.detail
