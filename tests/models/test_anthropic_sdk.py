"""The SDK over a real socket, as claude.py uses it.

What each fault of the provider does to a reply is in test_faults.py; here it is what these two rooms make of it.
"""

import asyncio
import contextlib
import contextvars
import gzip
import sys
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Any

import aiohttp
import anthropic
import httpx2
import pytest

from staffstream.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)
from staffstream.models import aiohttp_pool
from staffstream.models.anthropic_sdk import find_reader
from staffstream.models.chat import Event, Finished, Prompt, PromptMessage, ProviderTimeouts, Text
from staffstream.models.claude import Claude
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import CASES, ODD, Case
from tests.tools.provider_script import DEADLINE_S, STREAM_HEAD, Gate, Head, Reply, Request, Step, http_error

pytestmark = pytest.mark.anyio

PROMPT = Prompt("claude-test", 100, [], [PromptMessage("user", [Text("Hi")])])


def _open(timeouts: ProviderTimeouts, **options: Any) -> contextlib.aclosing[Claude]:
    return contextlib.aclosing(Claude(timeouts, **options))


@pytest.fixture
async def claude(provider: ScriptedProvider) -> AsyncIterator[Claude]:
    limits = ProviderTimeouts(DEADLINE_S, DEADLINE_S, DEADLINE_S)
    async with _open(limits, api_key="sk-ant-test", base_url=provider.url) as claude:
        yield claude


def _text(events: list[Event]) -> str:
    return "".join(event for event in events if isinstance(event, str))


async def _ask(claude: Claude) -> list[Event]:
    events: list[Event] = []
    await claude.stream_reply(PROMPT, events.extend)
    return events


async def test_the_sdk_sends_what_the_prompt_says(provider: ScriptedProvider, claude: Claude) -> None:
    """Key, version, model, limit, messages and a stream asked for; no empty system."""
    assert _text(await _ask(claude)) == "Hello from the provider."
    (request,) = provider.requests
    assert request.headers["authorization"] == "Bearer sk-ant-test"
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert request.body == {"model": "claude-test", "max_tokens": 100, "messages": messages, "stream": True}
    assert provider.refusals == []


@pytest.mark.parametrize("name", ODD)
async def test_odd_streams(provider: ScriptedProvider, claude: Claude, name: str) -> None:
    """What is odd and yet a reply is one; where either reading will do, it is a whole reply or our own error."""
    case = ODD[name]
    provider.script(case.script)
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
async def test_every_fault_is_one_of_our_errors(provider: ScriptedProvider, name: str) -> None:
    """With what had been said until then, within the limits, and nothing else raised."""
    case = FAULTS[name]
    provider.script(case.script)
    said: list[Event] = []
    patience_s = 1 if case.stalls else DEADLINE_S
    limits = ProviderTimeouts(patience_s, patience_s, patience_s)
    async with _open(limits, api_key="sk-ant-test", base_url=provider.url) as claude:
        with pytest.raises(UpstreamError) as caught:
            await claude.stream_reply(PROMPT, said.extend)
    assert _text(said) == case.text
    assert not any(isinstance(event, Finished) for event in said)
    assert "sk-ant" not in str(caught.value)
    assert provider.url not in caught.value.detail


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
    provider: ScriptedProvider, claude: Claude, status: int, kind: str, error: type[UpstreamError]
) -> None:
    """By the number."""
    provider.script(http_error(status, kind))
    with pytest.raises(error) as caught:
        await _ask(claude)
    assert type(caught.value) is error
    assert len(provider.requests) == 1, "retries are not this room's"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3), ("0.5", 0.5), ("-4", 0), ("soon", None), ("", None), ("nan", None), ("inf", None)],
)
async def test_retry_after_is_read(
    provider: ScriptedProvider, claude: Claude, value: str, seconds: float | None
) -> None:
    """A number of seconds; what is none asks for nothing."""
    provider.script(http_error(429, "rate_limit_error", headers={"retry-after": value}))
    with pytest.raises(UpstreamRateLimited) as caught:
        await _ask(claude)
    assert caught.value.retry_after_s == seconds


async def test_retry_after_may_be_a_date(provider: ScriptedProvider, claude: Claude) -> None:
    """As HTTP allows."""
    provider.script(http_error(529, headers={"retry-after": formatdate(time.time() + 30, usegmt=True)}))
    with pytest.raises(UpstreamOverloaded) as caught:
        await _ask(claude)
    assert caught.value.retry_after_s is not None
    assert 20 < caught.value.retry_after_s <= 30


async def test_no_key_is_followed_elsewhere(provider: ScriptedProvider, claude: Claude) -> None:
    """A redirect is refused: it could carry the key to another host."""
    provider.script(CASES["redirect_302"].script)
    with pytest.raises(UpstreamError):
        await _ask(claude)
    assert len(provider.requests) == 1


async def test_nobody_listening_is_a_broken_connection() -> None:
    """With no address in what is told."""
    async with _open(ProviderTimeouts(1, 1, 1), api_key="k", base_url="http://127.0.0.1:9") as claude:
        with pytest.raises(UpstreamBroken) as caught:
            await _ask(claude)
    assert "127" not in caught.value.detail


async def test_pings_do_not_count_as_content(provider: ScriptedProvider) -> None:
    """A stream that says nothing but ping is silent."""
    provider.script(CASES["stall_with_pings"].script)
    async with _open(ProviderTimeouts(DEADLINE_S, DEADLINE_S, 0.2), api_key="k", base_url=provider.url) as claude:
        with pytest.raises(UpstreamTimeout):
            await _ask(claude)


async def test_a_slow_reply_is_no_silent_one(provider: ScriptedProvider) -> None:
    """Each token starts the count anew; a whole reply may take many times the limit."""
    provider.script(Reply(["a"] * 8, delay_s=0.2))
    async with _open(ProviderTimeouts(DEADLINE_S, DEADLINE_S, 1), api_key="k", base_url=provider.url) as claude:
        assert _text(await _ask(claude)) == "a" * 8


async def test_many_replies_are_made_at_once(provider: ScriptedProvider, claude: Claude) -> None:
    """More than the 100 connections that aiohttp has when nobody asks for another number."""
    gate = Gate()
    provider.default = Reply(["a"], gate=gate)
    asking = [asyncio.create_task(_ask(claude)) for _ in range(120)]
    await provider.arrived(120)
    gate.open()
    assert {_text(events) for events in await asyncio.gather(*asking)} == {"a"}


async def test_the_sdks_transport_lets_us_read_beneath_it(provider: ScriptedProvider) -> None:
    """Should a release of it no longer, every reply still comes, and each token costs a tenth more."""
    http = anthropic.DefaultAioHttpClient()
    async with anthropic.AsyncAnthropic(api_key="k", base_url=provider.url, http_client=http) as client:
        async with client.messages.with_streaming_response.create(
            model="claude-test", max_tokens=1, messages=[{"role": "user", "content": "Hi"}], stream=True
        ) as response:
            assert find_reader(response.http_response) is not None


async def test_the_sdk_is_imported_when_it_is_first_needed(provider: ScriptedProvider) -> None:
    """Importing it takes most of a start: a server takes requests before, and what is asked early waits for it."""
    modules = "sys, staffstream.cli.server, staffstream.cli.main"
    script = f"import {modules}; assert 'anthropic' not in sys.modules; import anthropic"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await process.wait() == 0
    async with _open(ProviderTimeouts(DEADLINE_S, DEADLINE_S, DEADLINE_S), api_key="k", base_url=provider.url) as early:
        asking = [asyncio.create_task(_ask(early)) for _ in range(2)]
        asking[0].cancel()  # whoever waits for it may be cancelled
        assert _text(await asking[1])


async def test_an_import_that_fails_is_tried_again(provider: ScriptedProvider) -> None:
    """The SDK may be there the next time, and one failure is not to end all replies of a server."""

    class Missing(Exception):
        pass

    def fail() -> httpx2.AsyncBaseTransport:
        raise Missing

    async with _open(
        ProviderTimeouts(DEADLINE_S, DEADLINE_S, DEADLINE_S), api_key="k", base_url=provider.url, make_transport=fail
    ) as claude:
        for _ in range(2):
            with pytest.raises(Missing):
                await _ask(claude)


async def test_a_reply_is_heard_in_the_calls_that_receive_it(provider: ScriptedProvider, claude: Claude) -> None:
    """No task is woken for a token. Should a release of the SDK or aiohttp no longer let us, every reply still comes,
    and costs more.
    """
    tasks: list[object] = []
    gate = provider.hold(["one", "two", "three"])

    def take(events: list[Event]) -> None:
        if _text(events):
            tasks.append(asyncio.current_task())
        gate.release(1)

    gate.release(1)
    await claude.stream_reply(PROMPT, take)
    assert tasks[1:] == [None, None], "the first may have come with the head"


async def test_a_reply_that_came_with_its_head_is_whole(provider: ScriptedProvider, claude: Claude) -> None:
    """However much of it waits by the time it is listened to: aiohttp holds back what is more than it keeps."""
    pieces = ["many words " * 9_000] * 40
    provider.script(Reply(pieces))
    assert _text(await _ask(claude)) == "".join(pieces)


async def test_what_a_reply_logs_is_its_own(provider: ScriptedProvider, claude: Claude) -> None:
    """Its events come in the context of who asked, not of who opened the connection that both used."""
    asker = contextvars.ContextVar("asker", default="nobody")
    for name in ("first", "second"):
        received: list[str] = []
        gate = provider.hold(["one", "two"])

        def take(events: list[Event], gate: Gate = gate, received: list[str] = received) -> None:
            received.append(asker.get())
            gate.release(1)

        asker.set(name)
        gate.release(1)
        await claude.stream_reply(PROMPT, take)
        assert set(received) == {name}
        assert len(received) > 1


async def test_a_compressed_reply_is_read(provider: ScriptedProvider, claude: Claude) -> None:
    """A proxy may compress whatever we say we take."""
    head = Head(200, {**STREAM_HEAD.headers, "content-encoding": "gzip"})

    def answer(request: Request) -> list[Step]:
        plain = b"".join(step for step in Reply(("Hel", "lo"))(request) if isinstance(step, bytes))
        return [head, gzip.compress(plain)]

    provider.script(answer)
    assert _text(await _ask(claude)) == "Hello"


async def test_leaving_a_reply_closes_the_connection(provider: ScriptedProvider, claude: Claude) -> None:
    """What takes the events may refuse them; Claude is then no longer paid for a reply that nobody hears."""

    class Enough(Exception):
        pass

    def refuse(events: list[Event]) -> None:
        if _text(events):
            raise Enough

    provider.hold(["one", "two"]).release(1)
    with pytest.raises(Enough):
        await claude.stream_reply(PROMPT, refuse)
    await provider.left(1)


async def test_the_key_is_in_no_exception() -> None:
    """Not even in a chained one: a transport that fails quotes nothing."""

    class Broken(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            raise httpx2.ConnectError("cannot connect", request=request)

    async with _open(ProviderTimeouts(1, 1, 1), api_key="sk-ant-hidden", make_transport=Broken) as claude:
        with pytest.raises(UpstreamBroken) as caught:
            await _ask(claude)
    cause: BaseException | None = caught.value
    while cause is not None:
        assert "sk-ant-hidden" not in str(cause) + repr(cause)
        cause = cause.__cause__ or cause.__context__


_STREAMED = Request(1, "POST", "/v1/messages", {}, b"", body={"stream": True, "model": "claude-test"})
_EVENTS = b"".join(step for step in Reply(["another user's text"])(_STREAMED) if isinstance(step, bytes))
_UNASKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(_EVENTS) + _EVENTS


@pytest.mark.parametrize("turns", [0, 50], ids=["unread", "read"])
@pytest.mark.parametrize("size", [len(_UNASKED), 20, 1], ids=["whole", "half a head", "a byte"])
async def test_what_was_sent_unasked_answers_nobody(
    provider: ScriptedProvider, claude: Claude, turns: int, size: int
) -> None:
    """A connection that received anything while idle is closed: it would be the next request's answer, another user's
    (aiohttp#13656). Whether the loop has read it or it still lies in the kernel.
    """
    assert _text(await _ask(claude)) == "Hello from the provider."
    provider.send_unasked(_UNASKED[:size])
    for _ in range(turns):
        await asyncio.sleep(0)
    provider.script(Reply(["mine"]))
    assert _text(await _ask(claude)) == "mine"


async def test_a_connection_is_used_again(provider: ScriptedProvider, claude: Claude) -> None:
    """Where nothing came unasked."""
    for _ in range(3):
        await _ask(claude)
    assert len({request.connection for request in provider.requests}) == 1


async def test_a_connection_that_cannot_be_watched_is_used_once(
    provider: ScriptedProvider, claude: Claude, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another release of aiohttp may make its connections elsewhere: then none is kept."""
    monkeypatch.setattr(aiohttp_pool.WatchedConnector, "__init__", aiohttp.TCPConnector.__init__)
    for _ in range(2):
        assert _text(await _ask(claude)) == "Hello from the provider."
    assert len({request.connection for request in provider.requests}) == 2
