"""Idempotency keys: rows in and out. A key names the run that it started, for a day."""

from staffstream.domain import Run, Scope, now_text
from staffstream.errors import IdempotencyMismatch
from staffstream.storage.database import Connection
from staffstream.storage.runs import get_run

IDEMPOTENCY_S = 24 * 3600.0


def find_run_by_key(conn: Connection, scope: Scope, key: str, request_hash: bytes) -> Run | None:
    """The run that this key started within the last 24 h. Raises IdempotencyMismatch when its body was another."""
    row = conn.execute(
        "SELECT run_id, request_hash FROM idempotency_keys WHERE scope_id = ? AND key = ? AND created_at > ?",
        (scope.id, key, now_text(-IDEMPOTENCY_S)),
    ).fetchone()
    if row is None:
        return None
    if row["request_hash"] != request_hash:
        raise IdempotencyMismatch
    return get_run(conn, scope, row["run_id"])


def save_idempotency_key(tx: Connection, scope: Scope, key: str, request_hash: bytes, run: Run) -> None:
    """Remember which run a key started, in place of one that it started more than a day ago."""
    tx.execute(
        "INSERT INTO idempotency_keys (scope_id, key, request_hash, run_id, created_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (scope_id, key) DO UPDATE SET request_hash = excluded.request_hash, run_id = excluded.run_id,"
        " created_at = excluded.created_at",
        (scope.id, key, request_hash, run.id, now_text()),
    )


def has_old_keys(conn: Connection) -> bool:
    """Whether there are keys past their day."""
    statement = "SELECT 1 FROM idempotency_keys WHERE created_at <= ? LIMIT 1"
    return conn.execute(statement, (now_text(-IDEMPOTENCY_S),)).fetchone() is not None


def drop_old_keys(tx: Connection) -> None:
    """Erase those."""
    tx.execute("DELETE FROM idempotency_keys WHERE created_at <= ?", (now_text(-IDEMPOTENCY_S),))
