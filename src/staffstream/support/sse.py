"""Events to bytes: the WHATWG event-stream format, in the form that the simplest client can parse.

Each event is one `data: ` line with LF, and a blank line. U+0085, U+2028 and U+2029 are escaped in the JSON: many
clients (httpx's `iter_lines` among them) treat them as line ends and would split the event.
"""

from typing import Any

import orjson

from staffstream.domain import RunFailure, clean_text

PING = b": ping\n\n"

HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


def encode_json(value: Any) -> bytes:
    """The value as UTF-8 JSON without any Unicode line end. Lone surrogates become U+FFFD."""
    try:
        data = orjson.dumps(value)
    except TypeError:
        data = orjson.dumps(_clean(value))
    if data.isascii():
        return data
    return (
        data.replace(b"\xc2\x85", b"\\u0085").replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    )


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def encode_token(run_id: str, cursor: int, text: str) -> bytes:
    """A token frame. `cursor` is the number of the reply's characters, this text included."""
    return b"id: %s:%d\ndata: %s\n\n" % (
        run_id.encode(),
        cursor,
        encode_json({"type": "token", "content": text}),
    )


def encode_done(
    message_id: str | None,
    *,
    stop_reason: str | None,
    usage: dict[str, Any] | None,
    cancelled: bool = False,
) -> bytes:
    """The last frame of a reply that is done or cancelled."""
    event: dict[str, Any] = {
        "type": "done",
        "message_id": message_id,
        "stop_reason": stop_reason,
        "usage": usage,
    }
    if cancelled:
        event["cancelled"] = True
    return b"data: %s\n\n" % encode_json(event)


def encode_error(failure: RunFailure, message_id: str | None) -> bytes:
    """The last frame of a failed reply. `message_id` is the id of the saved partial text, None without one."""
    event = {
        "type": "error",
        "detail": failure.detail,
        "code": failure.code,
        "retryable": failure.retryable,
        "message_id": message_id,
    }
    return b"data: %s\n\n" % encode_json(event)


def encode_status(phase: str, *, elapsed_ms: int, tokens: int) -> bytes:
    """A progress frame, sent only on request. `tokens` is the number of text chunks so far."""
    return b"data: %s\n\n" % encode_json({"type": "status", "phase": phase, "elapsed_ms": elapsed_ms, "tokens": tokens})
