"""Scopes that no query reads: they hold what is being erased or imported in many small transactions.

Every query has its scope, so rows that are moved to a hidden scope are gone for every reader at once, and show again
for all at once. A memory keeps its number meanwhile, by which its words and vector are found. No user's id begins with
a control character (`auth.identify_caller`), so nobody is a hidden scope's user.
"""

import json
from collections.abc import Iterable

from staffstream.domain import Scope, make_id
from staffstream.errors import NotFound
from staffstream.storage import conversations, graph, memories, meta, staff
from staffstream.storage.database import IN_LIST, Connection, pack_list

_ERASED, _IMPORTED = "\x1ferased ", "\x1fimported "
_MOVED = ("memories", "messages", "runs")


# ── hiding ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def hide_staff(tx: Connection, staff_id: str) -> None:
    """A staff member and all that it holds is gone from now on; it is left to be purged. Raises NotFound."""
    staff.mark_erased(tx, staff_id)
    of_staff = "scope_id IN (SELECT id FROM scopes WHERE staff_id = ?)"
    tx.execute(f"DELETE FROM jobs WHERE {of_staff}", (staff_id,))
    tx.execute(f"DELETE FROM runs WHERE state = 'queued' AND {of_staff}", (staff_id,))


def hide_user(tx: Connection, user_id: str) -> bool:
    """Everything of a user with all staff members is gone from now on; it is left to be purged. False if there is
    nothing.
    """
    of_user = "scope_id IN (SELECT id FROM scopes WHERE user_id = ?)"
    tx.execute(f"DELETE FROM jobs WHERE {of_user}", (user_id,))
    tx.execute(f"DELETE FROM runs WHERE state = 'queued' AND {of_user}", (user_id,))
    hidden = tx.execute(
        "UPDATE scopes SET user_id = ? || CAST(id AS TEXT) WHERE user_id = ?", (f"{_ERASED}user ", user_id)
    )
    return hidden.rowcount > 0


def list_words(conn: Connection, scope: Scope, conversation_id: str) -> set[str]:
    """The folded words of all memories of a conversation: a name that is made of them may have stood there alone."""
    rows = conn.execute(
        "SELECT text FROM memories WHERE scope_id = ? AND conversation_id = ?", (scope.id, conversation_id)
    )
    return {word for row in rows for word in graph.fold_name(row["text"]).split()}


def hide_conversation(tx: Connection, scope: Scope, conversation_id: str, words: Iterable[str]) -> None:
    """A conversation with all that came from it is gone from now on; it is left to be purged. `words` are its memories'
    by `list_words`, read before because that takes long. What it had superseded holds again. Raises NotFound.
    """
    conversations.get_conversation(tx, scope, conversation_id)
    hidden = staff.ensure_scope(tx, scope.staff_id, f"{_ERASED}{scope.id}")
    note = f"erased words {hidden.id}"
    meta.set_note(tx, note, json.dumps(sorted({*words, *json.loads(meta.find_note(tx, note) or "[]")})))
    of_runs = "SELECT id FROM runs WHERE conversation_id = ?"
    tx.execute(
        f"DELETE FROM jobs WHERE subject = ? OR subject IN (SELECT id FROM deliveries WHERE run_id IN ({of_runs}))",
        (conversation_id, conversation_id),
    )
    for table in ("deliveries", "idempotency_keys"):
        tx.execute(f"DELETE FROM {table} WHERE run_id IN ({of_runs})", (conversation_id,))
    erased = tx.execute("SELECT id FROM memories WHERE conversation_id = ?", (conversation_id,)).fetchall()
    packed = pack_list(row["id"] for row in erased)
    tx.execute(f"DELETE FROM memory_entities WHERE memory_id {IN_LIST}", (packed,))
    tx.execute(f"DELETE FROM relations WHERE memory_id {IN_LIST}", (packed,))
    tx.execute(
        "DELETE FROM relations WHERE source_message_id IN (SELECT id FROM messages WHERE conversation_id = ?)",
        (conversation_id,),
    )
    _move(tx, conversation_id, hidden)
    revived = memories.revive_superseded(tx, scope, packed)
    graph.reopen_relations(tx, scope, revived)
    graph.drop_orphans(tx, scope)


def open_import(tx: Connection, staff_id: str) -> Scope:
    """A hidden scope for one import; `purge_some` erases what is left in it of one that was broken off."""
    return staff.ensure_scope(tx, staff_id, _IMPORTED + make_id())


def hide_memories(tx: Connection, memory_ids: Iterable[str], hidden: Scope) -> None:
    """Move memories that this transaction has made to the scope of their import."""
    tx.execute(f"UPDATE memories SET scope_id = ? WHERE id {IN_LIST}", (hidden.id, pack_list(memory_ids)))


def hide_episodes(tx: Connection, scope: Scope, conversation_id: str, hidden: Scope) -> None:
    """The same for what was made of a conversation."""
    tx.execute(
        "UPDATE memories SET scope_id = ? WHERE scope_id = ? AND conversation_id = ?",
        (hidden.id, scope.id, conversation_id),
    )


def give_up_import(tx: Connection, hidden: Scope) -> None:
    """Leave what there is of an import to be purged."""
    tx.execute("UPDATE scopes SET user_id = ? WHERE id = ?", (_ERASED + make_id(), hidden.id))


def show_import(tx: Connection, hidden: Scope, scope: Scope, conversation_id: str | None = None) -> None:
    """All of an import is there at once: its memories, and its conversation. Raises NotFound if it was given up."""
    if tx.execute("SELECT 1 FROM scopes WHERE id = ?", (hidden.id,)).fetchone() is None:
        raise NotFound("The import was given up.")
    if conversation_id is not None:
        _move(tx, conversation_id, scope)
    tx.execute("UPDATE memories SET scope_id = ? WHERE scope_id = ?", (scope.id, hidden.id))
    tx.execute("DELETE FROM scopes WHERE id = ?", (hidden.id,))


def _move(tx: Connection, conversation_id: str, to: Scope) -> None:
    for table in _MOVED:
        tx.execute(f"UPDATE {table} SET scope_id = ? WHERE conversation_id = ?", (to.id, conversation_id))
    tx.execute(
        "UPDATE fingerprints SET scope_id = ? WHERE message_id IN (SELECT id FROM messages WHERE conversation_id = ?)",
        (to.id, conversation_id),
    )
    tx.execute(
        "UPDATE conversations SET scope_id = ?, is_default = 0, external_id = NULL WHERE id = ?",  # its name is free
        (to.id, conversation_id),
    )


# ── purging ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def list_erased(conn: Connection, *, imports: bool = False) -> list[Scope]:
    """The scopes with something to purge: of erased conversations and staff members; with `imports` those of imports
    too, which are left over only where no other process may be importing.
    """
    rows = conn.execute(
        "SELECT scopes.* FROM scopes JOIN staff ON staff.id = staff_id WHERE erased_at IS NOT NULL"
        " OR user_id LIKE ? OR user_id LIKE ?",
        (f"{_ERASED}%", f"{_IMPORTED if imports else _ERASED}%"),
    )
    return [Scope(row["id"], row["staff_id"], row["user_id"]) for row in rows]


def purge_some(tx: Connection, scope: Scope, limit: int) -> bool:
    """Erase up to so many memories, or else messages or entities, of a scope with all that hangs on them. False when
    there is nothing left, and the scope is gone too.
    """
    if memories.purge_oldest(tx, scope, limit=limit):
        return True
    for table in ("messages", "entities"):
        statement = f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE scope_id = ? LIMIT +?)"
        if tx.execute(statement, (scope.id, limit)).rowcount:
            return True
    _repair_names(tx, scope)
    tx.execute("DELETE FROM scopes WHERE id = ?", (scope.id,))
    return False


def _repair_names(tx: Connection, hidden: Scope) -> None:
    """Drop the names that stood in the erased memories alone, now that their words are out of the index."""
    note = f"erased words {hidden.id}"
    words = set(json.loads(meta.find_note(tx, note) or "[]"))
    if not words:
        return
    meta.drop_note(tx, note)
    try:
        scope = staff.load_scope(tx, int(hidden.user_id.removeprefix(_ERASED)))
    except NotFound:  # its staff member was erased meanwhile
        return
    drop_names(tx, scope, words)


def list_erased_staff(conn: Connection) -> list[str]:
    """The staff members that are marked as erased."""
    return [row["id"] for row in conn.execute("SELECT id FROM staff WHERE erased_at IS NOT NULL")]


def drop_names(tx: Connection, scope: Scope, words: set[str]) -> None:
    """Drop the names made of these words that no memory mentions any more."""
    known = {graph.fold_name(name) for name in conversations.load_names(tx, scope)[0]}
    for name in graph.list_all_names(tx, scope):
        if name not in known and words.issuperset(name.split()) and not memories.is_mentioned(tx, scope, name):
            graph.drop_name(tx, scope, name)
