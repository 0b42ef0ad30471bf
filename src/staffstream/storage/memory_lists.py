"""Listing and counting the memories of one scope, as those look at them who want to see what is remembered."""

import itertools
from dataclasses import dataclass
from typing import Any

from staffstream.domain import MemoryKind, Scope
from staffstream.errors import NotFound, UnknownBefore
from staffstream.storage.database import Connection
from staffstream.storage.memories import Memory, get_memory, read_memory


@dataclass(frozen=True, slots=True)
class MemoryFilter:
    """Which memories of a scope to list; None stands for any. Tombstones are listed alone."""

    kind: MemoryKind | None = None
    deleted: bool = False
    current: bool = False
    conversation_id: str | None = None
    subject: str | None = None
    category: str | None = None
    pinned: bool | None = None
    text: str | None = None
    pinned_first: bool = False

    def write_condition(self) -> tuple[str, list[Any]]:
        """The SQL condition, and its values."""
        conditions, values = [f"deleted_at IS {'NOT' if self.deleted else ''} NULL"], list[Any]()
        if self.current:
            conditions.append("valid_to IS NULL AND superseded_by IS NULL")
        for name in ("kind", "conversation_id", "subject", "category", "pinned"):
            if (wanted := getattr(self, name)) is not None:
                conditions.append(f"coalesce({name}, '') = ?" if name in _MAY_BE_NULL else f"{name} = ?")
                values.append(int(wanted) if isinstance(wanted, bool) else wanted)
        return " AND ".join(conditions), values

    def has_words(self, text: str) -> bool:
        """Whether a text has the wanted words: in Python, since SQL folds the case of ASCII letters only."""
        folded = text.casefold()
        return all(word in folded for word in (self.text or "").casefold().split())


_MAY_BE_NULL = {"subject", "category"}
_MAX_ROWS = 10_000  # that are looked through for words
ANY_MEMORY = MemoryFilter()


def list_memories(
    conn: Connection, scope: Scope, wanted: MemoryFilter = ANY_MEMORY, *, limit: int, before: str | None = None
) -> list[Memory]:
    """Newest first, or pinned ones before the others. Superseded ones are among them unless `current` ones are wanted.
    `before` is the last id of the page before. Raises UnknownBefore.
    """
    order = ["pinned", "occurred_at", "number"] if wanted.pinned_first else ["occurred_at", "number"]
    edge: list[Any] = [2, "~", 0][-len(order) :]  # above every row
    if before is not None:
        try:
            last = get_memory(conn, scope, before)
        except NotFound:
            raise UnknownBefore from None
        edge = [int(value) if isinstance(value := getattr(last, name), bool) else value for name in order]
    condition, values = wanted.write_condition()
    rows = conn.execute(
        f"SELECT * FROM memories WHERE scope_id = ? AND ({', '.join(order)}) < ({', '.join('?' * len(order))})"
        f" AND {condition} ORDER BY {', '.join(f'{name} DESC' for name in order)} LIMIT +?",
        (scope.id, *edge, *values, _MAX_ROWS if wanted.text else limit),
    )
    fitting = (read_memory(row) for row in rows if wanted.has_words(row["text"]))
    return list(itertools.islice(fitting, limit))


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """How many current facts there are about one subject, of one category."""

    subject: str
    category: str
    count: int


@dataclass(frozen=True, slots=True)
class MemoryOverview:
    """How much is remembered: the facts that hold, by what they are about, the messages, and what was forgotten."""

    facts: int
    messages: int
    pinned: int
    forgotten: int
    groups: list[MemoryGroup]


def count_memories(conn: Connection, scope: Scope) -> MemoryOverview:
    """How much is remembered. The groups with most facts come first."""
    sums = conn.execute(
        "SELECT coalesce(sum(CASE WHEN deleted_at IS NULL AND kind = 'episode' THEN 1 END), 0) AS messages,"
        " coalesce(sum(CASE WHEN deleted_at IS NULL AND valid_to IS NULL AND pinned = 1 THEN 1 END), 0) AS pinned,"
        " coalesce(sum(CASE WHEN deleted_at IS NOT NULL THEN 1 END), 0) AS forgotten"
        " FROM memories WHERE scope_id = ?",
        (scope.id,),
    ).fetchone()
    rows = conn.execute(
        "SELECT coalesce(subject, '') AS subject, coalesce(category, '') AS category, count(*) AS count FROM memories"
        " WHERE scope_id = ? AND kind = 'fact' AND deleted_at IS NULL AND valid_to IS NULL AND superseded_by IS NULL"
        " GROUP BY coalesce(subject, ''), coalesce(category, '') ORDER BY count DESC, subject, category",
        (scope.id,),
    )
    groups = [MemoryGroup(row["subject"], row["category"], row["count"]) for row in rows]
    return MemoryOverview(
        facts=sum(group.count for group in groups),
        messages=sums["messages"],
        pinned=sums["pinned"],
        forgotten=sums["forgotten"],
        groups=groups,
    )
