"""Conversations and their rolling summaries: rows in and out, in one scope at a time."""

from collections.abc import Mapping
from typing import Any

from staffstream.domain import Conversation, Scope, make_id, now_text
from staffstream.errors import NotFound, UnknownBefore
from staffstream.storage.database import Connection, Row

_NO_CONVERSATION = "There is no conversation with this id."


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────────


def create_conversation(
    tx: Connection,
    scope: Scope,
    *,
    title: str = "",
    user_name: str = "",
    time_zone: str = "",
    is_default: bool = False,
    external_id: str | None = None,
) -> Conversation:
    """A new empty conversation; `external_id` is a client's own id of it."""
    now = now_text()
    row = tx.execute(
        "INSERT INTO conversations (id, scope_id, title, user_name, time_zone, is_default, created_at, updated_at,"
        " external_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
        (make_id(), scope.id, title, user_name, time_zone, int(is_default), now, now, external_id),
    ).fetchone()
    return _read_conversation(row, scope)


def get_conversation(conn: Connection, scope: Scope, conversation_id: str) -> Conversation:
    """The conversation. Raises NotFound, also when it is someone else's."""
    row = conn.execute(
        "SELECT * FROM conversations WHERE id = ? AND scope_id = ?", (conversation_id, scope.id)
    ).fetchone()
    if row is None:
        raise NotFound(_NO_CONVERSATION)
    return _read_conversation(row, scope)


def find_named_conversation(conn: Connection, scope: Scope, name: str) -> Conversation | None:
    """The conversation that a client calls so: by its own id of it, or by ours."""
    for column in ("external_id", "id"):
        found = conn.execute(f"SELECT * FROM conversations WHERE scope_id = ? AND {column} = ?", (scope.id, name))
        if row := found.fetchone():
            return _read_conversation(row, scope)
    return None


def move_external_id(tx: Connection, source: Conversation, target: Conversation) -> None:
    """Let a client's own id name another conversation of the same scope from here on."""
    tx.execute("UPDATE conversations SET external_id = NULL WHERE id = ?", (source.id,))
    tx.execute("UPDATE conversations SET external_id = ? WHERE id = ?", (source.external_id, target.id))


def find_default_conversation(conn: Connection, scope: Scope) -> Conversation | None:
    """The pair's default conversation, if they have talked in it."""
    row = conn.execute("SELECT * FROM conversations WHERE scope_id = ? AND is_default = 1", (scope.id,)).fetchone()
    return _read_conversation(row, scope) if row else None


def ensure_conversation(tx: Connection, scope: Scope, conversation_id: str | None) -> Conversation:
    """The named conversation, or the default one, made if need be. Raises NotFound for an unknown name."""
    if conversation_id is not None:
        return get_conversation(tx, scope, conversation_id)
    return find_default_conversation(tx, scope) or create_conversation(tx, scope, is_default=True)


def list_conversations(conn: Connection, scope: Scope, *, limit: int, before: str | None) -> list[Conversation]:
    """Most recently used first; `before` is the last id of the page before. Raises UnknownBefore."""
    edge: tuple[str, str] = ("~", "~")  # above every time
    if before is not None:
        try:
            last = get_conversation(conn, scope, before)
        except NotFound:
            raise UnknownBefore from None
        edge = (last.updated_at, last.id)
    rows = conn.execute(
        "SELECT * FROM conversations WHERE scope_id = ? AND (updated_at, id) < (?, ?)"
        " ORDER BY updated_at DESC, id DESC LIMIT +?",
        (scope.id, *edge, limit),
    )
    return [_read_conversation(row, scope) for row in rows]


def update_conversation(tx: Connection, scope: Scope, conversation_id: str, changes: Mapping[str, Any]) -> Conversation:
    """Change title, user_name or time_zone. Raises NotFound."""
    get_conversation(tx, scope, conversation_id)
    for name in ("title", "user_name", "time_zone"):
        if name in changes:
            tx.execute(f"UPDATE conversations SET {name} = ? WHERE id = ?", (changes[name], conversation_id))
    tx.execute("UPDATE conversations SET updated_at = ? WHERE id = ?", (now_text(), conversation_id))
    return get_conversation(tx, scope, conversation_id)


def list_unused(
    conn: Connection, *, before: str, limit: int, conversation_id: str | None = None
) -> list[tuple[Scope, str]]:
    """Conversations (or the one that is named) of all scopes without a message since a moment and without an
    active run.
    """
    rows = conn.execute(
        "SELECT conversations.id AS conversation_id, scopes.* FROM conversations"
        " JOIN scopes ON scopes.id = conversations.scope_id WHERE updated_at < ? AND NOT EXISTS"
        " (SELECT 1 FROM runs WHERE runs.conversation_id = conversations.id AND finished_at IS NULL)"
        " AND (? IS NULL OR conversations.id = ?) LIMIT +?",
        (before, conversation_id, conversation_id, limit),
    )
    return [(Scope(row["id"], row["staff_id"], row["user_id"]), row["conversation_id"]) for row in rows]


def load_names(conn: Connection, scope: Scope) -> tuple[list[str], str]:
    """What the user is called in the scope's latest conversations, and the staff member's name."""
    rows = conn.execute(
        "SELECT member.name, recent.user_name FROM staff AS member LEFT JOIN (SELECT user_name FROM conversations"
        " WHERE scope_id = ? ORDER BY updated_at DESC LIMIT 20) AS recent ON recent.user_name <> ''"
        " WHERE member.id = ?",
        (scope.id, scope.staff_id),
    ).fetchall()
    users = [row["user_name"] for row in rows if row["user_name"]]
    return list(dict.fromkeys(users)), rows[0]["name"] if rows else ""


def find_time_zone(conn: Connection, scope: Scope, conversation_id: str) -> str:
    """The user's time zone: the conversation's, or the last one given in their latest conversations; "" if none is."""
    row = conn.execute(
        "SELECT time_zone FROM (SELECT * FROM conversations WHERE scope_id = ?1 AND id = ?2 UNION ALL SELECT * FROM"
        " (SELECT * FROM conversations WHERE scope_id = ?1 ORDER BY updated_at DESC LIMIT 20) AS latest) AS looked_at"
        " WHERE time_zone <> '' ORDER BY (id = ?2) DESC, updated_at DESC LIMIT 1",
        (scope.id, conversation_id),
    ).fetchone()
    return str(row["time_zone"]) if row else ""


# ── rolling summaries ────────────────────────────────────────────────────────────────────────────────────────────────


def load_summary(conn: Connection, scope: Scope, conversation_id: str) -> tuple[str, int]:
    """The rolling summary and the last turn it covers; ("", 0) if there is none."""
    row = conn.execute(
        "SELECT text, until_turn FROM summaries JOIN conversations ON conversations.id = conversation_id"
        " WHERE conversation_id = ? AND scope_id = ?",
        (conversation_id, scope.id),
    ).fetchone()
    return (row["text"], row["until_turn"]) if row else ("", 0)


def set_summary(tx: Connection, scope: Scope, conversation_id: str, text: str, until_turn: int, *, model: str) -> None:
    """Put a new summary in the old one's place. Raises NotFound."""
    get_conversation(tx, scope, conversation_id)
    tx.execute(
        "INSERT INTO summaries (conversation_id, text, until_turn, model, updated_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (conversation_id) DO UPDATE SET text = excluded.text, until_turn = excluded.until_turn,"
        " model = excluded.model, updated_at = excluded.updated_at",
        (conversation_id, text, until_turn, model, now_text()),
    )


def drop_summary(tx: Connection, scope: Scope, conversation_id: str, *, covering_turn: int) -> None:
    """Erase a summary that covers a turn whose text is being erased; it is written anew from what is left."""
    tx.execute(
        "DELETE FROM summaries WHERE conversation_id = ? AND until_turn >= ? AND EXISTS"
        " (SELECT 1 FROM conversations WHERE id = conversation_id AND scope_id = ?)",
        (conversation_id, covering_turn, scope.id),
    )


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def set_times(tx: Connection, scope: Scope, conversation_id: str, *, created_at: str, updated_at: str) -> None:
    """Give an imported conversation the dates of its messages."""
    tx.execute(
        "UPDATE conversations SET created_at = ?, updated_at = ? WHERE id = ? AND scope_id = ?",
        (created_at, updated_at, conversation_id, scope.id),
    )


def take_turns(tx: Connection, conversation_id: str, count: int, now: str) -> int:
    """Move the conversation's last turn on by `count` and return it."""
    row = tx.execute(
        "UPDATE conversations SET last_turn = last_turn + ?, updated_at = ? WHERE id = ? RETURNING last_turn",
        (count, now, conversation_id),
    ).fetchone()
    return int(row["last_turn"])


def _read_conversation(row: Row, scope: Scope) -> Conversation:
    return Conversation(
        id=row["id"],
        staff_id=scope.staff_id,
        title=row["title"],
        user_name=row["user_name"],
        is_default=bool(row["is_default"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        time_zone=row["time_zone"],
        external_id=row["external_id"],
    )
