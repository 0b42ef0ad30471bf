"""What a subscriber is sent: the run's log in the protocol of one kind of client.

There is one log and one way to follow it; an encoder turns what the log holds into bytes. Ours is here, those of other
clients are in `api/dialects/`.
"""

from dataclasses import asdict
from typing import Any, Literal, Protocol

from staffstream.domain import RunEnd
from staffstream.support import sse

Phase = Literal["building", "thinking", "responding"]


class Encoder(Protocol):
    """Writes the events of one subscriber's stream.

    Bytes that a subscriber could not take are written again later, so `encode_text` must return the same for the same
    place in the reply. `wants_status` asks for an `encode_status` at each change of phase.
    """

    ping: bytes
    wants_status: bool
    wants_thinking: bool

    def encode_start(self) -> bytes:
        """What opens the stream, before anything of the reply."""

    def encode_thinking(self, start: int, text: str) -> bytes:
        """A piece of what the model thinks first, the `start`th."""

    def encode_text(self, start: int, text: str) -> bytes:
        """A piece of the reply, which begins `start` characters after the reply's beginning."""

    def encode_status(self, phase: Phase, *, elapsed_ms: int, tokens: int) -> bytes:
        """What the run is doing now."""

    def encode_end(self, end: RunEnd) -> bytes:
        """The one end of the stream."""


class RunEncoder:
    """Our own frames, as the contract has them."""

    ping = sse.PING

    def __init__(self, run_id: str, *, wants_status: bool = False, wants_thinking: bool = False) -> None:
        self._run_id = run_id.encode()
        self.wants_status = wants_status
        self.wants_thinking = wants_thinking

    def encode_start(self) -> bytes:
        """Nothing: the first token opens the stream."""
        return b""

    def encode_thinking(self, start: int, text: str) -> bytes:
        """A thinking frame, which has no cursor: it is no part of the reply."""
        return sse.encode_event({"type": "thinking", "content": text})

    def encode_text(self, start: int, text: str) -> bytes:
        """A token frame under the cursor at its end."""
        return b"id: %s:%d\n%s" % (
            self._run_id,
            start + len(text),
            sse.encode_event({"type": "token", "content": text}),
        )

    def encode_status(self, phase: Phase, *, elapsed_ms: int, tokens: int) -> bytes:
        """A status frame."""
        return sse.encode_event({"type": "status", "phase": phase, "elapsed_ms": elapsed_ms, "tokens": tokens})

    def encode_end(self, end: RunEnd) -> bytes:
        """The terminal frame: `error`, or `done`."""
        event: dict[str, Any]
        if end.failure:
            event = {"type": "error"} | asdict(end.failure) | {"message_id": end.message_id}
        else:
            event = {
                "type": "done",
                "message_id": end.message_id,
                "stop_reason": end.stop_reason,
                "usage": end.usage,
            }
            if end.cancelled:
                event["cancelled"] = True
        return sse.encode_event(event)
