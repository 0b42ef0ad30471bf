"""The stand-in for Claude: a transport under the real SDK. With it the whole product but the model runs without a key
and without a network. Fixed rules make its answers from the context of the request, so the same request always gets the
same answer, and a user can see that memory works. It says so when the context holds no answer.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from itertools import count

import httpx2

from staffstream.models.offline.answers import PromptCache, write_answer
from staffstream.models.offline.wire import (
    PING,
    STOP_MESSAGE,
    STREAM_TYPE,
    ProviderMessage,
    add_text,
    encode_event,
    finish_message,
    message_body,
    start_block,
    start_message,
    stop_block,
)


class StandIn(httpx2.AsyncBaseTransport):
    """Answers every request as `POST /v1/messages` would, streamed or whole. `pace_s` is the time in seconds between
    two streamed words.
    """

    def __init__(self, *, pace_s: float = 0.025) -> None:
        self._pace_s = pace_s
        self._numbers = count(1)
        self._cache = PromptCache()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response to a request of the SDK."""
        raw = await request.aread()
        serial = _make_serial(next(self._numbers), raw)
        prompt = json.loads(raw)
        answer = await asyncio.to_thread(write_answer, prompt, f"msg_{serial}", self._cache)
        headers = {"request-id": f"req_{serial}"}
        if prompt.get("stream"):
            stream = _PacedStream(answer, self._pace_s)
            return httpx2.Response(200, headers=headers | {"content-type": STREAM_TYPE}, stream=stream)
        return httpx2.Response(200, headers=headers, json=message_body(answer))


class _PacedStream(httpx2.AsyncByteStream):
    """The events of one answer, one word at a time. A consumer may stop at any point: nothing has to be closed."""

    def __init__(self, answer: ProviderMessage, pace_s: float) -> None:
        self._answer = answer
        self._pace_s = pace_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield encode_event(start_message(self._answer))
        yield encode_event(start_block()) + encode_event(PING)
        for piece in self._answer.pieces:
            await asyncio.sleep(self._pace_s)
            yield encode_event(add_text(piece))
        yield encode_event(stop_block()) + encode_event(finish_message(self._answer))
        yield encode_event(STOP_MESSAGE)


def _make_serial(number: int, raw: bytes) -> str:
    """A serial number that differs for every request, and is the same when the same requests come again."""
    return "01" + hashlib.sha256(b"%d:" % number + raw).hexdigest()[:22]
