"""Messages: rows in and out, in one scope at a time.

They are immutable and ordered by (turn, id): a turn is a question with its answers, so that a question that waited in
the queue is still followed by its own answer.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from staffstream.domain import Conversation, Message, MessageStatus, MessageType, Run, Scope, make_id, now_text
from staffstream.errors import BadRequest, NotFound, UnknownBefore
from staffstream.storage import conversations, fingerprints
from staffstream.storage.database import Connection, Row

_NO_MESSAGE = "There is no message with this id."
_LATER_MESSAGES = 9223372036854775807  # above every turn


@dataclass(frozen=True, slots=True)
class ImportedMessage:
    """A message of a past conversation; `created_at` is RFC 3339 UTC text with milliseconds."""

    message_type: MessageType
    content: str
    created_at: str


def append_user_message(
    tx: Connection, scope: Scope, conversation: Conversation, content: str, *, path: int | None = None
) -> Message:
    """Save a question as a new turn. `path` is the fingerprint of the history that its client repeats before it."""
    now = now_text()
    turn = conversations.take_turns(tx, conversation.id, 1, now)
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
        conversations.get_conversation(conn, scope, conversation_id)
    elif found := conversations.find_default_conversation(conn, scope):
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
    turn = conversations.take_turns(tx, conversation.id, 0, now_text())
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
        conversations.take_turns(tx, conversation.id, turn - saved[0].turn + 1, max(times))
        tx.execute("UPDATE conversations SET created_at = ? WHERE id = ?", (min(times), conversation.id))
        fingerprints.add_past(tx, scope, saved)
    return saved


def get_message(conn: Connection, scope: Scope, message_id: str) -> Message:
    """The message. Raises NotFound, also when it is someone else's."""
    row = conn.execute("SELECT * FROM messages WHERE id = ? AND scope_id = ?", (message_id, scope.id)).fetchone()
    if row is None:
        raise NotFound(_NO_MESSAGE)
    return read_message(row, scope)


def has_message(conn: Connection, scope: Scope, message_id: str) -> bool:
    """Whether the message (still) exists."""
    return bool(conn.execute("SELECT 1 FROM messages WHERE id = ? AND scope_id = ?", (message_id, scope.id)).fetchone())


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
    """Save the user's rating of a reply. Raises NotFound; BadRequest for a message that is no reply."""
    if get_message(tx, scope, message_id).message_type != "assistant":
        raise BadRequest("Feedback is for a staff member's replies.")
    tx.execute(
        "UPDATE messages SET feedback_rating = ?, feedback_comment = ? WHERE id = ?",
        (rating, comment, message_id),
    )
    return get_message(tx, scope, message_id)


def flatten_turns(turns: Iterable[Iterable[Message]]) -> list[Message]:
    """The messages of some turns in the order of reading."""
    return [message for turn in turns for message in turn]


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
