"""The two indexes over memories, words (FTS5) and vectors (sqlite-vec), and the searches in them, in one scope at a
time.

A row's number is scope << 32 | n in both: a search stays inside its scope by a range of row ids or by a partition,
with no join.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from staffstream.database import Connection
from staffstream.domain import Scope
from staffstream.embeddings.vectors import Vectors

EmbedNow = Callable[[str], bytes]
"""A document's vector as the index keeps it. For embedders that need no far end, so that it can be made inside a
transaction.
"""


@dataclass(frozen=True, slots=True)
class Hit:
    """A memory that a search found; higher is better."""

    number: int
    score: float


def index_memory(
    tx: Connection, scope: Scope, number: int, *, text: str, occurred_at: str, speaker: str, embed: EmbedNow | None
) -> bool:
    """Make a memory findable by its words, and by its meaning if `embed` is given; returns whether it has a vector
    now.
    """
    tx.execute("INSERT INTO memory_words (rowid, text) VALUES (?, ?)", (number, _write_words(text, occurred_at)))
    return False


def unindex_memory(tx: Connection, scope: Scope, number: int, *, text: str, occurred_at: str, speaker: str) -> None:
    """Take a memory out of both indexes. The text must be the one it was indexed with: the word index keeps none."""
    tx.execute(
        "INSERT INTO memory_words (memory_words, rowid, text) VALUES ('delete', ?, ?)",
        (number, _write_words(text, occurred_at)),
    )


def search_words(conn: Connection, scope: Scope, words: list[str], *, limit: int) -> list[Hit]:
    """The memories that hold some of the words, by BM25."""
    query = write_query(words)
    if not query:
        return []
    rows = conn.execute(
        "SELECT rowid, -rank AS score FROM memory_words WHERE memory_words MATCH ? AND rowid BETWEEN ? AND ?"
        " ORDER BY rank LIMIT ?",
        (query, *get_number_range(scope), limit),
    )
    return [Hit(row["rowid"], row["score"]) for row in rows]


def load_unembedded(conn: Connection, scope: Scope, *, limit: int) -> list[tuple[int, str]]:
    """Number and text of memories that have no vector yet, oldest first."""
    rows = conn.execute(
        "SELECT number, text FROM memories WHERE embedded = 0 AND deleted_at IS NULL AND number BETWEEN ? AND ?"
        " ORDER BY number LIMIT ?",
        (*get_number_range(scope), limit),
    )
    return [(row["number"], row["text"]) for row in rows]


def save_vectors(tx: Connection, scope: Scope, numbers: list[int], vectors: Vectors) -> None:
    """Keep vectors of memories that were saved without; a memory that was deleted in the meantime is left alone."""


def write_query(words: list[str]) -> str:
    """An FTS5 query for any of the words; quoted, since raw words are query syntax."""
    return " OR ".join('"' + word.replace('"', '""') + '"' for word in words)


def get_number_range(scope: Scope) -> tuple[int, int]:
    """The first and the last number that a memory of the scope can have."""
    return scope.id << 32, (scope.id + 1 << 32) - 1


def split_words(text: str) -> list[str]:
    """The words of a text, each once."""
    return list(dict.fromkeys(re.findall(r"\w+", text.casefold())))


def _write_words(text: str, occurred_at: str) -> str:
    return f"{occurred_at[:10]} {text}"
