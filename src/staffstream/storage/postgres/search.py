"""Words by a GIN index over a memory's terms, each with its scope before it: looking one up reads that scope alone.
Vectors are compared by numpy, once their rows are read.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from staffstream.domain import Scope
from staffstream.storage.database import Connection
from staffstream.storage.memory_search import CANDIDATE_COLUMNS, Candidate, Numbers
from staffstream.storage.numbers import BITS_IN_SCOPE, get_number_range
from staffstream.storage.vectors import VectorRow
from staffstream.support.words import list_forms, split_words

_ROWS_AT_A_TIME = 10_000


class PostgresSearch:
    """`MemorySearch` over `memory_words` and `memory_vectors`."""

    def add_words(self, tx: Connection, number: int, text: str) -> None:
        prefix = f"{number >> BITS_IN_SCOPE}:"
        terms = list(dict.fromkeys(prefix + term for term in text.split()))
        tx.execute("INSERT INTO memory_words (number, terms) VALUES (?, CAST(? AS text[]))", (number, terms))

    def drop_words(self, tx: Connection, number: int, text: str) -> None:
        tx.execute("DELETE FROM memory_words WHERE number = ?", (number,))

    def find_words(self, conn: Connection, scope: Scope, words: Sequence[str], *, most: int) -> list[Numbers]:
        asked = [(place, form) for place, word in enumerate(words) for form in list_forms(word)]
        if not asked:
            return []
        rows = conn.execute(
            "SELECT found.numbers FROM (SELECT place, array_agg(?1 || word) AS terms"
            " FROM unnest(CAST(?2 AS bigint[]), CAST(?3 AS text[])) AS asked (place, word) GROUP BY place) AS asked,"
            " LATERAL (SELECT array_agg(number ORDER BY number) AS numbers FROM (SELECT number FROM memory_words"
            " WHERE memory_words.terms && asked.terms LIMIT ?4) AS held) AS found ORDER BY place",
            (f"{scope.id}:", [place for place, _ in asked], [form for _, form in asked], most + 1),
        )
        found = [np.array(row[0] or [], np.int64) for row in rows]
        return [numbers for numbers in found if len(numbers) <= most]

    def has_phrase(self, conn: Connection, scope: Scope, phrase: str) -> bool:
        words = split_words(phrase)
        if not words:
            return False
        rows = conn.execute(
            "SELECT text FROM memory_words JOIN memories USING (number) WHERE terms && CAST(?1 AS text[])",
            ([f"{scope.id}:{form}" for form in list_forms(words[0])],),
        )
        wanted = f" {' '.join(words)} "
        return any(wanted in f" {' '.join(split_words(row['text']))} " for row in rows)

    def load_candidates(
        self, conn: Connection, scope: Scope, numbers: Sequence[int], vector: bytes | None
    ) -> list[Candidate]:
        rows = conn.execute(
            f"SELECT {CANDIDATE_COLUMNS}, vector FROM memories JOIN memory_vectors USING (number)"
            " WHERE +scope_id = ? AND deleted_at IS NULL AND number = ANY (CAST(? AS bigint[])) ORDER BY number",
            (scope.id, list(numbers)),
        ).fetchall()
        likeness = _compare([row[-1] for row in rows], vector)
        return [Candidate._make((*row[:-1], each)) for row, each in zip(rows, likeness, strict=True)]

    def load_vectors(self, conn: Connection, scope: Scope, *, after_place: int) -> Iterator[list[VectorRow]]:
        first, last = get_number_range(scope)
        place = max(first, after_place + 1)
        while True:
            rows = conn.execute(
                "SELECT place, number, thread, pieces, vector FROM memory_vectors WHERE place BETWEEN ? AND ?"
                " ORDER BY place LIMIT ?",
                (place, last, _ROWS_AT_A_TIME),
            ).fetchall()
            if rows:
                yield rows
            if len(rows) < _ROWS_AT_A_TIME:
                return
            place = rows[-1]["place"] + 1

    def read_state(self, conn: Connection) -> bytes:
        return b""  # GIN has no parts of ours to merge

    def merge_words(self, tx: Connection) -> bool:
        return False


def _compare(vectors: Sequence[Any], vector: bytes | None) -> list[float]:
    """The cosine of each vector with one; 0 where one is missing or of another length."""
    likeness = [0.0] * len(vectors)
    if vector is None:
        return likeness
    places = [place for place, each in enumerate(vectors) if each is not None and len(each) == len(vector)]
    if not places:
        return likeness
    stored = np.frombuffer(b"".join(bytes(vectors[place]) for place in places), np.int8)
    stored = stored.reshape(len(places), len(vector)).astype(np.float32)
    asked = np.frombuffer(vector, np.int8).astype(np.float32)
    norms = np.sqrt((stored * stored).sum(axis=1)) * np.sqrt((asked * asked).sum())
    cosines = (stored @ asked) / np.maximum(norms, 1e-9)
    for place, cosine in zip(places, cosines.tolist(), strict=True):
        likeness[place] = cosine
    return likeness
