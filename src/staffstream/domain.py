"""The words of the product as frozen values, and the ids and times they carry.

Ids are UUIDv7, strictly growing within a process, so that sorting by id is sorting by time of making. Times are RFC
3339 UTC text with milliseconds everywhere: in SQL, in JSON, in memory.
"""

import functools
import os
import random
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

MessageType = Literal["user", "assistant"]
MessageStatus = Literal["complete", "cancelled", "interrupted"]
RunState = Literal["queued", "building", "streaming", "done", "failed", "cancelled"]
Mode = Literal["stream", "async"]
MultitaskStrategy = Literal["reject", "enqueue", "interrupt"]
Role = Literal["admin", "member"]
MemoryKind = Literal["fact", "episode"]

STATUS_BY_STATE: dict[RunState, MessageStatus] = {
    "done": "complete",
    "cancelled": "cancelled",
    "failed": "interrupted",
}
"""The status of the reply that a run saves, by the state in which the run ends."""
TERMINAL_STATES = frozenset(STATUS_BY_STATE)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. A member talks to staff members; an admin also makes, changes and erases them, and keys.

    `key_id` is None for a user whom the host app named, and for everybody where keys are off. `is_gateway` says that
    the caller may name the user whom it speaks for.
    """

    user_id: str
    role: Role
    key_id: str | None = None
    is_gateway: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """One (staff, user) pair: what every query about a user's things is bound to."""

    id: int
    staff_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class Staff:
    """An AI persona. A null model, budget or output limit means the server's own."""

    id: str
    name: str
    role: str
    persona: str
    model: str | None
    context_budget_tokens: int | None
    max_output_tokens: int | None
    thinking_budget_tokens: int | None
    webhook_url: str | None
    webhook_secrets: tuple[str, ...] = field(repr=False)
    webhook_disabled_at: str | None
    memory_enabled: bool
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A thread of messages in one scope."""

    id: str
    staff_id: str
    title: str
    user_name: str
    is_default: bool
    created_at: str
    updated_at: str
    time_zone: str = ""
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One finished turn of one side. Immutable; `turn` orders it, not its time."""

    id: str
    staff_id: str
    conversation_id: str
    turn: int
    message_type: MessageType
    content: str
    status: MessageStatus
    created_at: str
    reply_to: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None
    feedback: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RunFailure:
    """Why a run failed, in our words: what `error` frames, problem bodies and webhooks are made from."""

    code: str
    detail: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How the stream of a reply ends. `message_id` names the saved reply, or the part of it that was saved."""

    message_id: str | None = None
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None
    cancelled: bool = False
    failure: RunFailure | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """The making of one reply."""

    id: str
    staff_id: str
    user_id: str
    scope_id: int
    conversation_id: str
    user_message_id: str
    turn: int
    mode: Mode
    state: RunState
    message_id: str | None
    error: RunFailure | None
    model: str | None
    stop_reason: str | None
    usage: dict[str, Any] | None
    webhook_url: str | None
    fence: int
    attempts: int
    not_before: str | None
    created_at: str
    building_at: str | None
    streaming_at: str | None
    first_token_at: str | None
    finished_at: str | None
    instructions: str = ""  # its client's own system text, for this one prompt

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL_STATES

    @property
    def scope(self) -> Scope:
        return Scope(self.scope_id, self.staff_id, self.user_id)

    @property
    def end(self) -> RunEnd:
        """How its stream ends, once it has ended."""
        return RunEnd(self.message_id, self.stop_reason, self.usage, self.state == "cancelled", self.error)


def draft_run(scope: Scope, instructions: str = "") -> Run:
    """A run that is made and not stored."""
    now = now_text()
    return Run(
        id=make_id(), staff_id=scope.staff_id, user_id=scope.user_id, scope_id=scope.id, conversation_id="",
        user_message_id="", turn=0, mode="stream", state="building", message_id=None, error=None,
        model=None, stop_reason=None, usage=None, webhook_url=None, fence=0, attempts=1, not_before=None,
        created_at=now, building_at=now, streaming_at=None, first_token_at=None, finished_at=None,
        instructions=instructions,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Owner:
    """A process as the holder of runs and jobs; what it does not renew for `lease_s` seconds may be taken over."""

    id: str
    lease_s: float


_lock = threading.Lock()
_last_stamp = 0
_random = random.Random()  # ids are no secrets, and os.urandom gives up the interpreter's lock at each call
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def make_id() -> str:
    """A new UUIDv7 (RFC 9562) as text, greater than every one this process made before.

    The 12 bits after the millisecond hold its fraction (RFC 9562, section 6.2, method 3); a stamp that would not
    grow is pushed one step on, so ids keep their order within a millisecond and when the clock is set back.
    """
    global _last_stamp
    now_ns = time.time_ns()
    millis, rest_ns = divmod(now_ns, 1_000_000)
    stamp = millis << 12 | rest_ns * 4096 // 1_000_000
    with _lock:
        stamp = _last_stamp = max(stamp, _last_stamp + 1)
        bits = _random.getrandbits(62)
    digits = f"{stamp >> 12 << 80 | 7 << 76 | (stamp & 0xFFF) << 64 | 2 << 62 | bits:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def format_time(moment: datetime) -> str:
    """RFC 3339 UTC text with milliseconds, e.g. 2026-11-23T08:00:00.000Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def now_text(plus_s: float = 0.0) -> str:
    """The present moment, or one `plus_s` seconds from it, as text."""
    now = datetime.now(UTC)
    return format_time(now + timedelta(seconds=plus_s) if plus_s else now)


def parse_time(text: str) -> datetime:
    """An aware datetime from RFC 3339 text; one without an offset is taken as UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@functools.lru_cache(maxsize=64)
def load_zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name such as Europe/Oslo. Raises ValueError for an unknown name."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError) as error:
        raise ValueError("must be the name of a time zone, such as Europe/Oslo") from error


_SURROGATE = re.compile("[\ud800-\udfff]")


def clean_text(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD: they are no Unicode, and UTF-8 and SQLite refuse them."""
    return text if text.isascii() else _SURROGATE.sub("�", text)
