"""The Messages API's replies as bytes, for the stand-in and for the scripted provider of the tests. The SDK parses
them, so they are written without the SDK's models.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

MODEL = "staffstream-offline"
STREAM_TYPE = "text/event-stream; charset=utf-8"


@dataclass(frozen=True)
class ProviderMessage:
    """One complete message. `pieces` are its tokens, in order; `usage` holds the API's four counts."""

    message_id: str
    pieces: Sequence[str]
    usage: Mapping[str, Any]
    stop_reason: str = "end_turn"
    stop_sequence: str | None = None
    model: str = MODEL


def encode_event(event: Mapping[str, Any]) -> bytes:
    """One server-sent event. With a lone surrogate, which UTF-8 cannot hold, all non-ASCII characters are escaped."""
    try:
        data = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        data = json.dumps(event, separators=(",", ":")).encode()
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data)


def start_message(answer: ProviderMessage) -> Json:
    """`message_start`: an empty message whose usage is its input and one token of output."""
    message = message_body(answer) | {"content": [], "stop_reason": None, "stop_sequence": None}
    return {"type": "message_start", "message": message | {"usage": {**answer.usage, "output_tokens": 1}}}


def start_block(index: int = 0, block: Mapping[str, Any] | None = None) -> Json:
    """`content_block_start`; a text block unless another is given."""
    shape = {"type": "text", "text": ""} if block is None else dict(block)
    return {"type": "content_block_start", "index": index, "content_block": shape}


def add_text(text: Any, index: int = 0) -> Json:
    """`content_block_delta` with one piece of text."""
    return add_delta({"type": "text_delta", "text": text}, index)


def add_delta(delta: Mapping[str, Any], index: int = 0) -> Json:
    """`content_block_delta` of any type."""
    return {"type": "content_block_delta", "index": index, "delta": dict(delta)}


def stop_block(index: int = 0) -> Json:
    """`content_block_stop`."""
    return {"type": "content_block_stop", "index": index}


def finish_message(answer: ProviderMessage) -> Json:
    """`message_delta`: why it stopped, and the usage so far, cumulative."""
    delta = {"stop_reason": answer.stop_reason, "stop_sequence": answer.stop_sequence}
    return {"type": "message_delta", "delta": delta, "usage": dict(answer.usage)}


STOP_MESSAGE: Json = {"type": "message_stop"}
PING: Json = {"type": "ping"}


def message_body(answer: ProviderMessage) -> Json:
    """The whole message: the response body to a request without `stream`."""
    text = "".join(answer.pieces)
    return {
        "id": answer.message_id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": answer.stop_reason,
        "stop_sequence": answer.stop_sequence,
        "usage": dict(answer.usage),
    }
