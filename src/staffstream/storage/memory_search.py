"""Finding memories by their words and vectors.

Each engine has full text and vectors of its own (`MemorySearch`); a connection carries its engine's as `search`. A
memory enters both indexes in the transaction that saves it.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from staffstream.domain import MemoryKind, Scope
from staffstream.storage.database import Connection
from staffstream.storage.meta import find_note, set_note
from staffstream.storage.vectors import EmbedNow, VectorRow, add_vector, drop_vector
from staffstream.support.words import list_terms

log = logging.getLogger(__name__)

WORDS = "2"  # which way the words are indexed
Numbers = np.ndarray[Any, np.dtype[np.int64]]


class Candidate(NamedTuple):
    """A memory that is weighed. `likeness` is the cosine of its vector with the question's, 0 where one is missing.

    A tuple, since each reply reads dozens: making one takes a tenth of what a frozen dataclass takes.
    """

    number: int
    id: str
    kind: MemoryKind
    text: str
    speaker: str
    importance: float
    pinned: int
    occurred_at: str
    reinforced_at: str | None
    valid_to: str | None
    conversation_id: str | None
    source_message_id: str | None
    likeness: float


class MemorySearch(Protocol):
    """Full text and vectors of one engine, within one scope at a time."""

    def add_words(self, tx: Connection, number: int, text: str) -> None:
        """Make a memory findable by these words."""
        ...

    def drop_words(self, tx: Connection, number: int, text: str) -> None:
        """Take a memory out again. The text must be the one it was added with."""
        ...

    def find_words(self, conn: Connection, scope: Scope, words: Sequence[str], *, most: int) -> list[Numbers]:
        """For each word the numbers of the memories that hold it in one of its forms; words that more than `most` hold
        are left out.
        """
        ...

    def has_phrase(self, conn: Connection, scope: Scope, phrase: str) -> bool:
        """Whether a memory has these words, one after the other."""
        ...

    def load_candidates(
        self, conn: Connection, scope: Scope, numbers: Sequence[int], vector: bytes | None
    ) -> list[Candidate]:
        """Some memories by ascending number; one that is no longer there is left out. `vector` is the question's, as
        vectors are stored.
        """
        ...

    def load_vectors(self, conn: Connection, scope: Scope, *, after_place: int) -> Iterator[list[VectorRow]]:
        """The scope's rows of `memory_vectors` beyond a place, by ascending place, some thousands at a time."""
        ...

    def read_state(self, conn: Connection) -> bytes:
        """Differs after every change of the word index."""
        ...

    def merge_words(self, tx: Connection) -> bool:
        """Put some parts of the word index together, where it has parts; returns whether there may be more to do."""
        ...


# ── indexing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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

    With a conversation the memory counts as one turn of it, whose neighbours are the turns before and after.
    """
    tx.search.add_words(tx, number, _write_words(text, occurred_at))
    add_vector(tx, scope, number, text=text, conversation_id=conversation_id, embed=embed, is_new=is_new)
    return embed is not None


def unindex_memory(tx: Connection, number: int, *, text: str, occurred_at: str) -> None:
    """Take a memory out of both indexes. The text must be the one it was indexed with: a word index may keep none."""
    tx.search.drop_words(tx, number, _write_words(text, occurred_at))
    drop_vector(tx, number)


def prepare_words(tx: Connection) -> None:
    """Fill the word index where it is empty after a migration; takes about 0.3 ms a memory."""
    if find_note(tx, "words") == WORDS:
        return
    rows = tx.execute("SELECT number, text, occurred_at FROM memories WHERE deleted_at IS NULL").fetchall()
    if rows:
        log.info("indexing the words of %d memories", len(rows))
    for row in rows:
        tx.search.add_words(tx, row["number"], _write_words(row["text"], row["occurred_at"]))
    set_note(tx, "words", WORDS)


def _write_words(text: str, occurred_at: str) -> str:
    """What is searched for words: the day belongs to it, so that a question's date finds it."""
    return " ".join([occurred_at[:10], *list_terms(text)])


# ── without a search ─────────────────────────────────────────────────────────────────────────────────────────────────

CANDIDATE_COLUMNS = ", ".join(f"memories.{name}" for name in Candidate._fields if name != "likeness")


def load_user_facts(conn: Connection, scope: Scope, *, limit: int) -> list[Candidate]:
    """What is true of the user as far as is known, most important first; what was told without a subject counts too."""
    rows = conn.execute(
        f"SELECT {CANDIDATE_COLUMNS}, 0.0 AS likeness FROM memories WHERE scope_id = ? AND kind = 'fact'"
        " AND (subject IS NULL OR subject = 'user') AND valid_to IS NULL AND deleted_at IS NULL"
        " ORDER BY pinned DESC, importance DESC, number DESC LIMIT +?",
        (scope.id, limit),
    )
    return [Candidate._make(row) for row in rows]
