"""What recall reads of the memories that may answer: as much of each as weighing it and saying it takes."""

from collections.abc import Sequence
from typing import NamedTuple

from staffstream.domain import Scope
from staffstream.storage.database import Connection
from staffstream.storage.memories import MemoryKind


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


_NUMBERS_AT_A_TIME = 64  # as many as a reply looks at; a list as JSON would take longer to read than the rows
_COLUMNS = ", ".join(f"memories.{name}" for name in Candidate._fields if name != "likeness")


def load_candidates(conn: Connection, scope: Scope, numbers: Sequence[int], vector: bytes | None) -> list[Candidate]:
    """Some memories by ascending number; one that is no longer there is left out. `vector` is the question's, as
    they are stored. sqlite-vec compares them where they lie, so that none is copied out.
    """
    asked = [*numbers, *[None] * (-len(numbers) % _NUMBERS_AT_A_TIME)]  # so that few statements differ
    return _read(
        conn,
        # "+" keeps the planner from reading the whole scope by its index
        f"SELECT {_COLUMNS}, iif(?1 IS NULL OR vector IS NULL, 0.0,"
        " 1 - vec_distance_cosine(vec_int8(vector), vec_int8(?1)))"
        " FROM memories JOIN memory_vectors USING (number) WHERE +scope_id = ?2 AND deleted_at IS NULL"
        f" AND number IN ({', '.join('?' * len(asked))}) ORDER BY number",
        (vector, scope.id, *asked),
    )


def load_user_facts(conn: Connection, scope: Scope, *, limit: int) -> list[Candidate]:
    """What is true of the user as far as is known, most important first; what was told without a subject counts too."""
    return _read(
        conn,
        f"SELECT {_COLUMNS}, 0.0 FROM memories WHERE scope_id = ? AND kind = 'fact'"
        " AND (subject IS NULL OR subject = 'user') AND valid_to IS NULL AND deleted_at IS NULL"
        " ORDER BY pinned DESC, importance DESC, number DESC LIMIT +?",
        (scope.id, limit),
    )


def _read(conn: Connection, statement: str, values: tuple[object, ...]) -> list[Candidate]:
    cursor = conn.cursor()
    cursor.row_factory = None  # plain tuples
    return list(map(Candidate._make, cursor.execute(statement, values).fetchall()))
