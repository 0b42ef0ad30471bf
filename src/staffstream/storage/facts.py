"""Facts among the memories: what is stated of whom. Rows out."""

from collections.abc import Sequence

from staffstream.domain import Scope
from staffstream.storage.database import IN_LIST, Connection, pack_list
from staffstream.storage.memories import Memory, read_memory

STATEMENTS = (
    "SELECT * FROM memories WHERE scope_id = ? AND kind = 'fact' AND subject = ?"
    f" AND predicate {IN_LIST} ORDER BY number DESC"
)


def find_statements(conn: Connection, scope: Scope, subject: str, predicates: Sequence[str]) -> list[Memory]:
    """Every fact of a subject with one of these predicates, newest first; deleted and closed ones are among them."""
    rows = conn.execute(STATEMENTS, (scope.id, subject, pack_list(predicates)))
    return [read_memory(row) for row in rows]


def list_facts_about(conn: Connection, scope: Scope, subjects: Sequence[str], *, limit: int) -> list[Memory]:
    """The facts about some subjects that hold now, the most important first and of those the newest. Facts that the
    user told without a subject are among them.
    """
    rows = conn.execute(
        "SELECT * FROM memories WHERE scope_id = ? AND kind = 'fact' AND valid_to IS NULL AND deleted_at IS NULL"
        f" AND (subject IS NULL OR subject {IN_LIST})"
        " ORDER BY importance DESC, number DESC LIMIT +?",
        (scope.id, pack_list(subjects), limit),
    )
    return [read_memory(row) for row in rows]


def list_deleted_facts(conn: Connection, scope: Scope, *, limit: int) -> list[Memory]:
    """The facts that the user deleted and did not erase, newest first."""
    rows = conn.execute(
        "SELECT * FROM memories WHERE scope_id = ? AND kind = 'fact' AND deleted_at IS NOT NULL"
        " ORDER BY number DESC LIMIT +?",
        (scope.id, limit),
    )
    return [read_memory(row) for row in rows]
