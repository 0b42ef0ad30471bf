"""Up to which message each conversation was learned from (`extractions`), and what waits beyond that mark.

A mark stands at a message, since messages are ordered by turn and id; only turns that are answered are learned from.
"""

from staffstream.domain import Message, Scope, now_text
from staffstream.storage.conversations import get_conversation
from staffstream.storage.database import Connection, Row
from staffstream.storage.messages import read_message


def find_first_open_turn(conn: Connection, scope: Scope, conversation_id: str) -> int:
    """The first turn that is still being answered, or the one after the last."""
    row = conn.execute(
        "SELECT coalesce((SELECT min(turn) FROM runs WHERE conversation_id = ?1 AND scope_id = ?2"
        " AND state IN ('queued', 'building', 'streaming')), (SELECT last_turn + 1 FROM conversations WHERE id = ?1))",
        (conversation_id, scope.id),
    ).fetchone()
    return int(row[0] or 0)


def load_unlearned(conn: Connection, scope: Scope, conversation_id: str, *, limit: int) -> list[Message]:
    """The first messages beyond the watermark of extraction, in order, of turns that are answered."""
    return [read_message(row, scope) for row in _find_unlearned(conn, scope, conversation_id, "messages.*", limit)]


def has_unlearned(conn: Connection, scope: Scope, conversation_id: str, *, at_least: int) -> bool:
    """Whether so many messages wait beyond the watermark of extraction."""
    return len(_find_unlearned(conn, scope, conversation_id, "messages.id", at_least)) == at_least


def list_unlearned(conn: Connection, scope: Scope) -> dict[str, int]:
    """How many messages of each conversation nothing was learned from yet, where there are any."""
    rows = conn.execute(
        "SELECT messages.conversation_id AS id, count(*) AS waiting FROM messages"
        " LEFT JOIN extractions USING (conversation_id) WHERE messages.scope_id = ?"
        " AND (turn, messages.id) > (coalesce(until_turn, 0), coalesce(until_message, ''))"
        " GROUP BY messages.conversation_id",
        (scope.id,),
    )
    return {row["id"]: row["waiting"] for row in rows}


def load_watermark(conn: Connection, scope: Scope, conversation_id: str) -> tuple[int, str]:
    """The turn and the message up to which was learned; (0, "") if nothing was."""
    row = conn.execute(
        "SELECT until_turn, until_message FROM extractions JOIN conversations ON conversations.id = conversation_id"
        " WHERE conversation_id = ? AND scope_id = ?",
        (conversation_id, scope.id),
    ).fetchone()
    return (row["until_turn"], row["until_message"]) if row else (0, "")


def set_learned(tx: Connection, scope: Scope, conversation_id: str, last: Message) -> None:
    """Move the watermark of extraction to a message. Raises NotFound."""
    get_conversation(tx, scope, conversation_id)
    tx.execute(
        "INSERT INTO extractions (conversation_id, until_turn, until_message, updated_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (conversation_id) DO UPDATE SET until_turn = excluded.until_turn,"
        " until_message = excluded.until_message, updated_at = excluded.updated_at",
        (conversation_id, last.turn, last.id, now_text()),
    )


def _find_unlearned(conn: Connection, scope: Scope, conversation_id: str, columns: str, limit: int) -> list[Row]:
    return conn.execute(
        f"SELECT {columns} FROM messages LEFT JOIN extractions USING (conversation_id)"
        " WHERE messages.conversation_id = ? AND scope_id = ? AND turn < ?"
        " AND (turn, messages.id) > (coalesce(until_turn, 0), coalesce(until_message, '')) ORDER BY turn, messages.id"
        " LIMIT +?",
        (conversation_id, scope.id, find_first_open_turn(conn, scope, conversation_id), limit),
    ).fetchall()
