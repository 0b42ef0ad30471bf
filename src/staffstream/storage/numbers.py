"""How a scope's memories are numbered: scope id << 32 | n, so that one range of numbers is one scope.

A search stays inside its scope by that range, with no join. Numbers and places (of `memory_vectors`) are taken from one
counter, so neither is ever given twice.
"""

from staffstream.domain import Scope
from staffstream.storage.database import Connection

BITS_IN_SCOPE = 32


def take_number(tx: Connection, scope: Scope) -> int:
    """The scope's next number or place."""
    tx.lock_scope(scope.id)
    row = tx.execute(
        "UPDATE scopes SET last_memory = last_memory + 1 WHERE id = ? RETURNING last_memory", (scope.id,)
    ).fetchone()
    return scope.id << BITS_IN_SCOPE | int(row["last_memory"])


def find_last_number(conn: Connection, scope: Scope) -> int:
    """The last number or place that was given in the scope."""
    row = conn.execute("SELECT last_memory FROM scopes WHERE id = ?", (scope.id,)).fetchone()
    return scope.id << BITS_IN_SCOPE | int(row["last_memory"] if row else 0)


def get_number_range(scope: Scope) -> tuple[int, int]:
    """The first and the last number that a memory of the scope can have."""
    return scope.id << BITS_IN_SCOPE, (scope.id + 1 << BITS_IN_SCOPE) - 1
