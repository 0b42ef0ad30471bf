"""The interface of a chat model, independent of any provider: a prompt made of blocks, the events of a reply, and the
protocol `ChatModel`. `claude.py` is the one implementation; tests and host apps may pass another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

# ── the prompt ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Text:
    """Text of a prompt. `cache_point`: the prompt up to the end of this block will probably be sent again."""

    text: str
    cache_point: bool = False


Block = Text
"""One part of a message. Images, files and tool calls become further members of this union."""


PromptRole = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """One message of the prompt: at least one block."""

    role: PromptRole
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request for a reply. The first and the last message are the user's, and roles alternate."""

    model: str
    max_tokens: int
    system: Sequence[Block]
    messages: Sequence[PromptMessage]
    thinking_tokens: int | None = None  # part of max_tokens; None: no thinking


# ── the reply ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Started:
    """The provider has begun the reply. `model` is the model that it uses."""

    model: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """Content that is not reply text: a piece of the model's thinking; with empty text, a tool call or a block of an
    unknown kind.
    """

    text: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The reply is complete. `usage` holds token counts by name."""

    stop_reason: str | None
    usage: dict[str, int]


Event = str | Started | Thinking | Finished
"""One event of a reply. A `str` is text for the user."""

OnEvents = Callable[[list[Event]], None]
"""Called with the events of one chunk of the body."""


@dataclass(frozen=True, slots=True)
class JsonAnswer:
    """The answer to a request for JSON: the value, the model that made it, and token counts by name."""

    value: Any
    model: str
    usage: dict[str, int]


@dataclass(frozen=True, slots=True)
class ProviderTimeouts:
    """How long to wait for the provider, in seconds."""

    connect_s: float
    first_event_s: float
    silence_s: float


class ChatModel(Protocol):
    """A provider of chat models. The code that creates one also closes it."""

    async def stream_reply(self, prompt: Prompt, on_events: OnEvents) -> None:
        """Request a reply and pass its events to `on_events` as they arrive: `Started` first, `Finished` last.

        Returns after `Finished`. Raises an UpstreamError in every other case; UpstreamTimeout when no content arrived
        for too long. Exceptions of `on_events` are not caught.
        """
        ...

    async def ask_json(
        self, *, model: str, system: str, question: str, schema: dict[str, Any], max_tokens: int
    ) -> JsonAnswer:
        """Request JSON that fits the schema. The answer is parsed, but not checked against the schema.

        Raises an UpstreamError; UpstreamUnfinished when the answer was refused or did not fit into `max_tokens`.
        """
        ...

    def warm_up(self) -> None:
        """Start loading what the first request needs; returns at once."""
        ...

    def is_ready(self) -> bool:
        """Whether loading has ended. If it failed, the next request raises the error."""
        ...

    async def wait_ready(self) -> None:
        """Return when `is_ready` is true."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...
