"""Fingerprints of messages: how a conversation is found again by a client that repeats its history and names no id.

Two hashes a message. `path` is of all that was said up to and with it, as the client repeats it: the next request's
history has the path of the last message that the client saw. `exchange` is of a reply with its question: the tail of a
history whose beginning the client has cut off.

A text is compared by its letters and digits alone, since clients change white space and Markdown. 64 bits are enough:
hashes meet only within one scope.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from staffstream.domain import Message, MessageType, Scope
from staffstream.storage.database import Connection

START = 0
"""The path of a conversation in which nothing was said yet."""

_MAX_FOUND = 32
_MARKS = re.compile(r"[\W_]+")
_FENCE = re.compile(r"```[^\n]*")  # with the language that a block of code may name
_REASONING = re.compile(r"<details type=\"reasoning\".*?</details>|<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)


def fold_text(text: str) -> str:
    """What is compared of a text. One of marks alone, like an emoji, is compared without its white space."""
    if "<" in text:
        text = _REASONING.sub("", text)
    if "```" in text:
        text = _FENCE.sub("", text)
    text = unicodedata.normalize("NFKC", text).casefold()
    return _MARKS.sub("", text) or "".join(text.split())


def extend_path(path: int, role: MessageType, text: str) -> int:
    """The path after one more message."""
    return _hash(path.to_bytes(8, signed=True), role.encode(), fold_text(text).encode("utf-8", "replace"))


def hash_exchange(question: str, reply: str) -> int:
    """The fingerprint of a question with its reply."""
    return _hash(fold_text(question).encode("utf-8", "replace"), b"\0", fold_text(reply).encode("utf-8", "replace"))


def _hash(*parts: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), signed=True)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_question(tx: Connection, scope: Scope, message: Message, *, path: int | None = None) -> None:
    """Keep the fingerprint of a question. `path` is that of the history before it as its client repeats it; without one
    it follows the latest message of its conversation.
    """
    before = _find_last_path(tx, scope, message) if path is None else path
    _save(tx, scope, message, extend_path(before, "user", message.content))


def add_reply(tx: Connection, scope: Scope, reply: Message) -> None:
    """Keep the fingerprint of a reply, which follows its question."""
    row = tx.execute(
        "SELECT fingerprints.path, messages.content FROM fingerprints JOIN messages ON messages.id = message_id"
        " WHERE message_id = ? AND fingerprints.scope_id = ?",
        (reply.reply_to, scope.id),
    ).fetchone()
    if row is not None:
        path = extend_path(row["path"], "assistant", reply.content)
        _save(tx, scope, reply, path, hash_exchange(row["content"], reply.content))


def add_past(tx: Connection, scope: Scope, messages: Iterable[Message]) -> int:
    """Keep the fingerprints of a whole conversation, given in order; returns its path."""
    path = START
    questions: dict[str, tuple[str, int]] = {}  # each one's text and path, by its id
    for message in messages:
        text, before = questions.get(message.reply_to or "", (None, path))  # a second reply follows its question too
        path = extend_path(before, message.message_type, message.content)
        if message.message_type == "user":
            questions[message.id] = (message.content, path)
        _save(tx, scope, message, path, None if text is None else hash_exchange(text, message.content))
    return path


def _find_last_path(conn: Connection, scope: Scope, message: Message) -> int:
    row = conn.execute(
        "SELECT path FROM messages JOIN fingerprints ON message_id = messages.id"
        " WHERE conversation_id = ? AND messages.scope_id = ? AND turn < ?"
        " ORDER BY turn DESC, messages.id DESC LIMIT 1",
        (message.conversation_id, scope.id, message.turn),
    ).fetchone()
    return int(row["path"]) if row else START


def _save(tx: Connection, scope: Scope, message: Message, path: int, exchange: int | None = None) -> None:
    tx.execute(
        "INSERT INTO fingerprints (message_id, scope_id, path, exchange) VALUES (?, ?, ?, ?)",
        (message.id, scope.id, path, exchange),
    )


# ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def find_by_path(conn: Connection, scope: Scope, path: int) -> list[str]:
    """The ids of the latest messages up to which conversations were the same, latest first."""
    return _find(conn, FIND_BY_PATH, (scope.id, path, _MAX_FOUND))


def find_by_exchange(conn: Connection, scope: Scope, exchange: int) -> list[str]:
    """The ids of the latest replies with this text to a question with this text, latest first."""
    return _find(conn, FIND_BY_EXCHANGE, (scope.id, exchange, _MAX_FOUND))


FIND_BY_PATH = "SELECT message_id FROM fingerprints WHERE scope_id = ? AND path = ? ORDER BY message_id DESC LIMIT +?"
FIND_BY_EXCHANGE = (
    "SELECT message_id FROM fingerprints WHERE scope_id = ? AND exchange = ? ORDER BY message_id DESC LIMIT +?"
)


def _find(conn: Connection, statement: str, values: Sequence[Any]) -> list[str]:
    return [row["message_id"] for row in conn.execute(statement, tuple(values))]
