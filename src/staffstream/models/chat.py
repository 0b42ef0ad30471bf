"""What we ask of a chat model, in words of no provider: a prompt made of blocks, the events of a reply, and the
protocol `ChatModel`. `claude.py` is the one implementation; tests and hosts may bring another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

# ── the prompt ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Text:
    """Text of a prompt. `cache_point` says that the prompt up to and with this block is likely to come again."""

    text: str
    cache_point: bool = False


Block = Text
"""One part of a message. Images, files and tool calls become further members of this union."""


PromptRole = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """What one side says: at least one block."""

    role: PromptRole
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request for a reply. The user speaks first and last, and roles alternate."""

    model: str
    max_tokens: int
    system: Sequence[Block]
    messages: Sequence[PromptMessage]
    thinking_tokens: int | None = None  # within max_tokens; None: it does not think first


# ── the reply ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Started:
    """The provider has taken the request, and says which model answers."""

    model: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """A sign of life that is no text of the reply: a piece of what the model thinks first, or, without text, a tool
    call or a block of an unknown kind.
    """

    text: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The reply is whole. `usage` holds token counts by name."""

    stop_reason: str | None
    usage: dict[str, int]


Event = str | Started | Thinking | Finished
"""A `str` is text for the user."""

OnEvents = Callable[[list[Event]], None]
"""Takes the events that one chunk of the network brought."""


@dataclass(frozen=True, slots=True)
class JsonAnswer:
    """What a request for JSON got: the value, the model that gave it, and token counts by name."""

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
    """A provider of chat models. Whoever makes one closes it."""

    async def stream_reply(self, prompt: Prompt, on_events: OnEvents) -> None:
        """Ask for a reply and hand every batch of its events to `on_events` as it arrives: `Started` first,
        `Finished` last.

        Returns after `Finished`. Raises an UpstreamError for every other end, UpstreamTimeout when no content came for
        too long. What `on_events` raises passes through.
        """
        ...

    async def ask_json(
        self, *, model: str, system: str, question: str, schema: dict[str, Any], max_tokens: int
    ) -> JsonAnswer:
        """Ask for JSON that the schema describes; its shape is not checked here.

        Raises an UpstreamError; UpstreamUnfinished when the answer was refused or did not fit into `max_tokens`.
        """
        ...

    def warm_up(self) -> None:
        """Begin to load what the first request needs."""
        ...

    def is_ready(self) -> bool:
        """Whether a request begins at once, or it is known that it fails: then it says why."""
        ...

    async def wait_ready(self) -> None:
        """Return once `is_ready` holds."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...
