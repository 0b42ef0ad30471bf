"""Claude's provider for the benches: streams the same reply to everyone, as cheaply as it can.

One protocol and one timer a stream and no task, so that a thousand streams at 20 tokens/s leave its core mostly free.
Each stream has a phase of its own: replies that tick together would let a server read fifty sockets in one wake-up,
which no real upstream grants it. With `--stamp` each token is the moment it was sent at, in nanoseconds on the clock
that all processes of a machine share; the first token is the moment at which the request was there. A request's
`max_tokens` shortens its reply, as it does Claude's.
"""

import argparse
import asyncio
import json
import re
import signal
import time
from typing import Any, cast

import uvloop

from bench.processes import raise_file_limit
from staffstream.models.offline.wire import (
    PING,
    STOP_MESSAGE,
    ProviderMessage,
    add_text,
    encode_event,
    finish_message,
    message_body,
    start_block,
    start_message,
    stop_block,
)

GOLDEN = 0.6180339887498949  # its multiples spread evenly over the unit interval, however many there are


def frame(*events: bytes) -> bytes:
    """One HTTP chunk that holds these events."""
    data = b"".join(events)
    return b"%x\r\n%b\r\n" % (len(data), data)


_ANSWER = ProviderMessage("msg_bench", (), {"input_tokens": 20, "output_tokens": 500}, model="claude-sonnet-5-5")
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nrequest-id: req_bench\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_START = _HEAD + frame(encode_event(start_message(_ANSWER)), encode_event(start_block()), encode_event(PING))
_TOKEN = frame(encode_event(add_text("word ")))
_STAMPED = frame(encode_event(add_text("0" * 19 + " "))).replace(b"0" * 19, b"%019d")
_MOST = re.compile(rb'"max_tokens": ?(\d+)')
_END = frame(*map(encode_event, (stop_block(), finish_message(_ANSWER), STOP_MESSAGE))) + b"0\r\n\r\n"


class Feed(asyncio.Protocol):
    """One connection: a request in, a paced reply out, and again."""

    count = 0

    def __init__(self, *, tokens: int, rate: float, stamp: bool, characters: int = 5) -> None:
        self._token = _TOKEN if characters == 5 else frame(encode_event(add_text("word ".ljust(characters, "."))))
        self._tokens = tokens
        self._rate = rate
        self._stamp = stamp
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if is_whole(self._buffer):
            self._begin()

    def _begin(self) -> None:
        arrived_ns = time.monotonic_ns()
        if b'"output_config"' in self._buffer:  # a background job asks for JSON
            self._transport.write(answer_json(self._buffer))
            self._buffer = b""
            return
        asked = _MOST.search(self._buffer)
        self._most = min(self._tokens, int(asked[1])) if asked else self._tokens
        self._buffer = b""
        Feed.count += 1
        self._sent = 0
        self._transport.write(_START + _STAMPED % arrived_ns if self._stamp else _START)
        self._started = self._loop.time() + Feed.count * GOLDEN % 1 / self._rate
        self._timer = self._loop.call_at(self._started, self._tick)

    def _tick(self) -> None:
        self._sent += 1
        self._transport.write(_STAMPED % time.monotonic_ns() if self._stamp else self._token)
        if self._sent < self._most:
            self._timer = self._loop.call_at(self._started + self._sent / self._rate, self._tick)
        else:
            self._transport.write(_END)


def answer_json(request: bytes) -> bytes:
    """A whole answer to a request for structured output: the least value that its schema allows."""
    schema = json.loads(request.partition(b"\r\n\r\n")[2])["output_config"]["format"]["schema"]
    text = json.dumps(_make_least(schema, schema.get("$defs", {})))
    body = json.dumps(
        message_body(ProviderMessage("msg_bench", (text,), {"input_tokens": 20, "output_tokens": 20}))
    ).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _make_least(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return _make_least(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "enum" in schema:
        return schema["enum"][0]
    if options := schema.get("anyOf"):
        return _make_least(options[-1], definitions)
    if schema.get("type") == "object":
        return {name: _make_least(each, definitions) for name, each in schema.get("properties", {}).items()}
    return {"array": [], "string": "", "integer": 0, "number": 0, "boolean": False}.get(schema.get("type", ""))


def is_whole(request: bytes) -> bool:
    """Whether the bytes are a whole request with a content-length."""
    head, found, body = request.partition(b"\r\n\r\n")
    if not found:
        return False
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return len(body) >= int(length)


async def serve(**options: Any) -> None:
    """Serve until SIGTERM; the first line printed is the URL."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: Feed(**options), "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--rate", type=float, default=50, help="tokens a second and stream")
    parser.add_argument("--stamp", action="store_true")
    parser.add_argument("--characters", type=int, default=5, help="of each token")
    options = parser.parse_args()
    raise_file_limit()
    uvloop.run(serve(**vars(options)))


if __name__ == "__main__":
    main()
