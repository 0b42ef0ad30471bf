"""Claude's room: the reader of its stream as a pure protocol, and the SDK behind it over a real socket.

What each fault of the far end does to a reply is in test_faults.py; here it is what this room makes of it.
"""

import asyncio
import contextvars
import gzip
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffstream.claude import (
    Accepted,
    Claude,
    Event,
    EventReader,
    Finished,
    Limits,
    Prompt,
    Thinking,
)
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
from staffstream.offline.wire import (
    PING,
    STOP_MESSAGE,
    Answer,
    add_delta,
    add_text,
    encode_event,
    error_body,
    finish_message,
    start_block,
    start_message,
    stop_block,
)
from staffstream.sdk import find_reader
from tests.far_end import DEADLINE_S, STREAM_HEAD, FarEnd, Gate, Head, Reply, http_error, steps
from tests.far_end_cases import CASES, ODD, Case

pytestmark = pytest.mark.anyio

USAGE = {"input_tokens": 20, "output_tokens": 6}
ANSWER = Answer("msg_1", (), USAGE, "end_turn", model="claude-test")
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


# ── the reader, without I/O ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_reply_is_accepted_said_and_finished() -> None:
    """One Accepted with the model, the text, one Finished with reason and usage."""
    events = _feed(_say("Hel", "lo"))
    assert events == [Accepted("claude-test"), "Hel", "lo", Finished("end_turn", USAGE)]


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
    heard = _text(_feed(stream, *cuts))
    assert _without_lone(heard) == _without_lone(units.decode("utf-16-le", "replace"))
    heard.encode("utf-8")


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
    assert all(isinstance(event, str | Accepted | Thinking | Finished) for event in events)
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
    """Memory is bounded: 32 MB without a blank line is no event."""
    reader = EventReader()
    reader.feed(START + b"x" * 33 * 1024 * 1024)
    with pytest.raises(UpstreamMalformed):
        reader.end()


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
    assert _feed(data + END) == [Accepted("claude-test"), *[Thinking()] * 6, Finished("end_turn", USAGE)]


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


# ── the SDK behind it, over a socket ─────────────────────────────────────────────────────────────────────────────────

PROMPT = Prompt("claude-test", 100, [], [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])


@pytest.fixture
async def claude(far: FarEnd) -> AsyncIterator[Claude]:
    limits = Limits(DEADLINE_S, DEADLINE_S, DEADLINE_S)
    async with Claude.open(limits, api_key="sk-ant-test", base_url=far.url) as claude:
        yield claude


async def _ask(claude: Claude) -> list[Event]:
    events: list[Event] = []
    await claude.stream_reply(PROMPT, events.extend)
    return events


async def test_the_sdk_sends_what_the_prompt_says(far: FarEnd, claude: Claude) -> None:
    """Key, version, model, limit, messages and a stream asked for; no empty system."""
    assert _text(await _ask(claude)) == "Hello from the far end."
    (request,) = far.requests
    assert request.headers["authorization"] == "Bearer sk-ant-test"
    assert request.body == {"model": "claude-test", "max_tokens": 100, "messages": PROMPT.messages, "stream": True}
    assert far.refusals == []


@pytest.mark.parametrize("name", ODD)
async def test_odd_streams(far: FarEnd, claude: Claude, name: str) -> None:
    """What is odd and yet a reply is one; where either reading will do, it is a whole reply or our own error."""
    case = ODD[name]
    far.script(case.script)
    try:
        events = await _ask(claude)
    except UpstreamError:
        assert not case.ends
        return
    assert isinstance(events[-1], Finished)
    assert events[-1].stop_reason == case.stop_reason
    if case.ends:
        assert _text(events) == _as_heard(case)


def _as_heard(case: Case) -> str:
    return case.text.replace("\ud800", "\ufffd").replace("\udc00", "\ufffd")


# `never_ends` is ended only by a run's own limit.
FAULTS = {name: case for name, case in CASES.items() if name not in ODD and name != "never_ends"}


@pytest.mark.parametrize("name", FAULTS)
async def test_every_fault_is_one_of_our_errors(far: FarEnd, name: str) -> None:
    """With what had been said until then, within the limits, and nothing else raised."""
    case = FAULTS[name]
    far.script(case.script)
    said: list[Event] = []
    patience_s = 1 if case.stalls else DEADLINE_S
    limits = Limits(patience_s, patience_s, patience_s)
    async with Claude.open(limits, api_key="sk-ant-test", base_url=far.url) as claude:
        with pytest.raises(UpstreamError) as caught:
            await claude.stream_reply(PROMPT, said.extend)
    assert _text(said) == case.text
    assert not any(isinstance(event, Finished) for event in said)
    assert "sk-ant" not in str(caught.value)
    assert far.url not in caught.value.detail


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_request_error", UpstreamRefused),
        (401, "authentication_error", UpstreamKeyRefused),
        (403, "permission_error", UpstreamKeyRefused),
        (404, "not_found_error", UpstreamRefused),
        (413, "request_too_large", UpstreamRefused),
        (408, "timeout_error", UpstreamTimeout),
        (429, "rate_limit_error", UpstreamRateLimited),
        (500, "api_error", UpstreamBroken),
        (503, "api_error", UpstreamOverloaded),
        (504, "timeout_error", UpstreamTimeout),
        (529, "overloaded_error", UpstreamOverloaded),
    ],
)
async def test_a_status_is_one_of_our_errors(
    far: FarEnd, claude: Claude, status: int, kind: str, error: type[UpstreamError]
) -> None:
    """By the number."""
    far.script(http_error(status, kind))
    with pytest.raises(error) as caught:
        await _ask(claude)
    assert type(caught.value) is error
    assert len(far.requests) == 1, "retries are not this room's"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3), ("0.5", 0.5), ("-4", 0), ("soon", None), ("", None), ("nan", None), ("inf", None)],
)
async def test_retry_after_is_read(far: FarEnd, claude: Claude, value: str, seconds: float | None) -> None:
    """A number of seconds; what is none asks for nothing."""
    far.script(http_error(429, "rate_limit_error", headers={"retry-after": value}))
    with pytest.raises(UpstreamRateLimited) as caught:
        await _ask(claude)
    assert caught.value.retry_after_s == seconds


async def test_retry_after_may_be_a_date(far: FarEnd, claude: Claude) -> None:
    """As HTTP allows."""
    far.script(http_error(529, headers={"retry-after": formatdate(time.time() + 30, usegmt=True)}))
    with pytest.raises(UpstreamOverloaded) as caught:
        await _ask(claude)
    assert caught.value.retry_after_s is not None
    assert 20 < caught.value.retry_after_s <= 30


async def test_no_key_is_followed_elsewhere(far: FarEnd, claude: Claude) -> None:
    """A redirect is refused: it could carry the key to another host."""
    far.script(CASES["redirect_302"].script)
    with pytest.raises(UpstreamError):
        await _ask(claude)
    assert len(far.requests) == 1


async def test_nobody_listening_is_a_broken_connection() -> None:
    """With no address in what is told."""
    async with Claude.open(Limits(1, 1, 1), api_key="k", base_url="http://127.0.0.1:9") as claude:
        with pytest.raises(UpstreamBroken) as caught:
            await _ask(claude)
    assert "127" not in caught.value.detail


async def test_pings_do_not_count_as_content(far: FarEnd) -> None:
    """A stream that says nothing but ping is silent."""
    far.script(CASES["stall_with_pings"].script)
    async with Claude.open(Limits(DEADLINE_S, DEADLINE_S, 0.2), api_key="k", base_url=far.url) as claude:
        with pytest.raises(UpstreamTimeout):
            await _ask(claude)


async def test_a_slow_reply_is_no_silent_one(far: FarEnd) -> None:
    """Each token starts the count anew; a whole reply may take many times the limit."""
    far.script(Reply(["a"] * 8, delay_s=0.2))
    async with Claude.open(Limits(DEADLINE_S, DEADLINE_S, 1), api_key="k", base_url=far.url) as claude:
        assert _text(await _ask(claude)) == "a" * 8


async def test_many_replies_are_made_at_once(far: FarEnd, claude: Claude) -> None:
    """More than the 100 connections that aiohttp has when nobody asks for another number."""
    gate = Gate()
    far.default = Reply(["a"], gate=gate)
    asking = [asyncio.create_task(_ask(claude)) for _ in range(120)]
    await far.arrived(120)
    gate.open()
    assert {_text(events) for events in await asyncio.gather(*asking)} == {"a"}


async def test_the_sdks_transport_lets_us_read_beneath_it(far: FarEnd) -> None:
    """Should a release of it no longer, every reply still comes, and each token costs a tenth more."""
    http = anthropic.DefaultAioHttpClient()
    async with anthropic.AsyncAnthropic(api_key="k", base_url=far.url, http_client=http) as client:
        async with client.messages.with_streaming_response.create(
            model="claude-test", max_tokens=1, messages=[{"role": "user", "content": "Hi"}], stream=True
        ) as response:
            assert find_reader(response.http_response) is not None


async def test_the_sdk_is_imported_when_it_is_first_needed(far: FarEnd) -> None:
    """Importing it takes most of a start: a server takes requests before, and what is asked early waits for it."""
    script = "import sys, staffstream.server, staffstream.cli; assert 'anthropic' not in sys.modules; import anthropic"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await process.wait() == 0
    async with Claude.open(Limits(DEADLINE_S, DEADLINE_S, DEADLINE_S), api_key="k", base_url=far.url) as early:
        asking = [asyncio.create_task(_ask(early)) for _ in range(2)]
        asking[0].cancel()  # whoever waits for it may be cancelled
        assert _text(await asking[1])


async def test_an_import_that_fails_is_tried_again(far: FarEnd) -> None:
    """The SDK may be there the next time, and one failure is not to end all replies of a server."""

    class Missing(Exception):
        pass

    def fail() -> httpx2.AsyncBaseTransport:
        raise Missing

    async with Claude.open(
        Limits(DEADLINE_S, DEADLINE_S, DEADLINE_S), api_key="k", base_url=far.url, make_transport=fail
    ) as claude:
        for _ in range(2):
            with pytest.raises(Missing):
                await _ask(claude)


async def test_a_reply_is_heard_in_the_calls_that_receive_it(far: FarEnd, claude: Claude) -> None:
    """No task is woken for a token. Should a release of the SDK or aiohttp no longer let us, every reply still comes,
    and costs more.
    """
    tasks: list[object] = []
    gate = far.hold(["one", "two", "three"])

    def take(events: list[Event]) -> None:
        if _text(events):
            tasks.append(asyncio.current_task())
        gate.release(1)

    gate.release(1)
    await claude.stream_reply(PROMPT, take)
    assert tasks[1:] == [None, None], "the first may have come with the head"


async def test_a_reply_that_came_with_its_head_is_whole(far: FarEnd, claude: Claude) -> None:
    """However much of it waits by the time it is listened to: aiohttp holds back what is more than it keeps."""
    pieces = ["many words " * 9_000] * 40
    far.script(Reply(pieces))
    assert _text(await _ask(claude)) == "".join(pieces)


async def test_what_a_reply_logs_is_its_own(far: FarEnd, claude: Claude) -> None:
    """Its events come in the context of who asked, not of who opened the connection that both used."""
    asker = contextvars.ContextVar("asker", default="nobody")
    for name in ("first", "second"):
        heard: list[str] = []
        gate = far.hold(["one", "two"])

        def take(events: list[Event], gate: Gate = gate, heard: list[str] = heard) -> None:
            heard.append(asker.get())
            gate.release(1)

        asker.set(name)
        gate.release(1)
        await claude.stream_reply(PROMPT, take)
        assert set(heard) == {name}
        assert len(heard) > 1


async def test_a_compressed_reply_is_read(far: FarEnd, claude: Claude) -> None:
    """A proxy may compress whatever we say we take."""
    far.script(steps(Head(200, {**STREAM_HEAD.headers, "content-encoding": "gzip"}), gzip.compress(_say("Hel", "lo"))))
    assert _text(await _ask(claude)) == "Hello"


async def test_leaving_a_reply_closes_the_connection(far: FarEnd, claude: Claude) -> None:
    """What takes the events may refuse them; Claude is then no longer paid for a reply that nobody hears."""

    class Enough(Exception):
        pass

    def refuse(events: list[Event]) -> None:
        if _text(events):
            raise Enough

    far.hold(["one", "two"]).release(1)
    with pytest.raises(Enough):
        await claude.stream_reply(PROMPT, refuse)
    await far.left(1)


async def test_the_key_is_in_no_exception() -> None:
    """Not even in a chained one: a transport that fails quotes nothing."""

    class Broken(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            raise httpx2.ConnectError("cannot connect", request=request)

    async with Claude.open(Limits(1, 1, 1), api_key="sk-ant-hidden", make_transport=Broken) as claude:
        with pytest.raises(UpstreamBroken) as caught:
            await _ask(claude)
    cause: BaseException | None = caught.value
    while cause is not None:
        assert "sk-ant-hidden" not in str(cause) + repr(cause)
        cause = cause.__cause__ or cause.__context__
