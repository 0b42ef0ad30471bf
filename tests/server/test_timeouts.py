"""How long Claude is waited for (connection, first event, silence, the whole), and when it is asked again."""

import asyncio
import contextlib
import email.utils
import itertools
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import pytest

from staffstream.models.offline.wire import add_delta, encode_event, start_block, stop_block
from tests.tools.frames import ReadStream
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import CASES, END, ONE, OPEN, START, TWO
from tests.tools.provider_script import (
    DEADLINE_S,
    PIECES,
    STREAM_HEAD,
    Request,
    Script,
    Stall,
    Step,
    Wait,
    encode_piece,
    http_error,
    steps,
)
from tests.tools.server import Api, serve_here, start_server

pytestmark = pytest.mark.anyio

SAID = "".join(PIECES)
OVERLOADED = http_error(529, "overloaded_error")
THOUGHT = encode_event(add_delta({"type": "thinking_delta", "thinking": "Hmm."}))


@contextlib.asynccontextmanager
async def _hear(
    db: Path, provider: ScriptedProvider, *scripts: Script, **settings: float | str
) -> AsyncIterator[tuple[Api, ReadStream]]:
    """What one question came to, with these answers of Claude and these limits."""
    provider.script(*scripts)
    async with serve_here(db, provider, **settings) as api:
        yield api, await api.ask(await api.make_staff(), "Hi")


@contextlib.contextmanager
def _listen_without_accepting() -> Iterator[str]:
    """An address at which a connection is never made: its queue is full, and the kernel drops what else comes."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_connecting_has_a_limit(db: Path, provider: ScriptedProvider) -> None:
    """An address that does not answer is a timeout, long before the first event is due."""
    with _listen_without_accepting() as url:
        limits = {"connect_timeout_s": 0.3, "first_event_timeout_s": 600, "upstream_retries": 0}
        async with _hear(db, provider, anthropic_base_url=url, **limits) as (_, received):
            assert (received.problem or received.end)["code"] == "upstream_timeout"  # aiohttp may take seconds longer


async def test_a_closed_port_is_a_broken_connection(db: Path, provider: ScriptedProvider) -> None:
    """Nobody listening is a 502 at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    async with _hear(db, provider, anthropic_base_url=url, upstream_retries=0) as (_, received):
        assert (received.status, received.problem["code"]) == (502, "upstream_broken")


@pytest.mark.parametrize("name", ["stall_before_head", "stall_before_start", "stall_with_pings_before_start"])
async def test_the_first_event_has_a_limit(db: Path, provider: ScriptedProvider, name: str) -> None:
    """Neither a status line nor pings count as Claude having accepted."""
    limits = {"first_event_timeout_s": 0.3, "stream_timeout_s": 600, "upstream_retries": 0}
    async with _hear(db, provider, CASES[name].script, **limits) as (_, received):
        assert (received.status, received.problem["code"]) == (504, "upstream_timeout")
        await provider.left(1)


SILENCES: dict[str, Iterable[Step]] = {
    "nothing": [Stall()],
    "pings": [Stall(ping_every_s=0.01)],
    "empty texts": itertools.cycle([encode_piece(""), Wait(0.01)]),
}


@pytest.mark.parametrize("silence", SILENCES)
async def test_silence_within_a_reply_has_a_limit(db: Path, provider: ScriptedProvider, silence: str) -> None:
    """After stream_timeout_s without content the reply fails with what had been said; pings are no content, nor is a
    text that says nothing.
    """

    def script(_: Request) -> Iterable[Step]:
        return itertools.chain([STREAM_HEAD, OPEN, ONE, TWO], SILENCES[silence])

    limits = {"stream_timeout_s": 0.5, "first_event_timeout_s": 600, "run_timeout_s": DEADLINE_S}
    async with _hear(db, provider, script, **limits) as (api, received):
        assert (received.text, received.end["code"]) == ("One two", "upstream_timeout")
        assert received.end["retryable"]
        assert (await api.get(f"/staff/{(await api.get('/staff'))[0]['id']}/messages"))[0]["status"] == "interrupted"
        await provider.left(1)


async def test_steady_content_may_take_as_long_as_it_likes(db: Path, provider: ScriptedProvider) -> None:
    """The limit is on the silence, not on the reply: a slow one is whole, thinking included."""
    thinking = [step for _ in range(12) for step in (Wait(0.1), THOUGHT)]
    talking = [step for _ in range(12) for step in (Wait(0.1), ONE)]
    opening = START + encode_event(start_block(0, {"type": "thinking", "thinking": "", "signature": ""}))
    closing = encode_event(stop_block()) + encode_event(start_block(1))
    script = steps(STREAM_HEAD, opening, *thinking, closing, *talking, END)
    async with _hear(db, provider, script, stream_timeout_s=1.0, first_event_timeout_s=1.0) as (_, received):
        assert (received.text, received.end["type"]) == ("One" * 12, "done")


async def test_a_whole_run_has_a_limit(db: Path, provider: ScriptedProvider) -> None:
    """A reply that goes on for ever is ended after run_timeout_s, its text kept, and Claude is hung up on."""
    async with _hear(db, provider, CASES["never_ends"].script, run_timeout_s=0.5) as (api, received):
        ada = (await api.get("/staff"))[0]["id"]
        assert (received.end["code"], received.end["retryable"]) == ("run_timeout", True)
        assert (await api.messages(ada))[0]["content"] == received.text != ""
        await provider.left(1)


async def test_waiting_between_attempts_counts_towards_the_run(db: Path, provider: ScriptedProvider) -> None:
    """A Retry-After within its cap cannot stretch a run beyond run_timeout_s."""
    limited = http_error(429, "rate_limit_error", headers={"retry-after": "15"})
    async with _hear(db, provider, limited, run_timeout_s=0.3) as (_, received):
        assert (received.status, received.problem["code"]) == (504, "run_timeout")
        assert len(provider.requests) == 1


# ── further attempts ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_transient_failures_before_the_first_token_are_tried_again(db: Path, provider: ScriptedProvider) -> None:
    """Two refusals for the moment, then an answer: the client hears the answer alone."""
    async with _hear(db, provider, OVERLOADED, CASES["close_before_head"].script) as (_, received):
        assert (received.text, received.end["type"]) == (SAID, "done")
        assert [request.body["messages"] for request in provider.requests] == [
            provider.requests[0].body["messages"]
        ] * 3


async def test_an_accepted_reply_that_said_nothing_is_tried_again(db: Path, provider: ScriptedProvider) -> None:
    """Claude's message_start is no token: what breaks after it can still be made good."""
    async with _hear(db, provider, CASES["overloaded_before_text"].script) as (api, received):
        assert (received.text, received.end["type"]) == (SAID, "done")
        run = await api.run((await api.get("/staff"))[0]["id"], received.run_id)
        assert (run["state"], run["partial_text"]) == ("done", SAID)


@pytest.mark.parametrize("name", ["overloaded_mid_stream", "reset_mid_stream", "ends_mid_text"])
async def test_nothing_is_tried_again_after_the_first_token(db: Path, provider: ScriptedProvider, name: str) -> None:
    """A user never reads a beginning twice."""
    async with _hear(db, provider, CASES[name].script) as (_, received):
        assert (received.text, received.end["type"]) == (CASES[name].text, "error")
        assert len(provider.requests) == 1


@pytest.mark.parametrize("name", ["http_400", "http_401", "http_404", "redirect_302"])
async def test_what_will_not_change_is_not_tried_again(db: Path, provider: ScriptedProvider, name: str) -> None:
    """A refusal of the request itself is final."""
    async with _hear(db, provider, CASES[name].script) as (_, received):
        assert (received.status, received.problem["retryable"]) == (502, False)
        assert len(provider.requests) == 1


async def test_attempts_run_out(db: Path, provider: ScriptedProvider) -> None:
    """After upstream_retries further attempts the failure is told."""
    async with _hear(db, provider, OVERLOADED, OVERLOADED, upstream_retries=1) as (_, received):
        assert (received.problem or received.end)["code"] == "upstream_overloaded"
        assert len(provider.requests) == 2


@pytest.mark.parametrize("value", ["1.5", "date"])
async def test_retry_after_is_honoured(db: Path, provider: ScriptedProvider, value: str) -> None:
    """The next attempt comes no sooner than Claude asks, in seconds or as a date."""
    if value == "date":
        value = email.utils.formatdate(time.time() + 3.0, usegmt=True)
    script = http_error(429, "rate_limit_error", headers={"retry-after": value})
    async with _hear(db, provider, script) as (_, received):
        assert received.text == SAID
        first, second = provider.requests
        if value == "1.5":
            assert second.at - first.at > 1.4
        else:
            asked_at = time.time() - (time.monotonic() - second.at)
            assert asked_at > email.utils.parsedate_to_datetime(value).timestamp() - 0.1


async def test_a_long_retry_after_is_not_slept_on(db: Path, provider: ScriptedProvider) -> None:
    """What Claude asks beyond upstream_retry_cap_s is passed on to the client instead."""
    async with _hear(db, provider, CASES["http_429_retry_after_an_hour"].script) as (_, received):
        assert (received.status, received.headers["retry-after"]) == (503, "3600")
        assert len(provider.requests) == 1


async def test_a_small_cap_shortens_our_own_wait(db: Path, provider: ScriptedProvider) -> None:
    """The cap gives up what the provider asks for; without a Retry-After all attempts are made, the later ones too."""
    scripts = (OVERLOADED, OVERLOADED)
    async with _hear(db, provider, *scripts, upstream_retries=2, upstream_retry_cap_s=0.01) as (_, received):
        assert (received.text, received.end["type"]) == (SAID, "done")
        assert provider.requests[2].at - provider.requests[0].at < 1.0


async def test_all_attempts_before_the_first_token_share_one_limit(db: Path, provider: ScriptedProvider) -> None:
    """Three attempts that stay silent take stream_timeout_s together, not each."""
    stalls = [steps(STREAM_HEAD, Stall())] * 3
    limits = {"first_event_timeout_s": 0.6, "stream_timeout_s": 1.5, "upstream_retries": 9}
    started = time.monotonic()
    async with _hear(db, provider, *stalls, **limits) as (_, received):
        assert (received.problem or received.end)["code"] == "upstream_timeout"
        assert len(provider.requests) < 4
    assert time.monotonic() - started < 10


async def test_nonsense_in_retry_after_is_ignored(db: Path, provider: ScriptedProvider) -> None:
    """A header that says nothing is no number that a client or a timer could choke on."""
    async with serve_here(db, provider, upstream_retries=0) as api:
        ada = await api.make_staff()
        for value in ("soon", "nan", "inf", "-inf", "1e999", "1,5", "Mon, 99 Foo 2026"):
            provider.script(http_error(429, "rate_limit_error", headers={"retry-after": value}))
            received = await api.ask(ada, "Hi")
            assert (received.status, received.headers["retry-after"]) == (503, "1"), value


async def test_a_cancel_does_not_wait_for_the_next_attempt(db: Path, provider: ScriptedProvider) -> None:
    """Between two attempts a run ends at once."""
    provider.script(http_error(429, "rate_limit_error", headers={"retry-after": "18"}))
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        async with api.stream(ada, "Hi") as stream_reader:
            async with asyncio.timeout(10):
                assert (await api.cancel(ada, stream_reader.run_id))["state"] == "cancelled"
                received = await stream_reader.rest()
        assert (received.end["cancelled"], received.end["message_id"]) == (True, None)
        assert len(provider.requests) == 1


async def test_a_stopped_process_reads_before_it_judges(db: Path, provider: ScriptedProvider) -> None:
    """SIGSTOP, or a suspended machine, for longer than any limit of a reply: what came meanwhile is its text."""
    gate = provider.hold()
    limits = {"STAFFSTREAM_STREAM_TIMEOUT_S": "5", "STAFFSTREAM_RUN_TIMEOUT_S": "6"}
    async with start_server(db, provider, variables=limits) as server:
        ada = await server.api.make_staff()
        async with server.api.stream(ada, "Hi") as stream_reader:
            gate.release(1)
            await stream_reader.token()
            await server.freeze()
            gate.open()
            await provider.requests[0].answered.wait()
            await asyncio.sleep(7)  # the time that the process is stopped is what is tested
            server.thaw()
            received = await stream_reader.rest()
    assert (received.text, received.end["type"]) == (SAID, "done")
