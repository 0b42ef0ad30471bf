"""Memories of one scope: facts that were learned or told, and episodes, which are messages made searchable. Rows in
and out.

Nothing is overwritten: a fact that is no longer true is closed (`valid_to`, `superseded_by`) and stays in its
history. A deleted memory stays as a tombstone, out of every index, so that it can be restored and is not learned
again. Words go into the full-text index and vectors beside it in the transaction that saves the memory (see
memory_index.py).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from staffstream.domain import MemoryKind, Message, Scope, make_id, now_text
from staffstream.errors import Conflict, NotFound, UnknownBefore
from staffstream.storage.database import IN_LIST, Connection, Row, pack_list
from staffstream.storage.memory_search import index_memory, split_words, unindex_memory
from staffstream.storage.numbers import take_number
from staffstream.storage.vectors import EmbedNow

EPISODE_CHARS = 1500  # a longer message becomes several episodes, cut between paragraphs or sentences
_MOST_EPISODES = 50


@dataclass(frozen=True, slots=True)
class NewMemory:
    """A memory to keep. Subject, predicate and object say what a fact states; a told one may have none of them."""

    text: str
    kind: MemoryKind = "fact"
    occurred_at: str = ""
    subject: str | None = None
    predicate: str | None = None
    object: str | None = None
    category: str | None = None
    quote: str | None = None
    importance: float = 0.5
    speaker: str = ""
    conversation_id: str | None = None
    source_message_id: str | None = None


class Memory(NamedTuple):
    """Something remembered. It is true from `valid_from` to `valid_to`; `reinforced_at` is when it was last said
    again.
    """

    number: int
    id: str
    kind: MemoryKind
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
    conversation_id: str | None
    source_message_id: str | None
    occurred_at: str
    valid_from: str
    valid_to: str | None
    superseded_by: str | None
    reinforced_at: str | None
    reinforcements: int
    deleted_at: str | None
    created_at: str


@dataclass(frozen=True, slots=True)
class LearnedFact:
    """The memory that a learned statement is kept as, and whether it is new."""

    memory: Memory
    is_new: bool


@dataclass(frozen=True, slots=True)
class Purged:
    """What an erasure took, and the ids of the memories that hold again since."""

    texts: Sequence[str]
    revived: Sequence[str]


# ── remembering ──────────────────────────────────────────────────────────────────────────────────────────────────────


def add_memory(tx: Connection, scope: Scope, new: NewMemory, embed: EmbedNow | None) -> Memory:
    """Keep a memory and make it findable. Without `embed`, its vector is left to the `embed` job."""
    now = now_text()
    occurred_at = new.occurred_at or now
    row = tx.execute(
        "INSERT INTO memories (number, id, scope_id, kind, text, subject, predicate, object, category, quote,"
        " importance, speaker, conversation_id, source_message_id, occurred_at, valid_from, embedded, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
        (
            take_number(tx, scope), make_id(), scope.id, new.kind, new.text, new.subject, new.predicate, new.object,
            new.category, new.quote, new.importance, new.speaker, new.conversation_id, new.source_message_id,
            occurred_at, occurred_at, int(embed is not None), now,
        ),
    ).fetchone()  # fmt: skip
    memory = _read_memory(row)
    _index(tx, scope, memory, embed, is_new=True)
    return memory


def add_episode(tx: Connection, scope: Scope, message: Message, *, speaker: str, embed: EmbedNow | None) -> None:
    """Make a message searchable; a blank one holds nothing to find."""
    for part in split_text(message.content):
        new = NewMemory(
            text=part,
            kind="episode",
            occurred_at=message.created_at,
            speaker=speaker,
            conversation_id=message.conversation_id,
            source_message_id=message.id,
        )
        add_memory(tx, scope, new, embed)


def learn_fact(
    tx: Connection, scope: Scope, new: NewMemory, *, replaces: Memory | None, reinforce: bool, embed: EmbedNow | None
) -> LearnedFact | None:
    """Keep what was learned, if it is new; None when the user has deleted it. With `reinforce` a known one becomes
    younger.

    `replaces` is closed when it still holds and says something else of the same subject and predicate.
    """
    same = [known for known in find_statements(tx, scope, new) if _says_the_same(known, new)]
    if any(known.deleted_at for known in same):
        return None
    current = next((known for known in same if known.valid_to is None), None)
    if current and reinforce:
        _reinforce(tx, scope, current, new.occurred_at or now_text())
    memory = current or add_memory(tx, scope, new, embed)
    if replaces is not None and replaces.id != memory.id and is_same_statement(replaces, new):
        _close(tx, scope, replaces.id, memory)
    return LearnedFact(memory, is_new=current is None)


def _says_the_same(known: Memory, new: NewMemory) -> bool:
    return fold(known.object) == fold(new.object) or fold(known.text) == fold(new.text)


def is_same_statement(known: Memory, new: NewMemory) -> bool:
    """Whether both say something of the same subject and predicate: only then can one take the other's place."""
    return (
        known.kind == new.kind == "fact"
        and bool(known.subject and known.predicate)
        and fold(known.subject) == fold(new.subject)
        and fold(known.predicate) == fold(new.predicate)
    )


def fold(text: str | None) -> str:
    """A text as statements are compared: white space, case and a final stop do not count."""
    return " ".join((text or "").casefold().split()).rstrip(".")


def split_text(text: str) -> list[str]:
    """The text in parts of at most EPISODE_CHARS, cut where a paragraph, a sentence or at least a word ends."""
    parts: list[str] = []
    rest = text.strip()
    while len(rest) > EPISODE_CHARS and len(parts) < _MOST_EPISODES - 1:
        window = rest[:EPISODE_CHARS]
        ends = (window.rfind("\n\n"), window.rfind("\n"), *(m.end() for m in re.finditer(r"[.!?。！？]\s", window)))
        cut = max((end for end in ends if end > EPISODE_CHARS // 3), default=window.rfind(" "))
        cut = cut if cut > 0 else EPISODE_CHARS
        parts.append(rest[:cut].strip())
        rest = rest[cut:].strip()
    return [part for part in (*parts, rest) if part]


def note_relation(tx: Connection, scope: Scope, memory_id: str) -> None:
    """Note that the memory is stated in the graph too, so that restoring it brings that back."""
    tx.execute("UPDATE memories SET states_relation = 1 WHERE id = ? AND scope_id = ?", (memory_id, scope.id))


# ── changing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def change_memory(
    tx: Connection, scope: Scope, memory_id: str, changes: Mapping[str, Any], embed: EmbedNow | None
) -> Memory:
    """Another text or time makes a new memory that takes this one's place; pinned and importance change in place.

    Raises NotFound, or Conflict for a memory that was deleted or superseded.
    """
    known = get_memory(tx, scope, memory_id)
    if known.deleted_at or known.superseded_by:
        raise Conflict("This memory is no longer current. Change the one that took its place, or restore it first.")
    for name in ("pinned", "importance"):
        if name in changes:
            tx.execute(f"UPDATE memories SET {name} = ? WHERE id = ?", (changes[name], memory_id))
    if "text" not in changes and "occurred_at" not in changes:
        return get_memory(tx, scope, memory_id)
    kept = get_memory(tx, scope, memory_id)
    new = NewMemory(
        text=changes.get("text", kept.text),
        kind="fact",
        occurred_at=changes.get("occurred_at", now_text()),
        subject=kept.subject,
        predicate=kept.predicate,
        category=kept.category,
        importance=kept.importance,
        speaker=kept.speaker,
    )
    memory = add_memory(tx, scope, new, embed)
    tx.execute("UPDATE memories SET pinned = ? WHERE id = ?", (int(kept.pinned), memory.id))
    _close(tx, scope, kept.id, memory)
    return get_memory(tx, scope, memory.id)


def delete_memory(tx: Connection, scope: Scope, memory_id: str) -> Memory:
    """Make it a tombstone: no search finds it any more. Idempotent. Raises NotFound."""
    memory = get_memory(tx, scope, memory_id)
    if memory.deleted_at is None:
        _unindex(tx, [memory])
        tx.execute(
            "UPDATE memories SET deleted_at = ?, embedded = 0 WHERE id = ? AND scope_id = ?",
            (now_text(), memory_id, scope.id),
        )
    return get_memory(tx, scope, memory_id)


def restore_memory(tx: Connection, scope: Scope, memory_id: str, embed: EmbedNow | None) -> Memory:
    """Bring back a deleted memory as it was, or make one that was superseded current again: then the last of those that
    took its place is superseded by it, and can be restored in turn. Idempotent. Raises NotFound.
    """
    memory = get_memory(tx, scope, memory_id)
    if memory.deleted_at is not None:
        tx.execute("UPDATE memories SET deleted_at = NULL WHERE id = ? AND scope_id = ?", (memory_id, scope.id))
        _index(tx, scope, memory, embed)
        tx.execute("UPDATE memories SET embedded = ? WHERE number = ?", (int(embed is not None), memory.number))
    elif memory.valid_to is not None:
        latest = _find_latest(tx, scope, memory)
        tx.execute(
            "UPDATE memories SET valid_to = NULL, superseded_by = NULL WHERE id = ? AND scope_id = ?",
            (memory_id, scope.id),
        )
        if latest is not None:
            _mark_closed(tx, scope, latest, memory_id)
    return get_memory(tx, scope, memory_id)


def purge_memories(
    tx: Connection,
    scope: Scope,
    *,
    message_ids: Sequence[str] | None = None,
    conversation_id: str | None = None,
) -> Purged:
    """Erase for good, words and vectors too, what came from some messages, from a conversation, or all of the scope.

    What was superseded by something erased holds again.
    """
    condition, values = "1", []
    if message_ids is not None:
        condition, values = f"source_message_id {IN_LIST}", [pack_list(message_ids)]
    elif conversation_id is not None:
        condition, values = "conversation_id = ?", [conversation_id]
    rows = tx.execute(f"SELECT * FROM memories WHERE scope_id = ? AND {condition}", (scope.id, *values)).fetchall()
    doomed = [_read_memory(row) for row in rows]
    _unindex(tx, [memory for memory in doomed if memory.deleted_at is None])
    tx.executemany("DELETE FROM memories WHERE number = ?", [(memory.number,) for memory in doomed])
    revived = tx.execute(
        f"UPDATE memories SET superseded_by = NULL, valid_to = NULL WHERE scope_id = ? AND superseded_by {IN_LIST}"
        " RETURNING id",
        (scope.id, pack_list(memory.id for memory in doomed)),
    ).fetchall()
    return Purged([memory.text for memory in doomed], [row["id"] for row in revived])


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def get_memory(conn: Connection, scope: Scope, memory_id: str) -> Memory:
    """The memory, tombstones and superseded ones included. Raises NotFound, also when it is someone else's."""
    row = conn.execute("SELECT * FROM memories WHERE id = ? AND scope_id = ?", (memory_id, scope.id)).fetchone()
    if row is None:
        raise NotFound("There is no memory with this id.")
    return _read_memory(row)


def find_end(conn: Connection, scope: Scope, memory_id: str) -> str | None:
    """Since when the memory is true no longer, if it is not."""
    row = conn.execute("SELECT valid_to FROM memories WHERE id = ? AND scope_id = ?", (memory_id, scope.id)).fetchone()
    return row["valid_to"] if row else None


def list_memories(
    conn: Connection,
    scope: Scope,
    *,
    limit: int,
    kind: MemoryKind | None = None,
    before: str | None = None,
    deleted: bool = False,
) -> list[Memory]:
    """Newest first; superseded ones are among them, tombstones only with `deleted`. `before` is the last id of the
    page before. Raises UnknownBefore.
    """
    edge: tuple[str, int] = ("~", 0)  # above every time
    if before is not None:
        try:
            last = get_memory(conn, scope, before)
        except NotFound:
            raise UnknownBefore from None
        edge = (last.occurred_at, last.number)
    rows = conn.execute(
        "SELECT * FROM memories WHERE scope_id = ? AND (occurred_at, number) < (?, ?) AND (? IS NULL OR kind = ?)"
        f" AND deleted_at IS {'NOT' if deleted else ''} NULL ORDER BY occurred_at DESC, number DESC LIMIT +?",
        (scope.id, *edge, kind, kind, limit),
    )
    return [_read_memory(row) for row in rows]


def find_related_facts(conn: Connection, scope: Scope, text: str, *, limit: int) -> list[Memory]:
    """The current facts that a text may repeat or make untrue: the nearest in words, then the latest about the user.

    A move from one town to another shares no word with what it makes untrue, so words alone would miss it.
    """
    near = conn.search.find_facts(conn, scope, split_words(text)[:200], limit=limit // 2)
    latest = conn.execute(
        "SELECT * FROM memories WHERE scope_id = ? AND kind = 'fact' AND subject = 'user' AND valid_to IS NULL"
        " AND deleted_at IS NULL ORDER BY number DESC LIMIT +?",
        (scope.id, limit),
    ).fetchall()
    found = {row["number"]: _read_memory(row) for row in (*near, *latest)}
    return list(found.values())[:limit]


def find_statements(conn: Connection, scope: Scope, new: NewMemory) -> list[Memory]:
    """Every fact of the same subject and predicate, tombstones and closed ones included, newest first."""
    rows = conn.execute(STATEMENTS, (scope.id, new.subject, new.predicate))
    return [_read_memory(row) for row in rows]


STATEMENTS = (
    "SELECT * FROM memories WHERE scope_id = ? AND kind = 'fact' AND subject = ? AND predicate = ? ORDER BY number DESC"
)


def list_forgotten_messages(conn: Connection, scope: Scope, message_ids: Sequence[str]) -> set[str]:
    """Those of some messages that the user had forgotten, by deleting what of them could be recalled."""
    rows = conn.execute(
        f"SELECT source_message_id FROM memories WHERE source_message_id {IN_LIST}"
        " AND +scope_id = ? AND kind = 'episode' AND deleted_at IS NOT NULL",
        (pack_list(message_ids), scope.id),
    )
    return {row["source_message_id"] for row in rows}


def load_memories(conn: Connection, scope: Scope, numbers: Iterable[int]) -> dict[int, Memory]:
    """Some memories by number; ones of another scope are not among them."""
    rows = conn.execute(
        # "+" keeps the planner from reading the whole scope by its index
        f"SELECT * FROM memories WHERE number {IN_LIST} AND +scope_id = ?",
        (pack_list(numbers), scope.id),
    )
    return {row["number"]: _read_memory(row) for row in rows}


def load_texts(conn: Connection, scope: Scope, ids: Sequence[str]) -> dict[str, str]:
    """The texts of some memories by id; erased and deleted ones are not among them."""
    rows = conn.execute(
        f"SELECT id, text FROM memories WHERE id {IN_LIST} AND +scope_id = ? AND deleted_at IS NULL",
        (pack_list(ids), scope.id),
    )
    return {row["id"]: row["text"] for row in rows}


def is_mentioned(conn: Connection, scope: Scope, name: str) -> bool:
    """Whether a living memory has these words, one after the other."""
    return conn.search.has_phrase(conn, scope, name)


def load_history(conn: Connection, scope: Scope, memory: Memory) -> list[Memory]:
    """Every form the memory has had, oldest first, itself included."""
    rows = conn.execute(
        "WITH RECURSIVE earlier (id) AS (SELECT ?1 UNION SELECT memories.id FROM memories JOIN earlier"
        " ON memories.superseded_by = earlier.id WHERE memories.scope_id = ?2),"
        " later (id) AS (SELECT ?1 UNION SELECT memories.superseded_by FROM memories JOIN later"
        " ON memories.id = later.id WHERE memories.scope_id = ?2 AND memories.superseded_by IS NOT NULL)"
        " SELECT * FROM memories WHERE scope_id = ?2 AND id IN (SELECT id FROM earlier UNION SELECT id FROM later)"
        " ORDER BY number",
        (memory.id, scope.id),
    )
    return [_read_memory(row) for row in rows]


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _reinforce(tx: Connection, scope: Scope, memory: Memory, moment: str) -> None:
    """It was said again: its age counts from now."""
    tx.execute(
        "UPDATE memories SET reinforced_at = max(coalesce(reinforced_at, ''), ?), reinforcements = reinforcements + 1"
        " WHERE id = ? AND scope_id = ?",
        (moment, memory.id, scope.id),
    )


def _close(tx: Connection, scope: Scope, memory_id: str, successor: Memory) -> None:
    """It was true until its successor was."""
    tx.execute(
        "UPDATE memories SET valid_to = max(valid_from, ?), superseded_by = ? WHERE id = ? AND scope_id = ?"
        " AND valid_to IS NULL",
        (successor.valid_from, successor.id, memory_id, scope.id),
    )


def _find_latest(conn: Connection, scope: Scope, memory: Memory) -> str | None:
    """The last of those that took a memory's place, one after the other."""
    row = conn.execute(
        "WITH RECURSIVE later (id) AS (SELECT ?1 UNION SELECT superseded_by FROM memories JOIN later USING (id)"
        " WHERE scope_id = ?2 AND superseded_by IS NOT NULL)"
        " SELECT id FROM memories JOIN later USING (id) WHERE superseded_by IS NULL",
        (memory.superseded_by, scope.id),
    ).fetchone()
    return row["id"] if row else None


def _mark_closed(tx: Connection, scope: Scope, memory_id: str, successor_id: str) -> None:
    tx.execute(
        "UPDATE memories SET valid_to = ?, superseded_by = ? WHERE id = ? AND scope_id = ? AND valid_to IS NULL",
        (now_text(), successor_id, memory_id, scope.id),
    )


def _index(tx: Connection, scope: Scope, memory: Memory, embed: EmbedNow | None, *, is_new: bool = False) -> None:
    index_memory(
        tx,
        scope,
        memory.number,
        text=memory.text,
        occurred_at=memory.occurred_at,
        conversation_id=memory.conversation_id if memory.kind == "episode" else None,
        embed=embed,
        is_new=is_new,
    )


def _unindex(tx: Connection, memories: Iterable[Memory]) -> None:
    for memory in memories:
        unindex_memory(tx, memory.number, text=memory.text, occurred_at=memory.occurred_at)


def _read_memory(row: Row) -> Memory:
    values = list(map(row.__getitem__, Memory._fields))
    for flag in _FLAGS:
        values[flag] = bool(values[flag])
    return Memory._make(values)


_FLAGS = [Memory._fields.index(name) for name in ("pinned", "states_relation")]
