"""The JSON that clients send: bodies and queries, as pydantic models, by resource."""

import base64
import binascii
import uuid
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

from staffstream.domain import MemoryKind, MultitaskStrategy, Role, Run, format_time, load_zone, parse_time
from staffstream.replies.encoders import RunEncoder
from staffstream.storage.jobs import JobKind, JobState

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


def _check_before(before: str) -> str:
    try:
        uuid.UUID(before)
    except ValueError:
        raise ValueError("must be the id of an entry of this list") from None
    return before


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


MAX_MESSAGE_CHARACTERS = 1_000_000  # of one message, however it comes: as much as the largest budget holds

Text = Annotated[StrictStr, AfterValidator(_check_not_blank)]
ShortText = Annotated[StrictStr, Field(max_length=200)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=200), AfterValidator(_check_not_blank)]
Url = Annotated[StrictStr, Field(max_length=2000, json_schema_extra={"format": "uri"}), AfterValidator(_check_url)]
Secret = Annotated[StrictStr, Field(max_length=200), AfterValidator(_check_secret)]
Time = Annotated[str, BeforeValidator(_read_time), Field(json_schema_extra={"format": "date-time"})]
Rating = Annotated[StrictInt, AfterValidator(_check_rating), Field(json_schema_extra={"enum": [1, -1]})]
# a Literal[1] would take true
Id = Annotated[StrictStr, Field(max_length=64)]
Before = Annotated[StrictStr, AfterValidator(_check_before), Field(json_schema_extra={"format": "uuid"})]


def _drop_defaults(schema: dict[str, Any]) -> None:
    for described in schema.get("properties", {}).values():
        described.pop("default", None)


class Body(BaseModel):
    """A request body: a field it does not know is a mistake, since a misspelt one would be lost silently."""

    model_config = ConfigDict(extra="forbid")


class Changes(Body):
    """The body of a PATCH: absent fields stay. A default marks a field that may be absent, and is not described."""

    model_config = ConfigDict(json_schema_extra=_drop_defaults)


class Page(BaseModel):
    """The query of a list that is read in pages; `before` is the last id of the page before."""

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    before: Before | None = None


# ── staff ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class StaffChanges(Changes):
    """What PATCH may change; absent fields stay."""

    name: Name = ""
    role: ShortText = ""
    persona: Annotated[StrictStr, Field(max_length=100_000)] = ""
    model: Annotated[StrictStr, Field(min_length=1, max_length=200)] | None = None
    context_budget_tokens: Annotated[StrictInt, Field(ge=200, le=1_000_000)] | None = None
    max_output_tokens: Annotated[StrictInt, Field(ge=1, le=128_000)] | None = None
    thinking_budget_tokens: Annotated[StrictInt, Field(ge=1024, le=128_000)] | None = None
    webhook_url: Url | None = None
    webhook_secret: Secret = ""
    memory_enabled: StrictBool = True


class NewStaff(StaffChanges):
    """A staff member to make. The webhook secret is made if absent."""

    name: Name


# ── messages and runs ────────────────────────────────────────────────────────────────────────────────────────────────


class NewMessage(Body):
    """A question to a staff member."""

    content: Annotated[Text, Field(max_length=MAX_MESSAGE_CHARACTERS)]
    conversation_id: Id | None = None
    multitask_strategy: MultitaskStrategy | None = None


class NewAsyncMessage(NewMessage):
    """A question to be answered later; its own webhook_url goes before the staff member's."""

    webhook_url: Url | None = None


class Regeneration(Body):
    """How to ask again."""

    multitask_strategy: MultitaskStrategy | None = None


class Feedback(Body):
    """What the user thought of a reply."""

    rating: Rating
    comment: Annotated[StrictStr, Field(max_length=10_000)] | None = None


class StreamQuery(BaseModel):
    """The query of a stream: `events=status` adds events of progress, `thinking` what it thinks first."""

    events: str = ""

    def make_encoder(self, run: Run) -> RunEncoder:
        """What writes the stream of a run as this query wants it."""
        wanted = self.events.split(",")
        return RunEncoder(run.id, wants_status="status" in wanted, wants_thinking="thinking" in wanted)


class JoinQuery(StreamQuery):
    """The query of joining one; Last-Event-ID goes before `after`. `token` is the run's `join_token`, for a key."""

    after: str = ""
    token: str = ""


class MessagePage(Page):
    """The query of a list of messages."""

    conversation_id: str | None = None


# ── deliveries and jobs ──────────────────────────────────────────────────────────────────────────────────────────────


class JobPage(Page):
    """The query of a list of jobs."""

    state: JobState | None = None
    kind: JobKind | None = None


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────────


class PastMessage(Body):
    """A message of a conversation to import."""

    message_type: Literal["user", "assistant"]
    content: Annotated[StrictStr, Field(max_length=MAX_MESSAGE_CHARACTERS)]
    created_at: Time


def _check_zone(name: str) -> str:
    if name:
        load_zone(name)
    return name


TimeZone = Annotated[StrictStr, Field(max_length=64), AfterValidator(_check_zone)]
"""The IANA name of the user's time zone, such as Europe/Oslo."""


class ConversationChanges(Changes):
    """What PATCH may change; absent fields stay."""

    title: ShortText = ""
    user_name: ShortText = ""
    time_zone: TimeZone = ""


class NewConversation(Body):
    """A conversation to make, with past messages to import in order."""

    title: ShortText | None = None
    user_name: ShortText | None = None
    time_zone: TimeZone | None = None
    messages: Annotated[list[PastMessage], Field(max_length=5000)] = []


# ── memories and the graph ───────────────────────────────────────────────────────────────────────────────────────────

MemoryText = Annotated[Text, Field(max_length=20_000)]


class MemoryInput(Body):
    """A memory that a client tells: learnt at once."""

    text: MemoryText
    kind: MemoryKind = "fact"
    occurred_at: Time | None = None


MemoryInputs = MemoryInput | Annotated[list[MemoryInput], Field(min_length=1, max_length=1000)]


class MemoryChanges(Changes):
    """What PATCH may change: text and occurred_at make a new memory in this one's place."""

    text: MemoryText = ""
    occurred_at: Time = ""
    pinned: StrictBool = False
    importance: Annotated[float, Field(ge=0, le=1)] = 0.5


class MemoryPage(Page):
    """The query of a list of memories; `deleted=true` lists the tombstones, `current=true` only what holds now.

    An empty `subject` or `category` means those that have none.
    """

    query: Annotated[StrictStr, Field(max_length=20_000)] | None = None
    kind: MemoryKind | None = None
    deleted: bool = False
    current: bool = False
    conversation_id: Id | None = None
    subject: Annotated[StrictStr, Field(max_length=2000)] | None = None
    category: Annotated[StrictStr, Field(max_length=2000)] | None = None
    pinned: bool | None = None
    pinned_first: bool = False


class Forgetting(BaseModel):
    """How a memory is deleted: `erase=true` for good, `with_source=true` with the messages that it came from."""

    erase: bool = False
    with_source: bool = False


class GraphQuery(BaseModel):
    """What part of the graph to show; `ended=true` adds what was true once."""

    entity: Annotated[StrictStr, Field(max_length=500)] | None = None
    depth: Annotated[int, Field(ge=1, le=3)] = 1
    ended: bool = False


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class NewKey(Body):
    """A key to make: for the user named, or for one of the key's own name."""

    name: Name
    user_id: Name | None = None
    role: Role | None = None
    gateway: StrictBool = False
