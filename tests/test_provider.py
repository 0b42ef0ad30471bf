"""The scripted provider does what it says, seen through the real SDK over a real socket."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import AT_ONCE, BROKEN, CASES, ODD, REFUSED_EARLY, Case
from tests.tools.provider_script import PIECES, Gate, Reply, http_error, json_reply

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["httpx2", "aiohttp"])
async def claude(provider: ScriptedProvider, request: pytest.FixtureRequest) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The SDK, pointed at the provider, on both transports that the product may use."""
    client = anthropic.DefaultAioHttpClient() if request.param == "aiohttp" else httpx2.AsyncClient()
    async with anthropic.AsyncAnthropic(
        api_key="k", base_url=provider.url, max_retries=0, http_client=client, timeout=5
    ) as claude:
        yield claude


PROMPT: dict[str, Any] = {
    "model": "claude-test",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hi"}],
}


@dataclass
class Seen:
    """What the SDK made of one stream."""

    text: str = ""
    stopped: bool = False
    stop_reason: str | None = None
    error: Exception | None = None


async def _read(claude: anthropic.AsyncAnthropic, patience_s: float = 5) -> Seen:
    """Read a stream to its `message_stop`, as much of it as comes."""
    seen = Seen()
    try:
        async with asyncio.timeout(patience_s):
            async with await claude.messages.create(stream=True, **PROMPT) as stream:
                async for event in stream:
                    _note(seen, event)
                    if seen.stopped:
                        break
    except Exception as error:
        seen.error = error
    seen.text = seen.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return seen


def _note(seen: Seen, event: Any) -> None:
    if event.type == "content_block_delta" and event.delta.type == "text_delta":
        seen.text += event.delta.text
    elif event.type == "message_delta":
        seen.stop_reason = event.delta.stop_reason
    elif event.type == "message_stop":
        seen.stopped = True


async def test_replies_in_order_then_by_default(provider: ScriptedProvider, claude: anthropic.AsyncAnthropic) -> None:
    """Each chat takes the next script; when there is none left, the default."""
    provider.script(Reply(["a", "b"]), Reply(["c"], stop_reason="max_tokens"))
    seen = [await _read(claude) for _ in range(3)]
    assert [(each.text, each.stop_reason) for each in seen] == [
        ("ab", "end_turn"),
        ("c", "max_tokens"),
        ("".join(PIECES), "end_turn"),
    ]
    assert all(each.stopped for each in seen)


async def test_whole_messages(provider: ScriptedProvider, claude: anthropic.AsyncAnthropic) -> None:
    """Without `stream` the same script comes as one message."""
    provider.script(Reply(["a", "b"]))
    message = await claude.messages.create(**PROMPT)
    assert (message.content[0].text, message.model) == ("ab", "claude-test")


async def test_requests_are_recorded(provider: ScriptedProvider, claude: anthropic.AsyncAnthropic) -> None:
    """Headers, parsed body and raw bytes of each request can be looked at."""
    await claude.messages.create(**PROMPT)
    request = await provider.arrived(1)
    assert request.body == {**PROMPT}
    assert request.raw.startswith(b"{")
    assert request.headers["anthropic-version"]
    assert request.said == "Hi"


async def test_a_gate_lets_out_one_piece_at_a_time(
    provider: ScriptedProvider, claude: anthropic.AsyncAnthropic
) -> None:
    """What has not been released has not been sent."""
    gate = provider.hold(["a", "b"])
    async with await claude.messages.create(stream=True, **PROMPT) as stream:
        events = aiter(stream)
        assert [(await anext(events)).type for _ in range(2)] == ["message_start", "content_block_start"]
        gate.release()
        assert (await anext(events)).delta.text == "a"
        await gate.passed(1)
        assert provider.requests[0].sent.value == 1
        gate.open()
        assert (await anext(events)).delta.text == "b"
        assert [event.type async for event in events][-1] == "message_stop"
    assert provider.requests[0].answered.is_set()
    assert not provider.requests[0].left.is_set()


async def test_the_status_line_can_be_held(provider: ScriptedProvider, claude: anthropic.AsyncAnthropic) -> None:
    """A head gate keeps the request unanswered."""
    gate = Gate()
    provider.script(Reply(["a"], head_gate=gate))
    reading = asyncio.create_task(_read(claude))
    await provider.arrived(1)
    assert not reading.done()
    gate.release()
    assert (await reading).text == "a"


async def test_a_client_that_leaves_is_noticed(provider: ScriptedProvider, claude: anthropic.AsyncAnthropic) -> None:
    """Hanging up in the middle of a reply ends its script."""
    provider.hold()
    async with await claude.messages.create(stream=True, **PROMPT) as stream:
        await anext(aiter(stream))
    request = await provider.left(1)
    assert not request.answered.is_set()


async def test_refuses_what_the_api_refuses(provider: ScriptedProvider, claude: anthropic.AsyncAnthropic) -> None:
    """A prompt that the API would not take gets its 400, and uses up no script."""
    provider.script(Reply(["kept"]))
    with pytest.raises(anthropic.BadRequestError) as refused:
        await claude.messages.create(**{**PROMPT, "messages": [{"role": "user", "content": " "}]})
    assert refused.value.type == "invalid_request_error"
    assert len(provider.refusals) == 1
    assert (await _read(claude)).text == "kept"


async def test_structured_output_has_scripts_of_its_own(
    provider: ScriptedProvider, claude: anthropic.AsyncAnthropic
) -> None:
    """A background request does not use up a chat's script; unscripted it is answered as by the stand-in."""
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    provider.script(Reply(["chat"]))
    provider.script_structured(json_reply({"n": 7}))
    scripted = await claude.messages.create(output_config=config, **PROMPT)
    default = await claude.messages.create(output_config=config, **PROMPT)
    assert scripted.content[0].text == '{"n": 7}'
    assert isinstance(json.loads(default.content[0].text), dict)
    assert (await _read(claude)).text == "chat"


async def test_a_broken_script_fails_its_test() -> None:
    """What a script raises is raised when the provider closes."""

    def broken(request: object) -> Any:
        raise LookupError("the test is wrong")

    provider = ScriptedProvider(broken)
    await provider.__aenter__()
    async with anthropic.AsyncAnthropic(api_key="k", base_url=provider.url, max_retries=0) as claude:
        with pytest.raises(anthropic.APIConnectionError):
            await claude.messages.create(**PROMPT)
    with pytest.raises(LookupError):
        await provider.__aexit__()


async def test_errors_have_the_shape_of_the_api(provider: ScriptedProvider, claude: anthropic.AsyncAnthropic) -> None:
    """Status, type and headers of an error reach the SDK."""
    provider.script(http_error(429, "rate_limit_error", headers={"retry-after": "7"}))
    with pytest.raises(anthropic.RateLimitError) as limited:
        await claude.messages.create(**PROMPT)
    assert (limited.value.type, limited.value.response.headers["retry-after"]) == ("rate_limit_error", "7")


@pytest.mark.parametrize("name", REFUSED_EARLY)
async def test_fails_before_the_stream(provider: ScriptedProvider, claude: anthropic.AsyncAnthropic, name: str) -> None:
    """No text, and no end, comes from an answer that fails at its head."""
    case = CASES[name]
    provider.script(case.script)
    seen = await _read(claude, 0.3 if case.stalls else 5)
    assert (seen.text, seen.stopped) == ("", False)
    assert case.stalls or not isinstance(seen.error, TimeoutError)


@pytest.mark.parametrize("name", [*BROKEN, *AT_ONCE])
async def test_breaks_where_it_says(provider: ScriptedProvider, claude: anthropic.AsyncAnthropic, name: str) -> None:
    """The text up to the break arrives, and `message_stop` does not."""
    case = CASES[name]
    provider.script(case.script)
    seen = await _read(claude, 0.3 if case.stalls else 5)
    assert not seen.stopped
    assert case.stalls or not isinstance(seen.error, TimeoutError)
    assert seen.text.replace(case.text, "") == "" if case.repeats else seen.text == case.text


@pytest.mark.parametrize("name", [name for name, case in ODD.items() if case.ends])
async def test_odd_replies_are_whole(provider: ScriptedProvider, claude: anthropic.AsyncAnthropic, name: str) -> None:
    """What is odd and yet right arrives whole, with its stop reason."""
    case = CASES[name]
    provider.script(case.script)
    seen = await _read(claude)
    assert seen == Seen(case.text, stopped=True, stop_reason=case.stop_reason)


async def test_every_case_is_told_apart() -> None:
    """No two cases share a name, and each says what is to be made of it."""
    groups = (REFUSED_EARLY, BROKEN, AT_ONCE, ODD)
    assert len(CASES) == sum(len(group) for group in groups)
    assert not any(case.ends for group in groups[:3] for case in group.values())
    assert all(isinstance(case, Case) and case.ends is not False for case in ODD.values())


async def test_runs_as_a_process() -> None:
    """For benches and other processes: it prints where it is, stamps its pieces, and stops when told to."""
    command = [sys.executable, "-m", "tests.tools.provider", "--tokens", "3", "--delay-s", "0", "--stamp"]
    root = Path(__file__).parents[1]
    process = await asyncio.create_subprocess_exec(*command, cwd=root, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    before = time.monotonic_ns()
    async with anthropic.AsyncAnthropic(api_key="k", base_url=url, max_retries=0) as claude:
        seen = await _read(claude)
    process.terminate()
    assert await process.wait() == 0
    stamps = [int(stamp) for stamp in seen.text.split()]
    assert before <= stamps[0] <= stamps[1] <= stamps[2] <= time.monotonic_ns()
