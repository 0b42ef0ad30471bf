"""Full text by FTS5 and vectors compared by sqlite-vec.

The word index keeps no text, and its row ids are the memories' numbers: a search stays inside its scope by a range of
row ids, with no join.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from staffstream.domain import Scope
from staffstream.storage.database import Connection
from staffstream.storage.memory_search import CANDIDATE_COLUMNS, Candidate, Numbers
from staffstream.storage.numbers import get_number_range
from staffstream.storage.vectors import VectorRow
from staffstream.support.words import list_forms, split_words

_ROWS_AT_A_TIME = 10_000
_PAGES_A_MERGE = 16  # a few milliseconds of the writer
_NUMBERS_AT_A_TIME = 128  # as many as a reply looks at; a list as JSON would take longer to read than the rows


class SqliteSearch:
    """`MemorySearch` over `memory_words` and `memory_vectors`."""

    # ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def add_words(self, tx: Connection, number: int, text: str) -> None:
        tx.execute("INSERT INTO memory_words (rowid, text) VALUES (?, ?)", (number, text))

    def drop_words(self, tx: Connection, number: int, text: str) -> None:
        tx.execute("INSERT INTO memory_words (memory_words, rowid, text) VALUES ('delete', ?, ?)", (number, text))

    def find_words(self, conn: Connection, scope: Scope, words: Sequence[str], *, most: int) -> list[Numbers]:
        first, last = get_number_range(scope)
        rows = conn.execute(  # one statement for all, and one string of a word's numbers: a row each would cost more
            "SELECT (SELECT count(*) || ',' || coalesce(group_concat(number), '') FROM (SELECT rowid AS number"
            " FROM memory_words WHERE memory_words MATCH value AND rowid BETWEEN ? AND ? LIMIT +?))"
            " FROM json_each(?) ORDER BY key",
            (first, last, most + 1, json.dumps([_write_query(list_forms(word)) for word in words])),
        )
        found = [np.fromstring(row[0].rstrip(","), np.int64, sep=",") for row in rows]
        return [numbers[1:] for numbers in found if numbers[0] <= most]

    def has_phrase(self, conn: Connection, scope: Scope, phrase: str) -> bool:
        row = conn.execute(
            "SELECT 1 FROM memory_words WHERE memory_words MATCH ? AND rowid BETWEEN ? AND ? LIMIT 1",
            (_write_phrase(phrase), *get_number_range(scope)),
        ).fetchone()
        return row is not None

    # ── vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def load_candidates(self, conn: Any, scope: Scope, numbers: Sequence[int], vector: bytes | None) -> list[Candidate]:
        """sqlite-vec compares the vectors where they lie, so that none is copied out."""
        asked = [*numbers, *[None] * (-len(numbers) % _NUMBERS_AT_A_TIME)]  # so that few statements differ
        cursor = conn.cursor()
        cursor.row_factory = None  # plain tuples
        cursor.execute(
            # "+" keeps the planner from reading the whole scope by its index
            f"SELECT {CANDIDATE_COLUMNS}, iif(?1 IS NULL OR vector IS NULL, 0.0,"
            " 1 - vec_distance_cosine(vec_int8(vector), vec_int8(?1)))"
            " FROM memories JOIN memory_vectors USING (number) WHERE +scope_id = ?2 AND deleted_at IS NULL"
            f" AND number IN ({', '.join('?' * len(asked))}) ORDER BY number",
            (vector, scope.id, *asked),
        )
        return list(map(Candidate._make, cursor.fetchall()))

    def load_vectors(self, conn: Any, scope: Scope, *, after_place: int) -> Iterator[list[VectorRow]]:
        first, last = get_number_range(scope)
        cursor = conn.cursor()
        cursor.row_factory = None  # a whole scope may be read: plain tuples cost a third, and the collector skips them
        cursor.execute(
            "SELECT place, number, thread, pieces, vector FROM memory_vectors WHERE place BETWEEN ? AND ?"
            " ORDER BY place",
            (max(first, after_place + 1), last),
        )
        while rows := cursor.fetchmany(_ROWS_AT_A_TIME):
            yield rows

    # ── the word index's parts ───────────────────────────────────────────────────────────────────────────────────────

    def read_state(self, conn: Connection) -> bytes:
        """FTS5's own record of the parts that the word index is made of."""
        return bytes(conn.execute("SELECT block FROM memory_words_data WHERE id = 10").fetchone()["block"])

    def merge_words(self, tx: Any) -> bool:
        """A search looks into each part, and every transaction adds one: FTS5 by itself leaves a dozen or two, and
        finding a word takes twice as long.
        """
        before = tx.total_changes
        tx.execute("INSERT INTO memory_words (memory_words, rank) VALUES ('merge', ?)", (_PAGES_A_MERGE,))
        return bool(tx.total_changes - before >= 2)  # the statement itself counts as one


def _write_phrase(phrase: str) -> str:
    """An FTS5 query for the words one after the other, in a text of either kind of language."""
    forms = [list_forms(word) for word in split_words(phrase)]
    return _write_query({" ".join(each[0] for each in forms), " ".join(each[-1] for each in forms)})


def _write_query(words: Iterable[str]) -> str:
    """An FTS5 query for any of the words; quoted, since raw words are query syntax."""
    return " OR ".join('"' + word.replace('"', '""') + '"' for word in words)
