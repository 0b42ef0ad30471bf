"""Parser of the Messages API's event stream: bytes in, events out, no I/O.

This module parses the few events that make a reply. That costs less than half of building the SDK's event objects
(bench/relay.py), and every broken stream becomes one of our own errors. A reply is finished only after
`message_stop`: the SDK raises nothing when the provider ends the stream without it.
"""

import json
import logging
from typing import Any

import orjson

from staffstream.domain import clean_text
from staffstream.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamIncomplete,
    UpstreamKeyRefused,
    UpstreamMalformed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)
from staffstream.models.chat import Event, Finished, Started, Thinking
from staffstream.models.event_blocks import BlockReader
from staffstream.support.logs import show_name

log = logging.getLogger(__name__)

_MAX_EVENT_BYTES = 2 * 1024 * 1024  # a delta has a few words; the longest whole reply has less than 1 MB


class EventReader:
    """Turns the bytes of one Messages stream into events; no I/O. `failure` is the error that made the stream useless,
    None so far.
    """

    def __init__(self) -> None:
        self.started = False
        self.finished = False
        self.model = ""
        self.failure: UpstreamError | None = None
        self._blocks = BlockReader()
        self.stop_reason: str | None = None
        self.usage: dict[str, int] = {}
        self._half = ""  # a high surrogate; its low surrogate is expected in the next delta

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Events after `message_stop` or after an error are dropped; text before
        an error in the same chunk is returned.
        """
        events: list[Event] = []
        try:
            for block in self._blocks.feed(data):
                if self.finished or self.failure:
                    break
                payload = _read_data(block)
                if payload and (event := self._read_event(payload)) is not None:
                    events.append(event)
            if self._blocks.pending_bytes > _MAX_EVENT_BYTES:
                raise UpstreamMalformed("An event of Claude's reply is larger than 2 MB. Try again.")
        except UpstreamError as error:
            self.failure = error
        return events

    def end(self) -> None:
        """Call at the end of the body. Raises the error of the stream; UpstreamIncomplete without `message_stop`."""
        if self.failure:
            raise self.failure
        if not self.finished:
            raise UpstreamIncomplete

    def _read_event(self, payload: bytes) -> Event | None:
        event = _load_object(payload)
        kind = event.get("type")
        if kind == "content_block_delta":
            return self._read_delta(event)
        if kind == "message_start":
            return self._read_start(event)
        if kind == "message_delta":
            self.stop_reason = _as_text(_as_object(event.get("delta")).get("stop_reason")) or self.stop_reason
            self._read_message_usage(event.get("usage"))
        elif kind == "message_stop":
            if not self.started:
                raise UpstreamMalformed
            self.finished = True
            return Finished(self.stop_reason, self.usage)
        elif kind == "error":
            raise _read_error(event)
        elif kind == "content_block_start" and self.started:
            block = _as_object(event.get("content_block"))
            return (_as_text(block.get("text")) or None) if block.get("type") == "text" else Thinking()
        return None

    def _read_start(self, event: dict[str, Any]) -> Event | None:
        message = _as_object(event.get("message"))
        self._read_message_usage(message.get("usage"))
        if self.started:
            return None
        self.started = True
        self.model = _as_text(message.get("model"))
        return Started(self.model)

    def _read_delta(self, event: dict[str, Any]) -> Event | None:
        if not self.started:
            raise UpstreamMalformed
        delta = event.get("delta")
        if not isinstance(delta, dict):
            raise UpstreamMalformed
        if delta.get("type") != "text_delta":
            return Thinking(_as_text(delta.get("thinking")) if delta.get("type") == "thinking_delta" else "")
        text = delta.get("text")
        if text is None or text == "":  # no content, so the silence goes on
            return None
        if not isinstance(text, str):
            raise UpstreamMalformed
        return text if text.isascii() and not self._half else self._join_halves(text)

    def _join_halves(self, text: str) -> str | None:
        """Join a surrogate pair that was split over two deltas; a lone surrogate becomes U+FFFD."""
        text = self._half + text
        self._half = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return clean_text(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")) or None

    def _read_message_usage(self, usage: object) -> None:
        """Later counts replace earlier ones: the API's are cumulative."""
        self.usage |= read_usage(usage)


def _read_data(block: bytes) -> bytes:
    """The data of one event block. The `event:` line is ignored: the JSON holds the same name."""
    start = block.find(b"data:")
    if start >= 0 and block.find(b"\n", start) < 0 and (start == 0 or block[start - 1] == 10):
        return block[start + 5 :]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def _load_object(payload: bytes) -> dict[str, Any]:
    event = load_json(payload)
    if not isinstance(event, dict):
        raise UpstreamMalformed
    return event


def load_json(payload: bytes) -> Any:
    """The value that JSON text holds. Raises UpstreamMalformed."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return _load_leniently(payload)  # orjson refuses lone surrogates


def _load_leniently(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise UpstreamMalformed from error


def _as_object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def read_usage(usage: object) -> dict[str, int]:
    """The token counts of a usage object, by name."""
    return {
        name: value
        for name, value in _as_object(usage).items()
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    }


def _as_text(value: object) -> str:
    return clean_text(value) if isinstance(value, str) else ""


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_BY_TYPE: dict[str, type[UpstreamError]] = {
    "authentication_error": UpstreamKeyRefused,
    "permission_error": UpstreamKeyRefused,
    "billing_error": UpstreamKeyRefused,
    "rate_limit_error": UpstreamRateLimited,
    "overloaded_error": UpstreamOverloaded,
    "timeout_error": UpstreamTimeout,
    "api_error": UpstreamBroken,
}


def _read_error(event: dict[str, Any]) -> UpstreamError:
    kind = _as_text(_as_object(event.get("error")).get("type"))
    log.warning("Claude ended the reply with an error: %s", show_name(kind))
    return _BY_TYPE.get(kind, UpstreamRefused if kind.endswith("_error") else UpstreamBroken)()
