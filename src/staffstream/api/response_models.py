"""The JSON that the server sends, as typed dictionaries: answers are made by them, and /openapi.json describes them."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from staffstream.domain import MessageStatus, MessageType, Mode, Role, RunState
from staffstream.storage.jobs import JobKind, JobState

Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Usage = Annotated[dict[str, Any], Field(description="Token counts by name, as Claude reports them.")]


_exactly = with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))


@_exactly
class Health(TypedDict):
    """The process runs."""

    status: Literal["ok"]


@_exactly
class Readiness(TypedDict):
    """Whether requests can be served, check by check; a check that fails says how."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]


@_exactly
class Mistake(TypedDict):
    """What is wrong at one place of a body or query."""

    pointer: str
    """RFC 6901."""
    detail: str


class Problem(TypedDict):
    """RFC 9457. Further members name what the problem is about, such as `run_id`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    """What a program should look at."""
    retryable: bool
    request_id: str
    """Finds the details in the server's log."""
    errors: NotRequired[list[Mistake]]


@_exactly
class Staff(TypedDict):
    """An AI persona. A null model, budget or output limit means the server's own."""

    id: Id
    name: str
    role: str
    persona: str
    model: str | None
    context_budget_tokens: int | None
    max_output_tokens: int | None
    webhook_url: str | None
    webhook_disabled_at: Time | None
    """Since when nothing is delivered, because the receiver answered 410."""
    memory_enabled: bool
    created_at: Time
    updated_at: Time


@_exactly
class NewStaffResponse(Staff):
    """A staff member, with its webhook secret for the only time."""

    webhook_secret: str


@_exactly
class FeedbackGiven(TypedDict):
    """What the user thought of a reply."""

    rating: Literal[1, -1]
    comment: str | None


@_exactly
class Message(TypedDict):
    """One finished turn of one side; what it does not have is absent."""

    id: Id
    staff_id: Id
    conversation_id: Id
    message_type: MessageType
    content: str
    status: MessageStatus
    created_at: Time
    reply_to: NotRequired[Id]
    model: NotRequired[str]
    stop_reason: NotRequired[str]
    usage: NotRequired[Usage]
    feedback: NotRequired[FeedbackGiven]


@_exactly
class Accepted(TypedDict):
    """A question that will be answered."""

    message_id: Id
    """The question's; the reply's will be run_id."""
    run_id: Id
    conversation_id: Id
    status: Literal["queued"]


@_exactly
class Failure(TypedDict):
    """Why a run failed."""

    code: str
    detail: str
    retryable: bool


@_exactly
class Run(TypedDict):
    """The making of one reply; `cursor` goes with `partial_text`."""

    id: Id
    staff_id: Id
    conversation_id: Id
    user_message_id: Id
    mode: Mode
    state: RunState
    partial_text: str
    cursor: int
    message_id: Id | None
    created_at: Time
    building_at: Time | None
    streaming_at: Time | None
    first_token_at: Time | None
    finished_at: Time | None
    error: NotRequired[Failure]
    model: NotRequired[str]
    stop_reason: NotRequired[str]
    usage: NotRequired[Usage]


@_exactly
class Conversation(TypedDict):
    """A thread of messages."""

    id: Id
    staff_id: Id
    title: str
    user_name: str
    is_default: bool
    created_at: Time
    updated_at: Time


@_exactly
class NewConversationResponse(Conversation):
    """A conversation, with the ids of the messages that were imported, in order."""

    message_ids: list[Id]


@_exactly
class Memory(TypedDict):
    """Something remembered, true from `valid_from` to `valid_to`."""

    id: Id
    kind: Literal["fact", "episode"]
    text: str
    subject: str | None
    predicate: str | None
    object: str | None
    category: str | None
    quote: str | None
    importance: float
    pinned: bool
    states_relation: bool
    speaker: str
    conversation_id: Id | None
    source_message_id: Id | None
    occurred_at: Time
    valid_from: Time
    valid_to: Time | None
    superseded_by: Id | None
    reinforced_at: Time | None
    reinforcements: int
    deleted_at: Time | None
    created_at: Time
    score: NotRequired[float]
    """Of a search: best first."""


@_exactly
class MemoryWhole(Memory):
    """A memory with every form it has had, oldest first, and the message it came from."""

    history: list[Memory]
    source_message: Message | None


@_exactly
class Node(TypedDict):
    """An entity with all its names, folded."""

    id: Id
    name: str
    type: str
    aliases: list[str]


@_exactly
class RequestBoundary(TypedDict):
    """A relation between two nodes."""

    id: Id
    source: Id
    target: Id
    predicate: str
    text: str
    valid_from: Time
    valid_to: Time | None
    memory_id: Id | None
    source_message_id: Id | None


@_exactly
class Graph(TypedDict):
    """Entities and what is known between them."""

    nodes: list[Node]
    edges: list[RequestBoundary]


@_exactly
class Section(TypedDict):
    """A part of a prompt."""

    name: Literal["persona", "summary", "recent_turns", "memories", "graph", "question"]
    tokens: int
    items: list[dict[str, Any]]


@_exactly
class Context(TypedDict):
    """What a reply was built from, and what was left out and why. Tokens are Claude's, by estimate."""

    model: str
    budget_tokens: int
    total_tokens: int
    token_ratio: float
    sections: list[Section]
    dropped: list[dict[str, Any]]
    notes: list[str]


@_exactly
class ModeResponse(TypedDict):
    """Which mode a user's client is to take, and the path to post messages to."""

    mode: Mode
    path: str


@_exactly
class Attempt(TypedDict):
    """One try at delivering; `status` is the receiver's, `error` a code of ours."""

    number: int
    started_at: Time
    duration_ms: int
    status: int | None
    error: str | None


@_exactly
class Delivery(TypedDict):
    """One event for one URL; the id is the `webhook-id` of every attempt."""

    id: Id
    staff_id: Id
    run_id: Id
    event: Literal["message.completed", "message.failed"]
    url: str
    state: Literal["pending", "delivered", "failed"]
    created_at: Time
    delivered_at: Time | None
    next_attempt_at: Time | None
    attempts: list[Attempt]


@_exactly
class DeliveryWhole(Delivery):
    """A delivery with the body as it is sent."""

    body: str


@_exactly
class Job(TypedDict):
    """A piece of background work."""

    id: Id
    kind: JobKind
    subject: str
    state: JobState
    attempts: int
    due_at: Time | None
    last_error: str | None
    created_at: Time


@_exactly
class Key(TypedDict):
    """An API key without its secret."""

    id: Id
    name: str
    user_id: str
    role: Role
    prefix: str
    created_at: Time
    last_used_at: Time | None
    revoked_at: Time | None


@_exactly
class NewKeyResponse(Key):
    """An API key, with its text for the only time."""

    key: str


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@_exactly
class TokenEvent(TypedDict):
    """The next piece of the reply. Its frame has an `id:` line, `<run_id>:<cursor>`."""

    type: Literal["token"]
    content: str


@_exactly
class DoneEvent(TypedDict):
    """The reply is whole and saved, or was cancelled; `message_id` is null if nothing had been said."""

    type: Literal["done"]
    message_id: Id | None
    stop_reason: str | None
    usage: Usage | None
    cancelled: NotRequired[bool]


@_exactly
class ErrorEvent(TypedDict):
    """The reply failed; `message_id` names what is saved of it."""

    type: Literal["error"]
    detail: str
    code: str
    retryable: bool
    message_id: Id | None


@_exactly
class StatusEvent(TypedDict):
    """How far it is; only with `?events=status`."""

    type: Literal["status"]
    phase: Literal["building", "thinking", "responding"]
    elapsed_ms: int
    tokens: int


@_exactly
class RunEnd(TypedDict):
    """How a run ended."""

    run_id: Id
    message_id: Id | None
    staff_id: Id
    conversation_id: Id
    in_reply_to: Id
    status: Literal["complete", "cancelled", "interrupted"]
    content: NotRequired[str]
    error: NotRequired[Failure]


@_exactly
class WebhookEvent(TypedDict):
    """What is sent to a webhook, signed as Standard Webhooks has it."""

    type: Literal["message.completed", "message.failed"]
    timestamp: Time
    data: RunEnd
