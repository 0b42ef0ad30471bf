"""The JSON that the server sends, as /openapi.json describes it. Values of the domain are shown by a view; the rest are
typed dictionaries.
"""

import dataclasses
import re
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from staffstream import domain
from staffstream.api.views import Id, Json, Time, View, make_model
from staffstream.domain import Mode
from staffstream.errors import AddressNotPublic, DeliveryError, ReceiverUnreachable
from staffstream.models import prices
from staffstream.storage import deliveries, graph, jobs, keys, memories

exactly = with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))


# ── the system ───────────────────────────────────────────────────────────────────────────────────────────────────────


@exactly
class Health(TypedDict):
    """The process runs."""

    status: Literal["ok"]


@exactly
class Readiness(TypedDict):
    """Whether requests can be served, check by check; a check that fails says how."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]


@exactly
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


JOB = View(
    "Job",
    jobs.Job,
    "id kind subject state attempts last_error created_at",
    added={"due_at": Time | None},
    doc="A piece of background work. `due_at` is null while it runs and once it is dead.",
)
KEY = View(
    "Key",
    keys.ApiKey,
    "id name user_id role prefix created_at last_used_at revoked_at gateway",
    doc="An API key without its secret.",
)
NEW_KEY = KEY.extend("NewKeyResponse", {"key": str}, "An API key, with its text for the only time.")


def show_job(job: jobs.Job) -> Json:
    """A job; `due_at` is null while it runs and once it is dead."""
    return JOB.show(job, due_at=job.due_at if job.state == "due" else None)


# ── staff ────────────────────────────────────────────────────────────────────────────────────────────────────────────

STAFF = View(
    "Staff",
    domain.Staff,
    "id name role persona model context_budget_tokens max_output_tokens thinking_budget_tokens webhook_url"
    " webhook_disabled_at memory_enabled"
    " created_at updated_at",
)
NEW_STAFF = STAFF.extend(
    "NewStaffResponse", {"webhook_secret": str}, "A staff member, with its webhook secret for the only time."
)


def show_staff(member: domain.Staff, *, to_admin: bool) -> Json:
    """A staff member. Who is no admin sees where its webhook goes, not the path and query: they may hold a secret."""
    shown = STAFF.show(member)
    return shown if to_admin else shown | {"webhook_url": cut_url(member.webhook_url)}


def cut_url(url: str | None) -> str | None:
    """The origin of a URL: scheme, host and port."""
    if url is None:
        return None
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest)[0].rpartition('@')[2]}"


@exactly
class ModeResponse(TypedDict):
    """Which mode a user's client is to take, and the path to post messages to."""

    mode: Mode
    path: str


@with_config(ConfigDict(extra="allow"))
class Usage(TypedDict, total=False):
    """Token counts by name, as Claude reports them; further ones may come."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int | None
    cache_creation_input_tokens: int | None


PRICES = View(
    "ModelPrices",
    prices.Prices,
    "input output cache_write cache_read",
    added={"name": Annotated[str, Field(description="The beginning of the names that it stands for.")]},
    doc="What a model costs, in US dollars for a million tokens.",
)
ME = View(
    "Me",
    domain.Caller,
    "user_id role",
    added={
        "offline": Annotated[bool, Field(description="A stand-in answers in Claude's place.")],
        "model": str,
        "context_budget_tokens": int,
        "max_output_tokens": int,
    },
    doc="The caller, and what the server takes where a staff member has no value of its own.",
)


@exactly
class LearningState(TypedDict):
    """What nothing has been learned from yet."""

    waiting_messages: int


# ── conversations, messages and runs ─────────────────────────────────────────────────────────────────────────────────

CONVERSATION = View(
    "Conversation",
    domain.Conversation,
    "id staff_id title user_name time_zone is_default created_at updated_at external_id",
    doc="A thread of messages.",
)
NEW_CONVERSATION = CONVERSATION.extend(
    "NewConversationResponse",
    {"message_ids": list[Id]},
    "A conversation, with the ids of the messages that were imported, in order.",
)


@exactly
class FeedbackGiven(TypedDict):
    """What the user thought of a reply."""

    rating: Literal[1, -1]
    comment: str | None


MESSAGE = View(
    "Message",
    domain.Message,
    "id staff_id conversation_id message_type content status created_at",
    optional="reply_to model stop_reason usage feedback",
    types={"reply_to": Id, "usage": Usage, "feedback": FeedbackGiven},
    doc="One finished turn of one side; what it does not have is absent.",
)


@exactly
class Accepted(TypedDict):
    """A question that will be answered."""

    message_id: Id
    """The question's; the reply's will be run_id."""
    run_id: Id
    conversation_id: Id
    status: Literal["queued"]


RUN = View(
    "Run",
    domain.Run,
    "id staff_id conversation_id user_message_id mode state message_id created_at building_at streaming_at"
    " first_token_at finished_at",
    optional="error model stop_reason usage",
    added={
        "partial_text": str,
        "cursor": int,
        "join_token": NotRequired[Annotated[str, Field(description="`?token=` of the stream's URL, for 15 minutes.")]],
    },
    types={"usage": Usage},
    doc="The making of one reply; `cursor` goes with `partial_text`.",
)


def show_run(run: domain.Run, text: str) -> Json:
    """A run and its text so far; `cursor` goes with `partial_text`."""
    return RUN.show(run, partial_text=text, cursor=len(text))


@exactly
class Section(TypedDict):
    """A part of a prompt."""

    name: Literal["persona", "summary", "recent_turns", "memories", "graph", "question"]
    tokens: int
    items: list[dict[str, Any]]


@exactly
class Context(TypedDict):
    """What a reply was built from, and what was left out and why. Tokens are Claude's, by estimate."""

    model: str
    budget_tokens: int
    total_tokens: int
    token_ratio: float
    sections: list[Section]
    dropped: list[dict[str, Any]]
    notes: list[str]


# ── memories and the graph ───────────────────────────────────────────────────────────────────────────────────────────

MEMORY = View(
    "Memory",
    memories.Memory,
    "id kind text subject predicate object category quote importance pinned states_relation speaker conversation_id"
    " source_message_id occurred_at valid_from valid_to superseded_by reinforced_at reinforcements deleted_at"
    " created_at",
    added={"score": NotRequired[Annotated[float, Field(description="Of a search: best first.")]]},
    types={"superseded_by": Id | None},
    doc="Something remembered, true from `valid_from` to `valid_to`.",
)
MEMORY_WHOLE = MEMORY.extend(
    "MemoryWhole",
    {"history": MEMORY.models, "source_message": MESSAGE.model | None},
    "A memory with every form it has had, oldest first, and the message it came from.",
)


def show_memory_whole(memory: memories.Memory, history: list[memories.Memory], source: domain.Message | None) -> Json:
    """A memory with every form it has had, oldest first, and the message it came from."""
    return MEMORY_WHOLE.show(
        memory,
        history=[MEMORY.show(form) for form in history],
        source_message=MESSAGE.show(source) if source else None,
    )


NODE = View(
    "Node", graph.Entity, "id name type", added={"aliases": list[str]}, doc="An entity with all its names, folded."
)
EDGE = View(
    "Edge",
    graph.Relation,
    "id predicate valid_from valid_to memory_id source_message_id",
    added={"source": Id, "target": Id, "text": str},
    doc="A relation between two nodes.",
)
GRAPH: Any = make_model(
    "Graph", {"nodes": NODE.models, "edges": EDGE.models}, "Entities and what is known between them."
)


def show_relation(relation: graph.Relation) -> Json:
    """A relation as an edge between two nodes' ids."""
    return EDGE.show(relation, source=relation.subject.id, target=relation.object.id, text=relation.line)


# ── deliveries ───────────────────────────────────────────────────────────────────────────────────────────────────────

DELIVERY = View(
    "Delivery",
    deliveries.Delivery,
    "id staff_id run_id event url state created_at delivered_at next_attempt_at attempts",
    types={"event": Literal["message.completed", "message.failed"]},
    doc="One event for one URL; the id is the `webhook-id` of every attempt.",
)
DELIVERY_WHOLE = DELIVERY.extend("DeliveryWhole", {"body": str}, "A delivery with the body as it is sent.")


def show_delivery(delivery: deliveries.Delivery, *, to_admin: bool) -> Json:
    """A delivery. Others than admins are not told what the server found at an address that they could not reach
    themselves: of a staff member's webhook only that an attempt failed, of their own not how a name resolved.
    """
    shown = DELIVERY.show(delivery)
    if to_admin:
        return shown
    hide = _hide_address if delivery.is_own else _hide_answer
    return shown | {"url": cut_url(delivery.url), "attempts": [hide(attempt) for attempt in delivery.attempts]}


def _hide_answer(attempt: deliveries.Attempt) -> deliveries.Attempt:
    error = DeliveryError.code if attempt.error else None
    return dataclasses.replace(attempt, duration_ms=0, status=None, error=error)


def _hide_address(attempt: deliveries.Attempt) -> deliveries.Attempt:
    if attempt.error == AddressNotPublic.code:
        attempt = dataclasses.replace(attempt, error=ReceiverUnreachable.code)
    return attempt if attempt.status is not None else dataclasses.replace(attempt, duration_ms=0)
