"""What the model thinks before its reply: shown as reasoning where a dialect has words for it, and never stored."""

from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from staffstream.models.offline.wire import encode_event
from tests.dialects.node_client import run_chat, tell_all
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Reply, Request, Step
from tests.tools.server import Api

pytestmark = pytest.mark.anyio

THOUGHT = ["Bees,", " \u2028then honey."]


def think(request: Request) -> Iterator[Step]:
    """A reply whose first block is thinking."""
    steps = iter(Reply(["So", " it is."])(request))
    yield next(steps)
    start = next(steps)
    assert isinstance(start, bytes)
    head, _, rest = start.partition(b"event: content_block_start")
    yield head
    block: dict[str, Any] = {"type": "thinking", "thinking": "", "signature": ""}
    yield encode_event({"type": "content_block_start", "index": 0, "content_block": block})
    for text in THOUGHT:
        delta = {"type": "thinking_delta", "thinking": text}
        yield encode_event({"type": "content_block_delta", "index": 0, "delta": delta})
    yield encode_event({"type": "content_block_stop", "index": 0})
    yield b"event: content_block_start" + rest
    yield from steps


@pytest.fixture
async def ada(api: Api, provider: ScriptedProvider) -> str:
    """A staff member who thinks first."""
    provider.default = think
    return await api.make_staff(thinking_budget_tokens=2048)


async def test_claude_is_asked_to_think_and_it_is_an_opt_in_event_of_ours(
    api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """It has no cursor, and is in no message and no memory."""
    url = f"/staff/{ada}/messages/stream"
    shown = (await api.http.post(url, json={"content": "Hi"}, params={"events": "thinking"})).text
    assert [line for line in shown.split("\n") if "thinking" in line] == [
        'data: {"type":"thinking","content":"Bees,"}',
        'data: {"type":"thinking","content":" \\u2028then honey."}',
    ]
    body = provider.chats[-1].body
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert body["max_tokens"] > 2048
    received = await api.ask(ada, "Hi")
    assert received.text == "So it is."
    for path in (f"/staff/{ada}/messages", f"/staff/{ada}/memories", f"/staff/{ada}/runs/{received.run_id}"):
        assert "honey" not in str(await api.get(path))


async def test_reasoning_in_chat_completions(api: Api, ada: str) -> None:
    """Under the name that chat servers read, in a stream and in a whole answer."""
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="unused", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "Hi"}]
        stream = await client.chat.completions.create(model="Ada", messages=messages, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
        thought = [text for delta in deltas if (text := getattr(delta, "reasoning_content", None))]
        assert thought == THOUGHT
        assert "".join(delta.content or "" for delta in deltas) == "So it is."
        whole = await client.chat.completions.create(model="Ada", messages=messages)
        assert whole.choices[0].message.content == "So it is."
        assert whole.choices[0].message.reasoning_content == "".join(THOUGHT)  # type: ignore[attr-defined]


async def test_reasoning_in_librechat(api: Api, ada: str) -> None:
    """Apart from the text."""
    (told,) = await run_chat(api.url, 'tell(await new Chat().send("Hi"))')
    assert (told["reasoning"], told["text"]) == ("".join(THOUGHT), "So it is.")


async def test_a_reasoning_part_in_the_ai_sdk(api: Api, ada: str) -> None:
    """Before the text."""
    code = """
      const chat = open("chat")
      await chat.sendMessage({ text: "Hi" })
      tell(chat.messages[1].parts.filter((part) => part.text).map((part) => [part.type, part.text]))
    """
    (parts,) = await tell_all("ai-sdk", f"{api.url}/api/v1/staff/{ada}/chat", code)
    assert parts == [["reasoning", "".join(THOUGHT)], ["text", "So it is."]]


async def test_a_reasoning_message_in_ag_ui(api: Api, ada: str) -> None:
    """Before the reply."""
    code = """
      const agent = open("thread")
      agent.say("Hi")
      await agent.runAgent()
      tell(agent.messages.map((message) => [message.role, message.content]))
    """
    (messages,) = await tell_all("ag-ui", f"{api.url}/api/v1/staff/{ada}/ag-ui", code)
    assert messages[1:] == [["reasoning", "".join(THOUGHT)], ["assistant", "So it is."]]
