"""What a reader returns, and the small conversions that all readers share."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from staffstream.domain import MessageType, clean_text, format_time, now_text, parse_time
from staffstream.storage.messages import ImportedMessage

MILLISECONDS_FROM = 1e11  # as seconds this would be the year 5138
_ROLES: dict[object, MessageType] = {"user": "user", "human": "user", "assistant": "assistant"}
_BULLET = re.compile(r"^(?:[-*•]\s+|\d+[.)]\s+)+")


@dataclass(frozen=True, slots=True)
class PastChat:
    """One conversation, its messages in order. It has at least one message."""

    title: str
    messages: list[ImportedMessage]


@dataclass(frozen=True, slots=True)
class PastMemory:
    """One statement that another service remembered; `occurred_at` is empty if the export does not date it."""

    text: str
    occurred_at: str = ""


@dataclass(slots=True)
class Report:
    """How many things of each kind came in, and how many were left out for which reason."""

    left_out: Counter[str] = field(default_factory=Counter)

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Count something that is not imported."""
        if count:
            self.left_out[reason] += count


def make_message(role: object, text: str, moment: object) -> Iterator[ImportedMessage]:
    """One message, or none if it is blank or neither the user nor the assistant wrote it."""
    kind = _ROLES.get(role) if isinstance(role, str) else None
    if kind and text.strip():
        yield ImportedMessage(kind, text, read_moment(moment))


def make_memories(text: object, moment: object = None) -> Iterator[PastMemory]:
    """The memories of a text that lists them: one a line, without bullets, numbers and headings."""
    occurred_at = read_moment(moment) if moment else ""
    for line in read_text(text).splitlines():
        statement = _BULLET.sub("", line.strip()).strip()
        if statement and not statement.startswith("#") and any(map(str.isalnum, statement)):
            yield PastMemory(statement, occurred_at)


def read_moment(moment: object) -> str:
    """Seconds or milliseconds since 1970, or RFC 3339, as our time text; the present moment for anything else."""
    try:
        if isinstance(moment, int | float) and not isinstance(moment, bool):
            seconds = moment / 1000 if abs(moment) > MILLISECONDS_FROM else moment
            return format_time(datetime.fromtimestamp(seconds, UTC))
        return format_time(parse_time(str(moment)))
    except (ValueError, OverflowError, OSError):
        return now_text()


def join_texts(parts: Iterable[object]) -> str:
    """The parts that are text and not blank, a paragraph each."""
    return "\n\n".join(part for part in map(read_text, parts) if part.strip())


def read_text(value: object) -> str:
    """A value that should be text; empty if it is not."""
    return clean_text(value) if isinstance(value, str) else ""


def list_objects(value: object) -> list[dict[str, Any]]:
    """The objects of a value that should be a list of them."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
