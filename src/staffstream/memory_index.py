"""The two indexes over memories, words (FTS5) and vectors (sqlite-vec), and the searches in them, one scope at a time.

A row's number is scope << 32 | n in both: a search stays inside its scope by a range of row ids or by a partition, with
no join. A vector is kept twice: as one bit a dimension in the index, whose scan is what a search costs, and as int8
for scoring the candidates that the bits give. sqlite-vec takes any bytes for a vector, so lengths are checked here.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from staffstream.database import Connection
from staffstream.domain import Scope
from staffstream.embeddings.vectors import Vectors
from staffstream.errors import SetupError

EmbedNow = Callable[[str], np.ndarray[Any, np.dtype[np.float32]]]
"""A document's unit vector. For embedders that need no far end, so that it can be made inside a transaction."""

CANDIDATES_PER_HIT = 8  # bits are coarse: so many more are scored exactly than are wanted
FEWEST_CANDIDATES = 200
MOST_CANDIDATES = 4096  # sqlite-vec's limit
_CHUNK_ROWS = 64  # a partition takes whole chunks: at the default of 1,024 small scopes would cost a hundred times more


@dataclass(frozen=True, slots=True)
class Hit:
    """A memory that a search found; higher is better."""

    number: int
    score: float


# ── the index itself ─────────────────────────────────────────────────────────────────────────────────────────────────


def prepare_index(tx: Connection, embedder: str, dimensions: int) -> None:
    """Make the vector index to the embedder's measure. Raises SetupError when its vectors are another embedder's."""
    row = tx.execute("SELECT value FROM meta WHERE key = 'embedder'").fetchone()
    wanted = f"{embedder}/{dimensions}"
    if row is None:
        reset_index(tx, embedder, dimensions)
    elif row["value"] != wanted:
        raise SetupError(
            f"The memories' vectors were made by the embedder {row['value']}, and {wanted} is set. Set that one again, or"
            " make the vectors anew with: staffstream reembed"
        )


def holds_vectors_of(conn: Connection, embedder: str, dimensions: int) -> bool:
    """Whether the stored vectors are this embedder's."""
    row = conn.execute("SELECT value FROM meta WHERE key = 'embedder'").fetchone()
    return row is not None and row["value"] == f"{embedder}/{dimensions}"


def reset_index(tx: Connection, embedder: str, dimensions: int) -> None:
    """Drop all vectors and note whose vectors will be kept from now on; every memory waits to be embedded."""
    if dimensions % 8:
        raise SetupError(f"An embedder needs a multiple of 8 dimensions, and {embedder} has {dimensions}.")
    tx.execute("DROP TABLE IF EXISTS memory_codes")
    tx.execute(
        f"CREATE VIRTUAL TABLE memory_codes USING vec0 (scope_id INTEGER PARTITION KEY, code BIT[{dimensions}],"
        f" chunk_size = {_CHUNK_ROWS})"
    )
    tx.execute("DELETE FROM memory_vectors")
    tx.execute("UPDATE memories SET embedded = 0 WHERE embedded = 1")
    tx.execute(
        "INSERT INTO meta (key, value) VALUES ('embedder', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (f"{embedder}/{dimensions}",),
    )


def index_memory(
    tx: Connection, scope: Scope, number: int, *, text: str, occurred_at: str, embed: EmbedNow | None
) -> bool:
    """Make a memory findable by its words, and by its meaning if `embed` is given; returns whether that was done."""
    tx.execute("INSERT INTO memory_words (rowid, text) VALUES (?, ?)", (number, _write_words(text, occurred_at)))
    if embed is None:
        return False
    _insert_vector(tx, scope, number, embed(text))
    return True


def unindex_memory(tx: Connection, scope: Scope, number: int, *, text: str, occurred_at: str) -> None:
    """Take a memory out of both indexes. The text must be the one it was indexed with: the word index keeps none."""
    tx.execute(
        "INSERT INTO memory_words (memory_words, rowid, text) VALUES ('delete', ?, ?)",
        (number, _write_words(text, occurred_at)),
    )
    tx.execute("DELETE FROM memory_codes WHERE rowid = ?", (number,))
    tx.execute("DELETE FROM memory_vectors WHERE number = ?", (number,))


def load_unembedded(conn: Connection, scope: Scope, *, limit: int) -> list[tuple[int, str]]:
    """Number and text of memories that have no vector yet, oldest first."""
    rows = conn.execute(
        "SELECT number, text FROM memories WHERE embedded = 0 AND deleted_at IS NULL AND number BETWEEN ? AND ?"
        " ORDER BY number LIMIT ?",
        (*get_number_range(scope), limit),
    )
    return [(row["number"], row["text"]) for row in rows]


def load_any_unembedded(conn: Connection, *, limit: int) -> tuple[Scope, list[tuple[int, str]]]:
    """Memories without a vector, of one scope at a time, whichever has the oldest: for making all vectors anew."""
    row = conn.execute(
        "SELECT scopes.* FROM memories JOIN scopes ON scopes.id = scope_id WHERE embedded = 0 AND deleted_at IS NULL"
        " ORDER BY number LIMIT 1"
    ).fetchone()
    if row is None:
        return Scope(0, "", ""), []
    scope = Scope(row["id"], row["staff_id"], row["user_id"])
    return scope, load_unembedded(conn, scope, limit=limit)


def count_unembedded(conn: Connection) -> int:
    """How many memories have no vector yet, in all scopes."""
    row = conn.execute("SELECT count(*) AS n FROM memories WHERE embedded = 0 AND deleted_at IS NULL").fetchone()
    return int(row["n"])


def save_vectors(tx: Connection, scope: Scope, numbers: Sequence[int], vectors: Vectors) -> None:
    """Keep vectors of memories that were saved without; one that was deleted or embedded meanwhile is left alone."""
    for number, vector in zip(numbers, vectors, strict=True):
        waiting = tx.execute(
            "UPDATE memories SET embedded = 1 WHERE number = ? AND scope_id = ? AND embedded = 0 AND deleted_at IS NULL",
            (number, scope.id),
        )
        if waiting.rowcount:
            _insert_vector(tx, scope, number, vector)


def _insert_vector(tx: Connection, scope: Scope, number: int, vector: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    if not vector.any():  # a text that holds nothing the embedder knows is near nothing
        return
    tx.execute(
        "INSERT INTO memory_codes (rowid, scope_id, code) VALUES (?, ?, vec_bit(?))",
        (number, scope.id, _take_signs(vector)),
    )
    codes = np.rint(vector * 127).astype(np.int8)
    tx.execute("INSERT INTO memory_vectors (number, vector) VALUES (?, ?)", (number, codes.tobytes()))


def _take_signs(vector: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    return np.packbits(vector > 0).tobytes()


# ── searches ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def search_words(conn: Connection, scope: Scope, words: Sequence[str], *, limit: int) -> list[Hit]:
    """The memories that hold some of the words, by BM25."""
    if not words:
        return []
    rows = conn.execute(
        "SELECT rowid, -rank AS score FROM memory_words WHERE memory_words MATCH ? AND rowid BETWEEN ? AND ?"
        " ORDER BY rank LIMIT ?",
        (write_query(words), *get_number_range(scope), limit),
    )
    return [Hit(row["rowid"], row["score"]) for row in rows]


def search_vectors(
    conn: Connection, scope: Scope, vector: np.ndarray[Any, np.dtype[np.float32]], *, limit: int
) -> list[Hit]:
    """The memories nearest to a unit vector, by cosine: candidates by their bits, then scored exactly."""
    if not vector.any():
        return []
    candidates = min(MOST_CANDIDATES, max(FEWEST_CANDIDATES, limit * CANDIDATES_PER_HIT))
    rows = conn.execute(
        "SELECT rowid FROM memory_codes WHERE code MATCH vec_bit(?) AND k = ? AND scope_id = ?",
        (_take_signs(vector), candidates, scope.id),
    ).fetchall()
    numbers, vectors = load_vectors(conn, [row["rowid"] for row in rows])
    scores = vectors @ vector
    best = np.argsort(-scores, kind="stable")[:limit]
    return [Hit(numbers[i], float(scores[i])) for i in best]


def load_vectors(conn: Connection, numbers: Iterable[int]) -> tuple[list[int], Vectors]:
    """The numbers that have vectors, and their vectors as unit rows: float32 (n, dimensions).

    Takes numbers that a search within a scope gave.
    """
    wanted = list(numbers)
    found: list[int] = []
    blobs: list[bytes] = []
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        marks = ", ".join("?" * len(part))
        for row in conn.execute(f"SELECT number, vector FROM memory_vectors WHERE number IN ({marks})", part):
            found.append(row["number"])
            blobs.append(row["vector"])
    if not blobs:
        return [], np.zeros((0, 1), np.float32)
    rows = np.frombuffer(b"".join(blobs), np.int8).reshape(len(blobs), -1).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return found, rows / np.maximum(lengths, 1.0)


def write_query(words: Iterable[str]) -> str:
    """An FTS5 query for any of the words; quoted, since raw words are query syntax."""
    return " OR ".join('"' + word.replace('"', '""') + '"' for word in words)


def get_number_range(scope: Scope) -> tuple[int, int]:
    """The first and the last number that a memory of the scope can have."""
    return scope.id << 32, (scope.id + 1 << 32) - 1


def split_words(text: str) -> list[str]:
    """The words of a text, each once."""
    return list(dict.fromkeys(re.findall(r"\w+", text.casefold())))


def _write_words(text: str, occurred_at: str) -> str:
    """What is searched for words: the day belongs to it, so that a question's date finds it."""
    return f"{occurred_at[:10]} {text}"
