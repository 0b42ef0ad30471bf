"""The floor: Claude's bytes passed through untouched, on our own server and with our own shortcuts.

What ours costs above this is what it does with a token: read it, keep it, frame it, and let others join.
"""

import asyncio
import json
import socket

import anthropic
import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from staffstream.api.event_stream import WRITER
from staffstream.cli.chunk_writer import offer_writer
from staffstream.models.anthropic_sdk import find_reader

client = anthropic.AsyncAnthropic(max_retries=0, http_client=anthropic.DefaultAioHttpClient())


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Any POST."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    offer_writer(scope, send)
    write = scope["extensions"][WRITER].write
    question = json.loads(await Request(scope, receive).body())["content"]
    async with client.messages.with_streaming_response.create(
        model="claude-sonnet-5-5", max_tokens=4096, messages=[{"role": "user", "content": question}], stream=True
    ) as response:
        reader = find_reader(response.http_response)
        assert reader is not None
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while data := await reader.readany():
            await write(data)
    await send({"type": "http.response.body", "body": b""})


async def main() -> None:
    """Serve on a free port; the first line printed is the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = Config()
        config.bind = [f"fd://{listener.detach()}"]

    async def tell() -> None:
        print(url, flush=True)
        await asyncio.Event().wait()

    await serve(app, config, shutdown_trigger=tell)  # type: ignore[arg-type]


if __name__ == "__main__":
    uvloop.run(main())
