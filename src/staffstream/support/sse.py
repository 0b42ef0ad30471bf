"""Events to bytes: the WHATWG event-stream format, in the form that the simplest client can parse.

Each event is one `data: ` line with LF, and a blank line. U+0085, U+2028 and U+2029 are escaped in the JSON: many
clients (httpx's `iter_lines` among them) treat them as line ends and would split the event.
"""

from typing import Any

import orjson

from staffstream.domain import clean_text

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


def encode_event(value: Any) -> bytes:
    """A frame with the value as JSON."""
    return b"data: %s\n\n" % encode_json(value)
