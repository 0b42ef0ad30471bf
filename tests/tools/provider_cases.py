"""What Claude's provider can do to us: every named way in which its answer goes wrong, or is odd and yet
right, as exact bytes for `FarEnd.script`, each with what is to be made of it. A test that runs over `CASES`
has seen them all.
"""

import gzip
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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
from tests.tools.provider_script import (
    STREAM_HEAD,
    USAGE,
    Close,
    Head,
    Raw,
    Script,
    Stall,
    Step,
    Wait,
    encode_piece,
    error_body,
    http_error,
    steps,
    whole_steps,
)


@dataclass(frozen=True)
class Case:
    """One answer of the provider.

    `text` is what of a reply arrives, with U+FFFD for lone surrogates. `ends`: True if that is a whole reply in
    spite of all, False if it must not pass for one, None if either will do. `stop_reason` is the one sent.
    `stalls`: it may go on until the client gives up; `repeats`: it says the same `text` all the while.
    """

    script: Script
    text: str = ""
    ends: bool | None = False
    stop_reason: str | None = None
    stalls: bool = False
    repeats: bool = False


def _answer(stop_reason: str = "end_turn") -> ProviderMessage:
    return ProviderMessage("msg_case", (), USAGE, stop_reason, model="claude-far-end")


def _finish(stop_reason: str = "end_turn") -> bytes:
    return encode_event(stop_block()) + encode_event(finish_message(_answer(stop_reason)))


START = encode_event(start_message(_answer()))
OPEN = START + encode_event(start_block())
ONE, TWO, THREE = encode_piece("One"), encode_piece(" two"), encode_piece(" three")
SAID = "One two three"
STOP = encode_event(STOP_MESSAGE)
END = _finish() + STOP
WHOLE = OPEN + ONE + TWO + THREE + END
A_MOMENT = Wait(0.05)
"""Lets what was sent be read before what breaks; `AT_ONCE` has what is read together."""


def _fails(*given: Step, text: str = "", stalls: bool = False) -> Case:
    return Case(steps(*given), text, stalls=stalls)


def _streams(*given: Step, text: str = "", stalls: bool = False) -> Case:
    """Fails after the head of a stream."""
    return _fails(STREAM_HEAD, *given, text=text, stalls=stalls)


def _ends(*given: Step, text: str = SAID, stop_reason: str = "end_turn", ends: bool | None = True) -> Case:
    return Case(steps(STREAM_HEAD, *given), text, ends, stop_reason)


def _says(text: str) -> Case:
    return _ends(OPEN, encode_piece(text), END, text=text)


def _stops(stop_reason: str, text: str = SAID) -> Case:
    pieces = [ONE, TWO, THREE] if text else []
    return _ends(OPEN, *pieces, _finish(stop_reason) + STOP, text=text, stop_reason=stop_reason)


def _error_event(error_type: str) -> bytes:
    return encode_event(error_body(error_type, "scripted"))


def _raw_event(name: str, data: str) -> bytes:
    return f"event: {name}\ndata: {data}\n\n".encode()


def _cut(data: bytes, size: int) -> list[Step]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def _slowly(parts: list[Step]) -> Iterator[Step]:
    """Each part most likely in a TCP segment of its own."""
    for part in parts:
        yield part
        yield Wait(0.001)


def _block(block: Mapping[str, Any], *deltas: Mapping[str, Any], index: int = 0) -> bytes:
    """A whole block that is not text."""
    events = [start_block(index, block), *(add_delta(delta, index) for delta in deltas), stop_block(index)]
    return b"".join(encode_event(event) for event in events)


def _text_block(index: int, *pieces: str) -> bytes:
    events = [start_block(index), *(add_text(piece, index) for piece in pieces), stop_block(index)]
    return b"".join(encode_event(event) for event in events)


def _without_usage(event: Mapping[str, Any]) -> bytes:
    kept = {key: value for key, value in event.items() if key != "usage"}
    if "message" in kept:
        kept["message"] = {key: value for key, value in kept["message"].items() if key != "usage"}
    return encode_event(kept)


_EMOJI = "Grüße 👩‍👩‍👧 日本"
_TORN = OPEN + encode_piece(_EMOJI) + END
_TOOL = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {}}
_CITATION = {"type": "char_location", "cited_text": "One", "document_index": 0, "document_title": None,
             "start_char_index": 0, "end_char_index": 3}  # fmt: skip
_LATE = encode_event(finish_message(_answer())) + STOP

REFUSED_EARLY: dict[str, Case] = {
    "http_400": Case(http_error(400, "invalid_request_error")),
    "http_401": Case(http_error(401, "authentication_error")),
    "http_403": Case(http_error(403, "permission_error")),
    "http_404": Case(http_error(404, "not_found_error")),
    "http_413": Case(http_error(413, "request_too_large")),
    "http_429": Case(http_error(429, "rate_limit_error")),
    "http_429_retry_after": Case(http_error(429, "rate_limit_error", headers={"retry-after": "1"})),
    "http_429_retry_after_an_hour": Case(http_error(429, "rate_limit_error", headers={"retry-after": "3600"})),
    "http_500": Case(http_error(500, "api_error")),
    "http_500_not_json": Case(lambda request: whole_steps(500, b"upstream exploded", {"content-type": "text/plain"})),
    "http_502_html": Case(lambda request: whole_steps(502, b"<h1>Bad gateway</h1>", {"content-type": "text/html"})),
    "http_529": Case(http_error(529, "overloaded_error")),
    "redirect_302": Case(lambda request: whole_steps(302, b"", {"location": "/elsewhere"})),
    "html_200": Case(lambda request: whole_steps(200, b"<h1>Log in</h1>", {"content-type": "text/html"})),
    "close_before_head": _fails(Close()),
    "reset_before_head": _fails(Close(reset=True)),
    "not_http": _fails(Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), Close()),
    "stall_before_head": _fails(Stall(), stalls=True),
}
"""Fails before a stream has begun."""

BROKEN: dict[str, Case] = {
    "stall_before_start": _streams(Stall(), stalls=True),
    "stall_with_pings_before_start": _streams(Stall(ping_every_s=0.01), stalls=True),
    "stall_before_text": _streams(OPEN, Stall(), stalls=True),
    "stall_mid_stream": _streams(OPEN, ONE, TWO, Stall(), text="One two", stalls=True),
    "stall_with_pings": _streams(OPEN, ONE, TWO, Stall(ping_every_s=0.01), text="One two", stalls=True),
    "stall_before_stop": _streams(OPEN, ONE, A_MOMENT, _finish(), Stall(), text="One", stalls=True),
    "reset_before_start": _streams(A_MOMENT, Close(reset=True)),
    "reset_mid_stream": _streams(OPEN, ONE, TWO, A_MOMENT, Close(reset=True), text="One two"),
    "close_mid_stream": _streams(OPEN, ONE, TWO, A_MOMENT, Close(), text="One two"),
    "close_mid_chunk": _streams(OPEN, ONE, A_MOMENT, Raw(b"ff\r\nevent: content_blo"), Close(), text="One"),
    "close_mid_event": _streams(OPEN, ONE, TWO[:40], Close(), text="One"),
    # The SDK's aiohttp transport never wakes from this one, nor does its read timeout: hence `stalls`.
    "bad_chunk_size": _streams(OPEN, ONE, A_MOMENT, Raw(b"zz\r\n"), A_MOMENT, Close(), text="One", stalls=True),
    "ends_before_start": _streams(),
    "ends_before_text": _streams(OPEN),
    "ends_mid_text": _streams(OPEN, ONE, TWO, A_MOMENT, text="One two"),
    "ends_mid_event": _streams(OPEN, ONE, TWO[:40], text="One"),
    "ends_before_stop": _streams(OPEN, ONE, TWO, A_MOMENT, _finish(), text="One two"),
    "overloaded_before_start": _streams(_error_event("overloaded_error")),
    "overloaded_before_text": _streams(OPEN, _error_event("overloaded_error")),
    "overloaded_mid_stream": _streams(OPEN, ONE, A_MOMENT, _error_event("overloaded_error"), text="One"),
    "api_error_mid_stream": _streams(OPEN, ONE, A_MOMENT, _error_event("api_error"), text="One"),
    "rate_limit_mid_stream": _streams(OPEN, ONE, A_MOMENT, _error_event("rate_limit_error"), text="One"),
    "error_not_json": _streams(OPEN, ONE, A_MOMENT, _raw_event("error", "boom"), text="One"),
    "malformed_json": _streams(
        OPEN, ONE, A_MOMENT, _raw_event("content_block_delta", '{"type":"content_blo'), END, text="One"
    ),
    "malformed_json_first": _streams(_raw_event("message_start", "{"), END),
    "data_is_a_list": _streams(OPEN, ONE, A_MOMENT, _raw_event("content_block_delta", "[1]"), END, text="One"),
    "data_is_a_number": _streams(OPEN, ONE, A_MOMENT, _raw_event("content_block_delta", "7"), END, text="One"),
    "deeply_nested_data": _streams(
        OPEN, ONE, A_MOMENT, _raw_event("content_block_delta", "[" * 100_000), END, text="One"
    ),
    "invalid_utf8": _streams(OPEN, ONE, TWO.replace(b"two", b"\xff\xfe"), END, text="One"),
    "gzip_broken": _fails(
        Head(200, {**STREAM_HEAD.headers, "content-encoding": "gzip"}), b"\x1f\x8b\x08\x00garbage", Close()
    ),
    "never_ends": Case(
        lambda request: itertools.chain([STREAM_HEAD, OPEN], itertools.cycle([ONE, Wait(0.005)])),
        text="One",
        stalls=True,
        repeats=True,
    ),
}
"""Breaks once the stream has begun: no reply, but its text up to there is worth keeping."""

AT_ONCE: dict[str, Case] = {
    "overloaded_at_once": _streams(OPEN + ONE + _error_event("overloaded_error"), text="One"),
    "malformed_at_once": _streams(OPEN + ONE + _raw_event("content_block_delta", "{") + END, text="One"),
    "ends_at_once": _streams(OPEN + ONE, text="One"),
}
"""Text and the break that follows it in a single read: the text came first, and is worth keeping all the same."""

ODD: dict[str, Case] = {
    "unknown_event": _ends(OPEN, ONE, encode_event({"type": "new_event", "x": {"y": 1}}), TWO, THREE, END),
    "unknown_block": _ends(
        START, _block({"type": "new_block", "n": 1}, {"type": "new_delta"}), _text_block(1, SAID), _LATE
    ),
    "unknown_delta": _ends(OPEN, ONE, encode_event(add_delta({"type": "new_delta", "n": 1})), TWO, THREE, END),
    "event_without_type": _ends(OPEN, ONE, _raw_event("new_event", "{}"), TWO, THREE, END),
    "comment_lines": _ends(OPEN, ONE, b": keep-alive\n\n", TWO, b":\n\n", THREE, END),
    "pings": _ends(encode_event(PING), OPEN, encode_event(PING), ONE, encode_event(PING), TWO, THREE, END),
    "thinking": _ends(
        START,
        _block(
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Hmm."},
            {"type": "signature_delta", "signature": "c2lnbmVk"},
        ),
        _block({"type": "redacted_thinking", "data": "ZGF0YQ=="}, index=1),
        _text_block(2, SAID),
        _LATE,
    ),
    "tool_use": _ends(
        START,
        _text_block(0, SAID),
        _block(
            _TOOL,
            {"type": "input_json_delta", "partial_json": '{"q": "x'},
            {"type": "input_json_delta", "partial_json": '"}'},
            index=1,
        ),
        encode_event(finish_message(_answer("tool_use"))) + STOP,
        stop_reason="tool_use",
    ),
    "citations": _ends(
        OPEN,
        ONE,
        encode_event(add_delta({"type": "citations_delta", "citation": _CITATION})),
        TWO,
        THREE,
        END,
    ),
    "two_text_blocks": _ends(START, _text_block(0, "One"), _text_block(1, " two", " three"), _LATE),
    "text_in_block_start": _ends(
        START, encode_event(start_block(0, {"type": "text", "text": "One"})), TWO, THREE, END, ends=None
    ),
    "delta_before_start": _ends(ONE, OPEN, TWO, THREE, END, ends=None),
    "delta_without_block": _ends(START, ONE, TWO, THREE, _LATE, ends=None),
    "delta_for_unknown_index": _ends(OPEN, ONE, encode_event(add_text(" lost", 7)), TWO, THREE, END, ends=None),
    "missing_usage": _ends(
        _without_usage(start_message(_answer())) + encode_event(start_block()),
        *(ONE, TWO, THREE, encode_event(stop_block()), _without_usage(finish_message(_answer())), STOP),
    ),
    "null_text": _ends(OPEN, ONE, encode_piece(None), TWO, THREE, END, ends=None),
    "text_is_a_number": _ends(OPEN, ONE, encode_piece(7), TWO, THREE, END, ends=None),
    "utf8": _says(_EMOJI),
    "split_utf8": _ends(*_cut(_TORN, 3), text=_EMOJI),
    "split_utf8_segments": _ends(*_slowly(_cut(_TORN, 5)), text=_EMOJI),
    "one_byte_at_a_time": _ends(*_cut(WHOLE, 1)),
    "crlf": _ends(*_cut(WHOLE.replace(b"\n", b"\r\n"), 50)),
    "many_events_at_once": _ends(WHOLE),
    "megabyte_delta": _says("mega byte " * 100_000),
    "ten_thousand_pieces": _ends(OPEN, *[ONE] * 10_000, END, text="One" * 10_000),
    "refusal": _stops("refusal"),
    "refusal_without_text": _stops("refusal", ""),
    "max_tokens": _stops("max_tokens"),
    "pause_turn": _stops("pause_turn"),
    "stop_sequence": _stops("stop_sequence"),
    "context_window_exceeded": _stops("model_context_window_exceeded"),
    "unknown_stop_reason": _stops("new_reason"),
    "empty_reply": _stops("end_turn", ""),
    "no_blocks": _ends(START, _LATE, text=""),
    "whitespace_reply": _says(" \n\t "),
    "lone_surrogates": _ends(OPEN, encode_piece("a\ud800b\udc00c"), END, text="a\ufffdb\ufffdc"),
    "surrogate_pair_in_two_pieces": _ends(OPEN, encode_piece("a\ud83d"), encode_piece("\ude00b"), END, text="a😀b"),
    "nul": _says("a\0b"),
    "line_separators": _says("a\u2028b\u2029c\u0085d\re\nf\r\ng"),
    "sse_in_text": _says('data: {"type":"done"}\n\nevent: error\n\n'),
    "duplicate_stop": _ends(WHOLE, STOP),
    "text_after_stop": _ends(WHOLE, encode_piece(" more")),
    "stall_after_stop": _ends(WHOLE, Stall()),
    "reset_after_stop": _ends(WHOLE, A_MOMENT, Close(reset=True)),
    "error_after_stop": _ends(WHOLE, _error_event("api_error")),
    "gzip": Case(
        steps(Head(200, {**STREAM_HEAD.headers, "content-encoding": "gzip"}), gzip.compress(WHOLE)),
        *(SAID, True, "end_turn"),
    ),
}
"""Odd and yet a whole reply, or near enough to one that either reading will do."""

CASES: dict[str, Case] = {**REFUSED_EARLY, **BROKEN, **AT_ONCE, **ODD}
