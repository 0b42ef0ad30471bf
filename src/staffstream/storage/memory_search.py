"""The two indexes over memories, words (FTS5) and meanings (`memory_vectors`), kept one scope at a time.

A row's number is scope << 32 | n in the word index: a search stays inside its scope by a range of row ids, with no
join. `memory_vectors` has what comparing texts takes: the vector as int8, from the embedder that is set, and the pieces
of the text as the built-in table splits it, whichever embedder that is. Its rows are read into memory (scope_index.py)
in the order of their places: a row that changes moves to a new place, so reading on from the last one misses nothing.
"""

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from staffstream.domain import Scope
from staffstream.errors import SetupError
from staffstream.models.embeddings import Embedder, load_static_embedder
from staffstream.models.embeddings.vectors import Vectors
from staffstream.storage.database import Connection

Numbers = np.ndarray[Any, np.dtype[np.int64]]
Vector = np.ndarray[Any, np.dtype[np.float32]]
EmbedNow = Callable[[str], Vector]
"""A document's unit vector. For embedders that need no far end, so that it can be made inside a transaction."""

_ROWS_AT_A_TIME = 10_000
_PAGES_A_MERGE = 16  # a few milliseconds of the writer
_THREAD_BITS = (1 << 62) - 1  # the random ones of a UUIDv7: enough to tell a scope's conversations apart

# ── the index itself ─────────────────────────────────────────────────────────────────────────────────────────────────


def find_local(embedder: Embedder) -> EmbedNow | None:
    """The embedder as a plain function, if it is one of those that run in this process."""
    embed_now = getattr(embedder, "embed_now", None)
    return None if embed_now is None else lambda text: embed_now([text])[0]


def prepare_index(tx: Connection, embedder: str, dimensions: int) -> None:
    """Make the vector index to the embedder's measure. Raises SetupError when its vectors are another embedder's."""
    row = tx.execute("SELECT value FROM meta WHERE key = 'embedder'").fetchone()
    wanted = f"{embedder}/{dimensions}"
    if row is None:
        reset_index(tx, embedder, dimensions)
    elif row["value"] != wanted:
        raise SetupError(
            f"The memories' vectors were made by the embedder {row['value']}, and {wanted} is set. Set that one again,"
            " or make the vectors anew with: staffstream reembed"
        )


def holds_vectors_of(conn: Connection, embedder: str, dimensions: int) -> bool:
    """Whether the stored vectors are this embedder's."""
    row = conn.execute("SELECT value FROM meta WHERE key = 'embedder'").fetchone()
    return row is not None and row["value"] == f"{embedder}/{dimensions}"


def reset_index(tx: Connection, embedder: str, dimensions: int) -> None:
    """Drop all vectors and note whose vectors will be kept from now on; every memory waits to be embedded."""
    if dimensions % 8:
        raise SetupError(f"An embedder needs a multiple of 8 dimensions, and {embedder} has {dimensions}.")
    tx.execute("UPDATE memory_vectors SET vector = NULL")
    tx.execute("UPDATE memories SET embedded = 0 WHERE embedded = 1")
    tx.execute(
        "INSERT INTO meta (key, value) VALUES ('embedder', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (f"{embedder}/{dimensions}",),
    )


def index_memory(
    tx: Connection,
    scope: Scope,
    number: int,
    *,
    text: str,
    occurred_at: str,
    conversation_id: str | None,
    embed: EmbedNow | None,
    is_new: bool = False,
) -> bool:
    """Make a memory findable by its words, and by its meaning if `embed` is given; returns whether that was done.

    With a conversation the memory counts as one turn of it, whose neighbours are the turns before and after. One that
    is new stands at the place of its number, which was just taken; one that comes back needs a new place.
    """
    tx.execute("INSERT INTO memory_words (rowid, text) VALUES (?, ?)", (number, _write_words(text, occurred_at)))
    thread = uuid.UUID(conversation_id).int & _THREAD_BITS if conversation_id else 0
    pieces = load_static_embedder().split(text).astype("<u2").tobytes()
    vector = None if embed is None else write_vector(embed(text))
    place = number if is_new else _take_place(tx, scope)
    tx.execute(
        "INSERT INTO memory_vectors (place, number, thread, pieces, vector) VALUES (?, ?, ?, ?, ?)",
        (place, number, thread, pieces, vector),
    )
    return embed is not None


def unindex_memory(tx: Connection, scope: Scope, number: int, *, text: str, occurred_at: str) -> None:
    """Take a memory out of both indexes. The text must be the one it was indexed with: the word index keeps none."""
    tx.execute(
        "INSERT INTO memory_words (memory_words, rowid, text) VALUES ('delete', ?, ?)",
        (number, _write_words(text, occurred_at)),
    )
    tx.execute("DELETE FROM memory_vectors WHERE number = ?", (number,))


def load_unembedded(conn: Connection, scope: Scope, *, limit: int) -> list[tuple[int, str]]:
    """Number and text of memories that have no vector yet, oldest first."""
    rows = conn.execute(
        "SELECT number, text FROM memories WHERE embedded = 0 AND deleted_at IS NULL AND number BETWEEN ? AND ?"
        " ORDER BY number LIMIT +?",
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


def list_unembedded_scopes(conn: Connection) -> list[int]:
    """The ids of the scopes in which a memory waits for its vector."""
    rows = conn.execute(
        "SELECT DISTINCT number >> 32 AS scope_id FROM memories WHERE embedded = 0 AND deleted_at IS NULL"
    )
    return [row["scope_id"] for row in rows]


def count_unembedded(conn: Connection) -> int:
    """How many memories have no vector yet, in all scopes."""
    row = conn.execute("SELECT count(*) AS n FROM memories WHERE embedded = 0 AND deleted_at IS NULL").fetchone()
    return int(row["n"])


def save_vectors(tx: Connection, scope: Scope, numbers: Sequence[int], vectors: Vectors) -> None:
    """Keep vectors of memories that were saved without; one that was deleted or embedded meanwhile is left alone."""
    for number, vector in zip(numbers, vectors, strict=True):
        waiting = tx.execute(
            "UPDATE memories SET embedded = 1 WHERE number = ? AND scope_id = ? AND embedded = 0"
            " AND deleted_at IS NULL",
            (number, scope.id),
        )
        if waiting.rowcount:
            _save_vector(tx, scope, number, vector)


def _save_vector(tx: Connection, scope: Scope, number: int, vector: Vector) -> None:
    tx.execute(
        "UPDATE memory_vectors SET place = ?, vector = ? WHERE number = ?",
        (_take_place(tx, scope), write_vector(vector), number),
    )


def _take_place(tx: Connection, scope: Scope) -> int:
    row = tx.execute(
        "UPDATE scopes SET last_memory = last_memory + 1 WHERE id = ? RETURNING last_memory", (scope.id,)
    ).fetchone()
    return scope.id << 32 | int(row["last_memory"])


def write_vector(vector: Vector) -> bytes | None:
    """The direction as int8; none for a text that holds nothing the embedder knows, which is near nothing."""
    largest = float(np.abs(vector).max(initial=0))
    return np.rint(vector * (127 / largest)).astype(np.int8).tobytes() if largest else None


# ── the word index's parts ───────────────────────────────────────────────────────────────────────────────────────────


def read_words_state(conn: Connection) -> bytes:
    """FTS5's own record of the parts that the word index is made of; it differs after every change."""
    return bytes(conn.execute("SELECT block FROM memory_words_data WHERE id = 10").fetchone()["block"])


def merge_words(tx: Connection) -> bool:
    """Put some parts of the word index together; returns whether there may be more to do. A search looks into each of
    them, and every transaction adds one: FTS5 by itself leaves a dozen or two, and finding a word takes twice as long.
    """
    before = tx.total_changes
    tx.execute("INSERT INTO memory_words (memory_words, rank) VALUES ('merge', ?)", (_PAGES_A_MERGE,))
    return tx.total_changes - before >= 2  # the statement itself counts as one


# ── searches ─────────────────────────────────────────────────────────────────────────────────────────────────────────


IndexRow = tuple[int, int, int, bytes, bytes | None]
"""Place, number, thread, pieces and vector of a row of `memory_vectors`."""


def find_last_place(conn: Connection, scope: Scope) -> int:
    """The last place that was given in the scope."""
    row = conn.execute("SELECT last_memory FROM scopes WHERE id = ?", (scope.id,)).fetchone()
    return scope.id << 32 | int(row["last_memory"] if row else 0)


def load_index_rows(conn: Connection, scope: Scope, *, after_place: int) -> Iterator[list[IndexRow]]:
    """The scope's rows beyond a place, in the order of their places, some thousands at a time."""
    first, last = get_number_range(scope)
    cursor = conn.cursor()
    cursor.row_factory = None  # a whole scope may be read: plain tuples cost a third, and the collector skips them
    cursor.execute(
        "SELECT place, number, thread, pieces, vector FROM memory_vectors WHERE place BETWEEN ? AND ? ORDER BY place",
        (max(first, after_place + 1), last),
    )
    while rows := cursor.fetchmany(_ROWS_AT_A_TIME):
        yield rows


def find_words(conn: Connection, scope: Scope, words: Sequence[str], *, most: int) -> list[Numbers]:
    """For each word the numbers of the memories that hold it in one of its forms; words that more than `most` hold are
    left out.
    """
    first, last = get_number_range(scope)
    rows = conn.execute(  # one statement for all, and one string of a word's numbers: a row each would cost more
        "SELECT (SELECT count(*) || ',' || coalesce(group_concat(number), '') FROM (SELECT rowid AS number"
        " FROM memory_words WHERE memory_words MATCH value AND rowid BETWEEN ? AND ? LIMIT +?))"
        " FROM json_each(?) ORDER BY key",
        (first, last, most + 1, json.dumps([write_query([word]) for word in words])),
    )
    found = [np.fromstring(row[0].rstrip(","), np.int64, sep=",") for row in rows]
    return [numbers[1:] for numbers in found if numbers[0] <= most]


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
