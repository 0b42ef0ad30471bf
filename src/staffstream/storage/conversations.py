"""Conversations and their messages: rows in and out, in one scope at a time.

Messages are immutable and ordered by (turn, id): a turn is a question with its answers, so that a question that
waited in the queue is still followed by its own answer.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from staffstream.domain import (
    Conversation,
    Message,
    MessageStatus,
    MessageType,
    Run,
    Scope,
    make_id,
    now_text,
)
from staffstream.errors import BadRequest, NotFound, UnknownBefore
from staffstream.storage import fingerprints
from staffstream.storage.database import Connection, Row

_NO_CONVERSATION = "There is no conversation with this id."
_NO_MESSAGE = "There is no message with this id."
_LATER_MESSAGES = 9223372036854775807  # above every turn


@dataclass(frozen=True, slots=True)
class ImportedMessage:
    """A message of a past conversation; `created_at` is RFC 3339 UTC text with milliseconds."""

    message_type: MessageType
    content: str
    created_at: str


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
    """Conversations (or the one that is named) of all scopes in which nothing was said since a moment and nothing is
    being made.
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


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def append_user_message(
    tx: Connection, scope: Scope, conversation: Conversation, content: str, *, path: int | None = None
) -> Message:
    """Save a question as a new turn. `path` is the fingerprint of the history that its client repeats before it."""
    now = now_text()
    turn = _take_turns(tx, conversation.id, 1, now)
    message = _insert_message(tx, scope, conversation.id, make_id(), turn, "user", content, "complete", now)
    fingerprints.add_question(tx, scope, message, path=path)
    return message


def append_reply(
    tx: Connection,
    run: Run,
    content: str,
    *,
    status: MessageStatus,
    model: str | None = None,
    stop_reason: str | None = None,
    usage: dict[str, Any] | None = None,
) -> Message:
    """Save a run's reply under the run's own id, within its question's turn."""
    message = _insert_message(
        tx, run.scope, run.conversation_id, run.id, run.turn, "assistant", content, status, now_text(),
        reply_to=run.user_message_id, model=model, stop_reason=stop_reason, usage=usage,
    )  # fmt: skip
    tx.execute("UPDATE conversations SET updated_at = ? WHERE id = ?", (message.created_at, run.conversation_id))
    fingerprints.add_reply(tx, run.scope, message)
    return message


def draft_question(conn: Connection, scope: Scope, conversation_id: str | None, content: str) -> Message:
    """A question as it would be saved next, for a preview; nothing is stored. Raises NotFound.

    Its id is above those of all messages so far, as the id of a saved one would be: what is later is not recalled.
    """
    if conversation_id is not None:
        get_conversation(conn, scope, conversation_id)
    elif found := find_default_conversation(conn, scope):
        conversation_id = found.id
    return Message(
        make_id(), scope.staff_id, conversation_id or "", _LATER_MESSAGES, "user", content, "complete", now_text()
    )


def import_messages(
    tx: Connection, scope: Scope, conversation: Conversation, messages: Sequence[ImportedMessage]
) -> list[Message]:
    """Save a past conversation's messages in order, and give the conversation their dates. Each question opens a turn,
    and each answer with no question of its own.
    """
    saved: list[Message] = []
    turn = _take_turns(tx, conversation.id, 0, now_text())
    question: str | None = None
    for message in messages:
        answers = message.message_type == "assistant" and question is not None
        if not answers:
            turn += 1
        saved.append(
            _insert_message(
                tx,
                scope,
                conversation.id,
                make_id(),
                turn,
                message.message_type,
                message.content,
                "complete",
                message.created_at,
                reply_to=question if answers else None,
            )
        )
        question = saved[-1].id if message.message_type == "user" else None
    if saved:
        times = [message.created_at for message in saved]
        _take_turns(tx, conversation.id, turn - saved[0].turn + 1, max(times))
        tx.execute("UPDATE conversations SET created_at = ? WHERE id = ?", (min(times), conversation.id))
        fingerprints.add_past(tx, scope, saved)
    return saved


def get_message(conn: Connection, scope: Scope, message_id: str) -> Message:
    """The message. Raises NotFound, also when it is someone else's."""
    row = conn.execute("SELECT * FROM messages WHERE id = ? AND scope_id = ?", (message_id, scope.id)).fetchone()
    if row is None:
        raise NotFound(_NO_MESSAGE)
    return read_message(row, scope)


def list_messages(
    conn: Connection, scope: Scope, conversation_id: str, *, limit: int, before: str | None = None
) -> list[Message]:
    """Newest first, in the order of turns; `before` is the last id of the page before. Raises UnknownBefore."""
    edge: tuple[int, str] = (_LATER_MESSAGES, "")
    if before is not None:
        row = conn.execute(
            "SELECT turn, id FROM messages WHERE id = ? AND scope_id = ? AND conversation_id = ?",
            (before, scope.id, conversation_id),
        ).fetchone()
        if row is None:
            raise UnknownBefore
        edge = (row["turn"], row["id"])
    rows = conn.execute(
        "SELECT * FROM messages WHERE conversation_id = ? AND scope_id = ? AND (turn, id) < (?, ?)"
        " ORDER BY turn DESC, id DESC LIMIT +?",
        (conversation_id, scope.id, *edge, limit),
    )
    return [read_message(row, scope) for row in rows]


def load_turns(
    conn: Connection, scope: Scope, conversation_id: str, *, after_turn: int, before_turn: int, limit: int
) -> list[list[Message]]:
    """The last `limit` turns between two turns (both excluded), oldest first: what a reply can be built from.

    A turn is its question and the answer made last; an answer made before that was regenerated away.
    """
    rows = conn.execute(
        "SELECT * FROM messages WHERE conversation_id = ? AND scope_id = ? AND turn > ? AND turn < ?"
        " AND turn >= (SELECT coalesce(min(turn), 0) FROM (SELECT DISTINCT turn FROM messages"
        "  WHERE conversation_id = ? AND turn < ? ORDER BY turn DESC LIMIT +?) AS latest) ORDER BY turn, id",
        (conversation_id, scope.id, after_turn, before_turn, conversation_id, before_turn, limit),
    )
    turns: dict[int, dict[str, Message]] = {}
    for row in rows:
        turns.setdefault(row["turn"], {})[row["message_type"]] = read_message(row, scope)
    return [[side[kind] for kind in ("user", "assistant") if kind in side] for side in turns.values()]


def find_next_question(conn: Connection, scope: Scope, message: Message) -> Message | None:
    """The question of the turn after a message's."""
    row = conn.execute(
        "SELECT * FROM messages WHERE conversation_id = ? AND scope_id = ? AND turn > ? AND message_type = 'user'"
        " ORDER BY turn, id LIMIT 1",
        (message.conversation_id, scope.id, message.turn),
    ).fetchone()
    return read_message(row, scope) if row else None


def list_replies(conn: Connection, scope: Scope, message_id: str) -> list[str]:
    """The ids of the replies to a message."""
    rows = conn.execute("SELECT id FROM messages WHERE reply_to = ? AND scope_id = ?", (message_id, scope.id))
    return [row["id"] for row in rows]


def delete_message(tx: Connection, scope: Scope, message_id: str) -> None:
    """Erase a message; its replies and runs go with it."""
    tx.execute("DELETE FROM messages WHERE id = ? AND scope_id = ?", (message_id, scope.id))


def set_feedback(tx: Connection, scope: Scope, message_id: str, *, rating: int, comment: str | None) -> Message:
    """Keep what the user thought of a reply. Raises NotFound; BadRequest for a message that is no reply."""
    if get_message(tx, scope, message_id).message_type != "assistant":
        raise BadRequest("Feedback is for a staff member's replies.")
    tx.execute(
        "UPDATE messages SET feedback_rating = ?, feedback_comment = ? WHERE id = ?",
        (rating, comment, message_id),
    )
    return get_message(tx, scope, message_id)


# ── what was summed up ──────────────────────────────────────────────────────────────────────────────


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
    """Forget a summary that covers a turn whose words are being erased; it is written anew from what is left."""
    tx.execute(
        "DELETE FROM summaries WHERE conversation_id = ? AND until_turn >= ? AND EXISTS"
        " (SELECT 1 FROM conversations WHERE id = conversation_id AND scope_id = ?)",
        (conversation_id, covering_turn, scope.id),
    )


def has_message(conn: Connection, scope: Scope, message_id: str) -> bool:
    """Whether the message (still) exists."""
    return bool(conn.execute("SELECT 1 FROM messages WHERE id = ? AND scope_id = ?", (message_id, scope.id)).fetchone())


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def set_times(tx: Connection, scope: Scope, conversation_id: str, *, created_at: str, updated_at: str) -> None:
    """Give an imported conversation the dates of its messages."""
    tx.execute(
        "UPDATE conversations SET created_at = ?, updated_at = ? WHERE id = ? AND scope_id = ?",
        (created_at, updated_at, conversation_id, scope.id),
    )


def _take_turns(tx: Connection, conversation_id: str, count: int, now: str) -> int:
    """Move the conversation's last turn on by `count` and return it."""
    row = tx.execute(
        "UPDATE conversations SET last_turn = last_turn + ?, updated_at = ? WHERE id = ? RETURNING last_turn",
        (count, now, conversation_id),
    ).fetchone()
    return int(row["last_turn"])


def _insert_message(
    tx: Connection,
    scope: Scope,
    conversation_id: str,
    message_id: str,
    turn: int,
    message_type: MessageType,
    content: str,
    status: MessageStatus,
    created_at: str,
    *,
    reply_to: str | None = None,
    model: str | None = None,
    stop_reason: str | None = None,
    usage: dict[str, Any] | None = None,
) -> Message:
    tx.execute(
        "INSERT INTO messages (id, conversation_id, scope_id, turn, message_type, content, status, reply_to, model,"
        " stop_reason, usage, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            message_id, conversation_id, scope.id, turn, message_type, content, status, reply_to, model, stop_reason,
            json.dumps(usage) if usage is not None else None, created_at,
        ),
    )  # fmt: skip
    return Message(
        message_id, scope.staff_id, conversation_id, turn, message_type, content, status, created_at, reply_to, model,
        stop_reason, usage,
    )  # fmt: skip


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


def read_message(row: Row, scope: Scope) -> Message:
    """A message from its row."""
    feedback = None
    if row["feedback_rating"] is not None:
        feedback = {"rating": row["feedback_rating"], "comment": row["feedback_comment"]}
    return Message(
        id=row["id"],
        staff_id=scope.staff_id,
        conversation_id=row["conversation_id"],
        turn=row["turn"],
        message_type=row["message_type"],
        content=row["content"],
        status=row["status"],
        created_at=row["created_at"],
        reply_to=row["reply_to"],
        model=row["model"],
        stop_reason=row["stop_reason"],
        usage=json.loads(row["usage"]) if row["usage"] else None,
        feedback=feedback,
    )


def flatten_turns(turns: Iterable[Iterable[Message]]) -> list[Message]:
    """The messages of some turns in the order of reading."""
    return [message for turn in turns for message in turn]
