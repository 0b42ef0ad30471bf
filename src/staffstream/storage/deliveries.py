"""Webhook deliveries and the log of their attempts: rows in and out.

A delivery is made in the transaction that ends its run, with its body as it will be sent over all attempts and a job
that sends it. Whether it is pending or has failed is not stored: as long as it has a live job it is pending, so
retrying or dropping the job needs no second change that could be forgotten.
"""

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from staffstream.domain import STATUS_BY_STATE, Run, Scope, Staff, make_id, now_text
from staffstream.errors import NotFound
from staffstream.storage import jobs
from staffstream.storage.database import Connection, Row
from staffstream.support.sse import encode_json

DeliveryState = Literal["pending", "delivered", "failed"]

_SELECT = (
    "SELECT deliveries.*, scopes.staff_id, job.due_at AS next_attempt_at, job.state AS job_state,"
    " runs.webhook_url IS NOT NULL AS is_own"
    " FROM deliveries JOIN scopes ON scopes.id = deliveries.scope_id JOIN runs ON runs.id = deliveries.run_id"
    " LEFT JOIN jobs AS job ON job.kind = 'deliver' AND job.subject = deliveries.id AND job.state IN ('due', 'running')"
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at sending. `status` is the receiver's, null if it gave none; `error` is a code of ours."""

    number: int
    started_at: str
    duration_ms: int
    status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one URL. The id is the `webhook-id` of every attempt; `is_own` when the URL came with the message,
    not from the staff member.
    """

    id: str
    staff_id: str
    scope_id: int
    run_id: str
    url: str
    is_own: bool
    event: str
    body: str
    state: DeliveryState
    created_at: str
    delivered_at: str | None
    next_attempt_at: str | None
    attempts: tuple[Attempt, ...]


def enqueue_delivery(tx: Connection, member: Staff, run: Run, content: str) -> None:
    """Have the end of a run told to its own webhook URL or else to its staff member's, if there is one."""
    url = run.webhook_url or (None if member.webhook_disabled_at else member.webhook_url)
    if url is None:
        return
    delivery_id, now = make_id(), now_text()
    event = "message.failed" if run.state == "failed" else "message.completed"
    body = encode_json({"type": event, "timestamp": now, "data": _describe_end(run, content)}).decode()
    tx.execute(
        "INSERT INTO deliveries (id, scope_id, run_id, url, event, body, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (delivery_id, run.scope_id, run.id, url, event, body, now),
    )
    _enqueue(tx, delivery_id, run.scope_id, url)


def _enqueue(tx: Connection, delivery_id: str, scope_id: int, url: str) -> None:
    """Have it sent. Its queue is its receiver's: one that lets every attempt hang must not hold up all others."""
    try:
        receiver = urlsplit(url).netloc.lower()
    except ValueError:  # an imported staff member's may be no URL
        receiver = url
    jobs.enqueue_job(tx, "deliver", delivery_id, scope_id=scope_id, queue=receiver)


def _describe_end(run: Run, content: str) -> dict[str, Any]:
    """What a receiver needs to know without asking back. A cancelled reply is completed, with what it had said."""
    data: dict[str, Any] = {
        "run_id": run.id,
        "message_id": run.message_id,
        "staff_id": run.staff_id,
        "conversation_id": run.conversation_id,
        "in_reply_to": run.user_message_id,
        "status": STATUS_BY_STATE[run.state],
    }
    if run.message_id is not None:
        data["content"] = content
    if run.error:
        data["error"] = {"code": run.error.code, "detail": run.error.detail, "retryable": run.error.retryable}
    return data


def list_deliveries(
    conn: Connection, staff_id: str, *, scope: Scope | None = None, limit: int = 50, before: str | None = None
) -> list[Delivery]:
    """A staff member's deliveries, newest first, of one scope or (for the operator) of all; `before` is the last id of
    the page before.
    """
    within, key = ("deliveries.scope_id", scope.id) if scope else ("scopes.staff_id", staff_id)
    rows = conn.execute(
        f"{_SELECT} WHERE {within} = ? AND deliveries.id < ? ORDER BY deliveries.id DESC LIMIT +?",
        (key, before or "~", limit),  # ~ is above every id
    )
    return [_read_delivery(conn, row) for row in rows.fetchall()]


def get_delivery(conn: Connection, delivery_id: str, *, scope: Scope | None = None) -> Delivery:
    """The delivery. Raises NotFound, also when it is of another scope than the one given."""
    row = conn.execute(f"{_SELECT} WHERE deliveries.id = ?", (delivery_id,)).fetchone()
    if row is None or (scope is not None and row["scope_id"] != scope.id):
        raise NotFound("There is no delivery with this id.")
    return _read_delivery(conn, row)


def redeliver(tx: Connection, delivery_id: str, *, scope: Scope | None = None) -> Delivery:
    """Have a delivery sent now, whatever has become of it. Raises NotFound."""
    found = get_delivery(tx, delivery_id, scope=scope)
    jobs.drop_dead_jobs(tx, "deliver", found.id)
    _enqueue(tx, found.id, found.scope_id, found.url)
    return get_delivery(tx, delivery_id)


def add_attempt(
    tx: Connection, delivery: Delivery, *, started_at: str, duration_ms: int, status: int | None, error: str | None
) -> None:
    """Log an attempt; one without an error is the delivery. Raises NotFound when the delivery was erased meanwhile."""
    number = len(get_delivery(tx, delivery.id).attempts) + 1
    tx.execute(
        "INSERT INTO delivery_attempts (delivery_id, number, started_at, duration_ms, status, error)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (delivery.id, number, started_at, duration_ms, status, error),
    )
    if error is None:
        tx.execute("UPDATE deliveries SET delivered_at = ? WHERE id = ?", (now_text(), delivery.id))


def drop_deliveries(tx: Connection, scope: Scope, run_id: str) -> None:
    """Erase what was, or is to be, sent of a run's end: its body holds the reply. Pending jobs find nothing to do."""
    tx.execute("DELETE FROM deliveries WHERE run_id = ? AND scope_id = ?", (run_id, scope.id))


def drop_pending(tx: Connection, staff_id: str, url: str) -> None:
    """Send nothing more of what waits to be sent for a staff member to a URL."""
    tx.execute(
        "DELETE FROM jobs WHERE kind = 'deliver' AND state = 'due' AND subject IN (SELECT deliveries.id FROM deliveries"
        " JOIN scopes ON scopes.id = deliveries.scope_id WHERE scopes.staff_id = ? AND deliveries.url = ?)",
        (staff_id, url),
    )


def _read_delivery(conn: Connection, row: Row) -> Delivery:
    attempts = conn.execute(
        "SELECT number, started_at, duration_ms, status, error FROM delivery_attempts WHERE delivery_id = ?"
        " ORDER BY number",
        (row["id"],),
    )
    return Delivery(
        id=row["id"],
        staff_id=row["staff_id"],
        scope_id=row["scope_id"],
        run_id=row["run_id"],
        url=row["url"],
        is_own=bool(row["is_own"]),
        event=row["event"],
        body=row["body"],
        state="pending" if row["job_state"] else "delivered" if row["delivered_at"] else "failed",
        created_at=row["created_at"],
        delivered_at=row["delivered_at"],
        next_attempt_at=row["next_attempt_at"] if row["job_state"] == "due" else None,
        attempts=tuple(Attempt(**dict(attempt)) for attempt in attempts),
    )
