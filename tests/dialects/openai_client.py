"""OpenAI's own Python client in a few words, for the tests of its dialect."""

from typing import Any

from openai import AsyncOpenAI

from tests.tools.provider import ScriptedProvider
from tests.tools.server import Api


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


async def ask(client: AsyncOpenAI, *messages: dict[str, str], model: str = "Ada", **options: Any) -> tuple[str, str]:
    """A whole answer, and the conversation that it is in."""
    raw = await client.chat.completions.with_raw_response.create(model=model, messages=messages, **options)  # type: ignore[call-overload]
    return raw.parse().choices[0].message.content, raw.headers.get("x-conversation-id")


async def stream(client: AsyncOpenAI, *messages: dict[str, str], **options: Any) -> list[Any]:
    chunks = await client.chat.completions.create(model="Ada", messages=messages, stream=True, **options)  # type: ignore[call-overload]
    return [chunk async for chunk in chunks]


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def count_conversations(api: Api, staff_id: str) -> int:
    return len(await api.get(f"/staff/{staff_id}/conversations"))


def said_to_claude(provider: ScriptedProvider) -> list[tuple[str, str]]:
    """The roles and texts of the last prompt, without what was recalled."""
    found = []
    for message in provider.chats[-1].body["messages"]:
        blocks = message["content"]
        texts = [blocks] if isinstance(blocks, str) else [block["text"] for block in blocks]
        found += [(message["role"], text) for text in texts if not text.startswith(("<recalled>", "<now>"))]
    return found
