"""The JSON that clients send, as pydantic models, and the domain's values as the JSON that clients get
(response_models.py).
"""

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
)

from staffstream.api import response_models
from staffstream.domain import Conversation, Message, Role, Run, Staff, format_time, parse_time
from staffstream.storage.deliveries import Delivery
from staffstream.storage.jobs import Job, JobKind, JobState
from staffstream.storage.keys import ApiKey

Json = dict[str, Any]


def show_value(value: object, shape: Any) -> Json:
    """The attributes of a value that the shape of an answer names; one that it may lack is left out when it is None."""
    shown = {name: getattr(value, name, None) for name in shape.__annotations__}
    return {name: item for name, item in shown.items() if item is not None or name in shape.__required_keys__}


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must have something in it besides white space")
    return text


def _check_url(url: str) -> str:
    import httpx  # here, since a server that nobody gives a webhook does without

    try:
        parts = httpx.URL(url)  # as webhooks.py will read it
    except httpx.InvalidURL:
        parts = httpx.URL()
    port = 80 if parts.port is None else parts.port
    if parts.scheme not in ("http", "https") or not parts.host or not 0 < port < 65536:
        raise ValueError("must be an http or https URL")
    if parts.userinfo:
        raise ValueError("must not hold a user name or password")
    return url


def _check_rating(rating: int) -> int:
    if rating not in (1, -1):
        raise ValueError("must be 1 or -1")
    return rating


def _check_secret(secret: str) -> str:
    try:
        raw = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not 24 <= len(raw) <= 64:
        raise ValueError("must be 24 to 64 bytes in base64, with or without the prefix whsec_")
    return "whsec_" + secret.removeprefix("whsec_")


def _read_time(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be RFC 3339 text, like 2026-11-23T08:00:00.000Z")
    try:
        moment = parse_time(value)
        return format_time(moment)
    except (ValueError, OverflowError):
        raise ValueError("must be RFC 3339 text, like 2026-11-23T08:00:00.000Z") from None


Text = Annotated[StrictStr, AfterValidator(_check_not_blank)]
ShortText = Annotated[StrictStr, Field(max_length=200)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=200), AfterValidator(_check_not_blank)]
Url = Annotated[StrictStr, Field(max_length=2000, json_schema_extra={"format": "uri"}), AfterValidator(_check_url)]
Secret = Annotated[StrictStr, Field(max_length=200), AfterValidator(_check_secret)]
Time = Annotated[str, BeforeValidator(_read_time), Field(json_schema_extra={"format": "date-time"})]
Rating = Annotated[StrictInt, AfterValidator(_check_rating), Field(json_schema_extra={"enum": [1, -1]})]
# a Literal[1] would take true
Id = Annotated[StrictStr, Field(max_length=64)]
Strategy = Literal["reject", "enqueue", "interrupt"]


class Body(BaseModel):
    """A request body: a field it does not know is a mistake, since a misspelt one would be lost silently."""

    model_config = ConfigDict(extra="forbid")


# ── staff ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class StaffChanges(Body):
    """What PATCH may change; absent fields stay."""

    name: Name | None = None
    role: ShortText | None = None
    persona: Annotated[StrictStr, Field(max_length=100_000)] | None = None
    model: Annotated[StrictStr, Field(min_length=1, max_length=200)] | None = None
    context_budget_tokens: Annotated[StrictInt, Field(ge=200, le=1_000_000)] | None = None
    max_output_tokens: Annotated[StrictInt, Field(ge=1, le=128_000)] | None = None
    webhook_url: Url | None = None
    webhook_secret: Secret | None = None
    memory_enabled: StrictBool | None = None


class NewStaff(StaffChanges):
    """A staff member to make. The webhook secret is made if absent."""

    name: Name


def show_staff(staff: Staff) -> Json:
    """A staff member, without its secrets."""
    return show_value(staff, response_models.Staff)


# ── messages and runs ────────────────────────────────────────────────────────────────────────────────────────────────


class NewMessage(Body):
    """A question to a staff member."""

    content: Text
    conversation_id: Id | None = None
    multitask_strategy: Strategy | None = None


class NewAsyncMessage(NewMessage):
    """A question to be answered later; its own webhook_url goes before the staff member's."""

    webhook_url: Url | None = None


class Regeneration(Body):
    """How to ask again."""

    multitask_strategy: Strategy | None = None


class Feedback(Body):
    """What the user thought of a reply."""

    rating: Rating
    comment: Annotated[StrictStr, Field(max_length=10_000)] | None = None


class StreamQuery(BaseModel):
    """The query of a stream: `events=status` adds events of progress."""

    events: str = ""


class JoinQuery(StreamQuery):
    """The query of joining one; Last-Event-ID goes before `after`."""

    after: str = ""


class MessagePage(BaseModel):
    """The query of a list of messages."""

    conversation_id: str | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    before: str | None = None


class Page(BaseModel):
    """The query of a list."""

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    before: str | None = None


def show_message(message: Message) -> Json:
    """A message; what it does not have is absent."""
    return show_value(message, response_models.Message)


def show_run(run: Run, text: str) -> Json:
    """A run and what it has said so far; `cursor` goes with `partial_text`."""
    return show_value(run, response_models.Run) | {"partial_text": text, "cursor": len(text)}


# ── deliveries and jobs ──────────────────────────────────────────────────────────────────────────────────────────────


class JobPage(Page):
    """The query of a list of jobs."""

    state: JobState | None = None
    kind: JobKind | None = None


def show_delivery(delivery: Delivery) -> Json:
    """A delivery with its attempts; `id` is the `webhook-id` that its receiver sees."""
    return show_value(delivery, response_models.Delivery)


def show_job(job: Job) -> Json:
    """A job; `due_at` is null while it runs and once it is dead."""
    return show_value(job, response_models.Job) | {"due_at": job.due_at if job.state == "due" else None}


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────────


class PastMessage(Body):
    """A message of a conversation to import."""

    message_type: Literal["user", "assistant"]
    content: StrictStr
    created_at: Time


class ConversationChanges(Body):
    """What PATCH may change; absent fields stay."""

    title: ShortText | None = None
    user_name: ShortText | None = None


class NewConversation(ConversationChanges):
    """A conversation to make, with past messages to import in order."""

    messages: Annotated[list[PastMessage], Field(max_length=5000)] = []


def show_conversation(conversation: Conversation) -> Json:
    """A conversation."""
    return show_value(conversation, response_models.Conversation)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class NewKey(Body):
    """A key to make: for the user named, or for one of the key's own name."""

    name: Name
    user_id: Name | None = None
    role: Role | None = None


def show_key(key: ApiKey) -> Json:
    """A key without its secret."""
    return show_value(key, response_models.Key)
