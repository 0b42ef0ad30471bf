"""The relay as most people write it: FastAPI, sse-starlette, the SDK's `messages.stream()`, under uvicorn.

It keeps nothing: no conversation, no run to join, no partial text. Run with `uvicorn bench.peers.fastapi_sse:app`.
"""

import json
from collections.abc import AsyncIterator

import anthropic
from fastapi import FastAPI
from pydantic import BaseModel
from sse_starlette import EventSourceResponse

app = FastAPI()
client = anthropic.AsyncAnthropic(max_retries=0)


class NewMessage(BaseModel):
    content: str


@app.post("/messages/stream")
async def stream(message: NewMessage) -> EventSourceResponse:
    """Ask Claude, and relay its text as it comes."""
    return EventSourceResponse(relay(message.content))


async def relay(content: str) -> AsyncIterator[dict[str, str]]:
    """The events of one reply."""
    async with client.messages.stream(
        model="claude-sonnet-5-5", max_tokens=4096, messages=[{"role": "user", "content": content}]
    ) as reply:
        async for text in reply.text_stream:
            yield {"data": json.dumps({"type": "token", "content": text})}
        message = await reply.get_final_message()
    yield {"data": json.dumps({"type": "done", "message_id": message.id})}
