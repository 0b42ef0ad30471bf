"""The vectors of memories, and what else comparing texts takes (`memory_vectors`); whose vectors they are (`meta`).

A row has the vector as int8, from the embedder that is set, and the pieces of the text as the built-in table splits it,
whichever embedder that is. Scopes are read into memory in the order of their places: a row that changes moves to a new
place, so reading on from the last one misses nothing.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from staffstream.domain import Scope
from staffstream.errors import SetupError
from staffstream.models.embeddings import Embedder, load_static_embedder
from staffstream.models.embeddings.vectors import Vectors
from staffstream.storage.database import Connection
from staffstream.storage.meta import find_note, set_note
from staffstream.storage.numbers import get_number_range, take_number

Vector = np.ndarray[Any, np.dtype[np.float32]]
EmbedNow = Callable[[str], Vector]
"""A document's unit vector. For embedders that need no network, so that it can be made inside a transaction."""

VectorRow = tuple[int, int, int, bytes, bytes | None]
"""Place, number, thread, pieces and vector of a row of `memory_vectors`."""

_THREAD_BITS = (1 << 62) - 1  # the random ones of a UUIDv7: enough to tell a scope's conversations apart


def find_local(embedder: Embedder) -> EmbedNow | None:
    """The embedder as a plain function, if it is one of those that run in this process."""
    embed_now = getattr(embedder, "embed_now", None)
    return None if embed_now is None else lambda text: embed_now([text])[0]


# ── whose vectors they are ───────────────────────────────────────────────────────────────────────────────────────────


def find_stored_embedder(conn: Connection) -> str | None:
    """The embedder whose vectors are stored, as `name/dimensions`."""
    return find_note(conn, "embedder")


def prepare_index(tx: Connection, embedder: str, dimensions: int) -> None:
    """Note whose vectors will be stored. Raises SetupError when those that are stored are another embedder's."""
    stored, wanted = find_stored_embedder(tx), f"{embedder}/{dimensions}"
    if stored is None:
        reset_index(tx, embedder, dimensions)
    elif stored != wanted:
        raise SetupError(
            f"The memories' vectors were made by the embedder {stored}, and {wanted} is set. Set that one again,"
            " or make the vectors anew with: staffstream reembed"
        )


def holds_vectors_of(conn: Connection, embedder: str, dimensions: int) -> bool:
    """Whether the stored vectors are this embedder's."""
    return find_stored_embedder(conn) == f"{embedder}/{dimensions}"


def reset_index(tx: Connection, embedder: str, dimensions: int) -> None:
    """Drop all vectors and note whose vectors will be kept from now on; every memory waits to be embedded."""
    if dimensions % 8:
        raise SetupError(f"An embedder needs a multiple of 8 dimensions, and {embedder} has {dimensions}.")
    tx.execute("UPDATE memory_vectors SET vector = NULL")
    tx.execute("UPDATE memories SET embedded = 0 WHERE embedded = 1")
    set_note(tx, "embedder", f"{embedder}/{dimensions}")


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_vector(
    tx: Connection, scope: Scope, number: int, *, text: str, conversation_id: str | None, embed: EmbedNow | None,
    is_new: bool,
) -> None:  # fmt: skip
    """Save what comparing a memory takes. One that is new stands at the place of its number, which was just taken; one
    that comes back needs a new place.
    """
    thread = uuid.UUID(conversation_id).int & _THREAD_BITS if conversation_id else 0
    pieces = load_static_embedder().split(text).astype("<u2").tobytes()
    vector = None if embed is None else write_vector(embed(text))
    place = number if is_new else take_number(tx, scope)
    tx.execute(
        "INSERT INTO memory_vectors (place, number, thread, pieces, vector) VALUES (?, ?, ?, ?, ?)",
        (place, number, thread, pieces, vector),
    )


def drop_vector(tx: Connection, number: int) -> None:
    """Erase it."""
    tx.execute("DELETE FROM memory_vectors WHERE number = ?", (number,))


def write_vector(vector: Vector) -> bytes | None:
    """The direction as int8; none for a text that holds nothing the embedder knows, which is near nothing."""
    largest = float(np.abs(vector).max(initial=0))
    return np.rint(vector * (127 / largest)).astype(np.int8).tobytes() if largest else None


# ── memories that wait for their vector ──────────────────────────────────────────────────────────────────────────────


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
    rows = conn.execute("SELECT DISTINCT scope_id FROM memories WHERE embedded = 0 AND deleted_at IS NULL")
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
        (take_number(tx, scope), write_vector(vector), number),
    )
