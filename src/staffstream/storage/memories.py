"""Memories of one scope: facts that were learned or told, and episodes, which are messages made searchable. Rows in
and out.

Nothing is overwritten: a fact that is no longer true is closed (`valid_to`, `superseded_by`) and stays in its
history. A deleted memory stays as a tombstone, out of every index, so that it can be restored and is not learned
again. Words go into the full-text index and vectors beside it in the transaction that saves the memory (see
memory_search.py).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from staffstream.domain import MemoryKind, Message, Scope, make_id, now_text
from staffstream.errors import Conflict, NotFound
from staffstream.storage.database import IN_LIST, Connection, Row, pack_list
from staffstream.storage.memory_search import index_memory, unindex_memory
from staffstream.storage.numbers import take_number
from staffstream.storage.passages import split_passages
from staffstream.storage.vectors import EmbedNow


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
    memory = read_memory(row)
    _index(tx, scope, memory, embed, is_new=True)
    return memory


def add_episode(tx: Connection, scope: Scope, message: Message, *, speaker: str, embed: EmbedNow | None) -> None:
    """Make a message searchable; a blank one holds nothing to find."""
    for part in split_passages(message.content):
        new = NewMemory(
            text=part,
            kind="episode",
            occurred_at=message.created_at,
            speaker=speaker,
            conversation_id=message.conversation_id,
            source_message_id=message.id,
        )
        add_memory(tx, scope, new, embed)


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
        object=find_changed_object(kept, changes.get("text", kept.text)),
        category=kept.category,
        quote=kept.quote,
        importance=kept.importance,
        speaker=kept.speaker,
        conversation_id=kept.conversation_id if kept.kind == "fact" else None,
        source_message_id=kept.source_message_id if kept.kind == "fact" else None,
    )
    memory = add_memory(tx, scope, new, embed)
    tx.execute("UPDATE memories SET pinned = ? WHERE id = ?", (int(kept.pinned), memory.id))
    close_memory(tx, scope, kept.id, valid_to=memory.valid_from, superseded_by=memory.id)
    return get_memory(tx, scope, memory.id)


def find_changed_object(memory: Memory, text: str) -> str | None:
    """What the object of a statement has become in its new text, which has other words in the object's place alone;
    None if more than that was changed.
    """
    found = re.search(f"(.*)({re.escape(memory.object or '')})(.*)", memory.text, re.IGNORECASE | re.DOTALL)
    if not memory.object or not found:
        return None
    before, _, after = found.groups()
    changed = text[len(before) : len(text) - len(after)].strip()
    return changed if changed and text.startswith(before) and text.endswith(after) else None


def close_memory(tx: Connection, scope: Scope, memory_id: str, *, valid_to: str, superseded_by: str) -> None:
    """End a memory that still holds: another one took its place."""
    tx.execute(
        "UPDATE memories SET valid_to = max(valid_from, ?), superseded_by = ? WHERE id = ? AND scope_id = ?"
        " AND valid_to IS NULL",
        (valid_to, superseded_by, memory_id, scope.id),
    )


def reinforce_memory(tx: Connection, scope: Scope, memory_id: str, moment: str) -> None:
    """The user said it again at a moment: its age counts from there."""
    tx.execute(
        "UPDATE memories SET reinforced_at = max(coalesce(reinforced_at, ''), ?), reinforcements = reinforcements + 1"
        " WHERE id = ? AND scope_id = ?",
        (moment, memory_id, scope.id),
    )


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
            close_memory(tx, scope, latest, valid_to=now_text(), superseded_by=memory_id)
    return get_memory(tx, scope, memory_id)


def purge_memories(
    tx: Connection,
    scope: Scope,
    *,
    memory_ids: Sequence[str] | None = None,
    message_ids: Sequence[str] | None = None,
    conversation_id: str | None = None,
) -> Purged:
    """Erase for good, words and vectors too: some memories, those of some messages or of a conversation, or all of the
    scope.

    What was superseded by something erased holds again.
    """
    condition, values = "1 = 1", list[str]()
    if message_ids is not None:
        condition, values = f"source_message_id {IN_LIST}", [pack_list(message_ids)]
    elif memory_ids is not None:
        condition, values = f"id {IN_LIST}", [pack_list(memory_ids)]
    elif conversation_id is not None:
        condition, values = "conversation_id = ?", [conversation_id]
    rows = tx.execute(f"SELECT * FROM memories WHERE scope_id = ? AND {condition}", (scope.id, *values)).fetchall()
    doomed = [read_memory(row) for row in rows]
    _unindex(tx, [memory for memory in doomed if memory.deleted_at is None])
    tx.executemany("DELETE FROM memories WHERE number = ?", [(memory.number,) for memory in doomed])
    revived = revive_superseded(tx, scope, pack_list(memory.id for memory in doomed))
    return Purged([memory.text for memory in doomed], revived)


def purge_oldest(tx: Connection, scope: Scope, *, limit: int) -> bool:
    """Erase up to so many of the scope's memories for good, words and vectors too. False when it has none."""
    rows = tx.execute("SELECT * FROM memories WHERE scope_id = ? LIMIT +?", (scope.id, limit)).fetchall()
    doomed = [read_memory(row) for row in rows]
    _unindex(tx, [memory for memory in doomed if memory.deleted_at is None])
    tx.executemany("DELETE FROM memories WHERE number = ?", [(memory.number,) for memory in doomed])
    return bool(doomed)


def revive_superseded(tx: Connection, scope: Scope, erased: str) -> list[str]:
    """What was superseded by erased memories, a packed list of ids, holds again; the ids of what does."""
    rows = tx.execute(
        f"UPDATE memories SET superseded_by = NULL, valid_to = NULL WHERE scope_id = ? AND superseded_by {IN_LIST}"
        " RETURNING id",
        (scope.id, erased),
    )
    return [row["id"] for row in rows]


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def get_memory(conn: Connection, scope: Scope, memory_id: str) -> Memory:
    """The memory, tombstones and superseded ones included. Raises NotFound, also when it is someone else's."""
    row = conn.execute("SELECT * FROM memories WHERE id = ? AND scope_id = ?", (memory_id, scope.id)).fetchone()
    if row is None:
        raise NotFound("There is no memory with this id.")
    return read_memory(row)


def list_learned(conn: Connection, scope: Scope, conversation_id: str, *, since: str) -> list[Memory]:
    """The facts that were learned from a conversation since a moment, in the order of learning."""
    rows = conn.execute(
        "SELECT * FROM memories WHERE scope_id = ? AND conversation_id = ? AND kind = 'fact' AND created_at >= ?"
        " AND deleted_at IS NULL ORDER BY number",
        (scope.id, conversation_id, since),
    )
    return [read_memory(row) for row in rows]


def list_forgotten_messages(conn: Connection, scope: Scope, message_ids: Sequence[str]) -> set[str]:
    """Those of some messages that the user had forgotten, by deleting what of them could be recalled."""
    rows = conn.execute(
        f"SELECT source_message_id FROM memories WHERE source_message_id {IN_LIST}"
        " AND +scope_id = ? AND kind = 'episode' AND deleted_at IS NOT NULL",
        (pack_list(message_ids), scope.id),
    )
    return {row["source_message_id"] for row in rows}


def list_sources_of_deleted(conn: Connection, scope: Scope, message_ids: Sequence[str]) -> set[str]:
    """Those of some messages that a deleted memory came from."""
    rows = conn.execute(
        f"SELECT source_message_id FROM memories WHERE source_message_id {IN_LIST}"
        " AND +scope_id = ? AND deleted_at IS NOT NULL",
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
    return {row["number"]: read_memory(row) for row in rows}


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
        "WITH RECURSIVE earlier (id) AS (SELECT ?1 COLLATE BINARY UNION SELECT memories.id FROM memories JOIN earlier"
        " ON memories.superseded_by = earlier.id WHERE memories.scope_id = ?2),"
        " later (id) AS (SELECT ?1 COLLATE BINARY UNION SELECT memories.superseded_by FROM memories JOIN later"
        " ON memories.id = later.id WHERE memories.scope_id = ?2 AND memories.superseded_by IS NOT NULL)"
        " SELECT * FROM memories WHERE scope_id = ?2 AND id IN (SELECT id FROM earlier UNION SELECT id FROM later)"
        " ORDER BY number",
        (memory.id, scope.id),
    )
    return [read_memory(row) for row in rows]


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _find_latest(conn: Connection, scope: Scope, memory: Memory) -> str | None:
    """The last of those that took a memory's place, one after the other."""
    row = conn.execute(
        "WITH RECURSIVE later (id) AS (SELECT ?1 COLLATE BINARY UNION"
        " SELECT superseded_by FROM memories JOIN later USING (id) WHERE scope_id = ?2 AND superseded_by IS NOT NULL)"
        " SELECT id FROM memories JOIN later USING (id) WHERE superseded_by IS NULL",
        (memory.superseded_by, scope.id),
    ).fetchone()
    return row["id"] if row else None


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


def read_memory(row: Row) -> Memory:
    values = list(map(row.__getitem__, Memory._fields))
    for flag in _FLAGS:
        values[flag] = bool(values[flag])
    return Memory._make(values)


_FLAGS = [Memory._fields.index(name) for name in ("pinned", "states_relation")]
