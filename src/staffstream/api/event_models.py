"""The events that the server sends, as /openapi.json describes them: of one reply's stream, to webhooks, and of what
changes for a user.
"""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from staffstream import domain
from staffstream.api.response_models import Usage, exactly
from staffstream.api.views import Id, Time, View, make_model
from staffstream.background.events import EventType
from staffstream.replies.encoders import Phase


@exactly
class TokenEvent(TypedDict):
    """The next piece of the reply. Its frame has an `id:` line, `<run_id>:<cursor>`."""

    type: Literal["token"]
    content: str


DONE_EVENT = View(
    "DoneEvent",
    domain.RunEnd,
    "message_id stop_reason usage",
    added={"type": Literal["done"], "cancelled": NotRequired[bool]},
    types={"usage": Usage | None},
    doc="The reply is whole and saved, or was cancelled; `message_id` is null if it had no text.",
)
ERROR_EVENT = View(
    "ErrorEvent",
    domain.RunFailure,
    "detail code retryable",
    added={"type": Literal["error"], "message_id": Id | None},
    doc="The reply failed; `message_id` names what is saved of it.",
)


@exactly
class StatusEvent(TypedDict):
    """How far it is; only with `?events=status`."""

    type: Literal["status"]
    phase: Phase
    elapsed_ms: int
    tokens: int


@exactly
class ThinkingEvent(TypedDict):
    """A piece of what the model thinks before its reply; only with `?events=thinking`, and never saved."""

    type: Literal["thinking"]
    content: str


RUN_END = View(
    "RunEnd",
    domain.Run,
    "message_id staff_id conversation_id",
    added={
        "run_id": Id,
        "in_reply_to": Id,
        "status": domain.MessageStatus,
        "content": NotRequired[str],
        "error": NotRequired[domain.RunFailure],
    },
    doc="How a run ended.",
)
WEBHOOK_EVENT: Any = make_model(
    "WebhookEvent",
    {"type": Literal["message.completed", "message.failed"], "timestamp": Time, "data": RUN_END.model},
    "What is sent to a webhook, signed as Standard Webhooks has it.",
)


@exactly
class LiveEvent(TypedDict):
    """Something that changed for the user. `reset`: events may be missing, so everything has to be asked for again."""

    type: EventType
    staff_id: NotRequired[Id]
    conversation_id: NotRequired[Id | None]
    run_id: NotRequired[Id]
    memory_id: NotRequired[Id]
    source_message_id: NotRequired[Id | None]


EVENTS = (TokenEvent, DONE_EVENT.model, ERROR_EVENT.model, StatusEvent, ThinkingEvent)
