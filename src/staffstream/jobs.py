"""Durable background work: rows in and out.

A job is enqueued in the transaction that causes it, and its results are committed together with its end, so nothing
is lost and nothing is done twice. There is at most one live job for a (kind, subject). A process holds a job it runs by
a lease that it renews; one whose lease ran out is taken over under a higher fence, after which `complete_job` and
`fail_job` tell the old holder that the job is no longer its own. While a job runs its `due_at` is null; asking for it
again sets it, and the job is run once more after its end: what happened meanwhile is never lost.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from staffstream.database import Connection, Row
from staffstream.domain import Owner, make_id, now_text
from staffstream.errors import Conflict, NotFound

JobKind = Literal["extract", "summarise", "embed", "deliver"]
JobState = Literal["due", "running", "dead"]

_DELIVERY_WAITS_S = (5.0, 30.0, 300.0, 1800.0, 7200.0, 28800.0, 86400.0)
_OTHER_WAITS_S = (5.0, 20.0, 60.0, 300.0, 1800.0)
_LONGEST_WAIT_S = 30 * 86400.0
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of background work. `attempts` counts those begun, `last_error` is a code of our own."""

    id: str
    kind: JobKind
    subject: str
    scope_id: int | None
    state: JobState
    attempts: int
    due_at: str | None
    fence: int
    last_error: str | None
    created_at: str


@dataclass(frozen=True, slots=True)
class JobCount:
    """How the jobs of one kind stand; `oldest_due_at` is since when the oldest has been waiting for a worker."""

    kind: JobKind
    waiting: int
    due: int
    running: int
    dead: int
    oldest_due_at: str | None


def list_waits_s(kind: JobKind) -> tuple[float, ...]:
    """How long to wait before each further attempt, in seconds; after the last one a job is dead."""
    return _DELIVERY_WAITS_S if kind == "deliver" else _OTHER_WAITS_S


# ── enqueueing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def enqueue_job(
    tx: Connection,
    kind: JobKind,
    subject: str,
    *,
    scope_id: int | None = None,
    due_in_s: float = 0.0,
    replace: bool = False,
) -> None:
    """Have the job done once for this subject, in `due_in_s` seconds or earlier if it was already due before that.

    With `replace` the new time counts even if it is later: each call pushes the job back, as an idle timer needs it.
    A job that is running now is run again at that time.
    """
    _put_job(tx, kind, subject, scope_id, now_text(due_in_s), replace=replace)


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def claim_due_jobs(tx: Connection, *, owner: Owner, limit: int, kinds: Iterable[JobKind]) -> list[Job]:
    """Begin up to `limit` jobs that are due, or whose holder let its lease run out, oldest first.

    One that was left behind by its holder at its last attempt is dead: it may be what ends the process.
    """
    wanted, now = list(kinds), now_text()
    marks = ", ".join("?" * len(wanted))
    for row in tx.execute(
        f"SELECT * FROM jobs WHERE state = 'running' AND lease_expires_at <= ? AND kind IN ({marks})", (now, *wanted)
    ).fetchall():
        if row["attempts"] > len(list_waits_s(row["kind"])):
            _bury_job(tx, _read_job(row), "abandoned")
    rows = tx.execute(
        "UPDATE jobs SET state = 'running', due_at = NULL, owner = ?, fence = fence + 1, attempts = attempts + 1,"
        " lease_expires_at = ? WHERE id IN (SELECT id FROM jobs WHERE state IN ('due', 'running')"
        " AND iif(state = 'due', due_at, lease_expires_at) <= ?"
        f" AND kind IN ({marks}) ORDER BY coalesce(due_at, lease_expires_at) LIMIT ?) RETURNING *",
        (owner.id, now_text(owner.lease_s), now, *wanted, limit),
    )
    return [_read_job(row) for row in rows]


def renew_job_leases(tx: Connection, *, owner: Owner) -> dict[str, int]:
    """Keep what this process is running; returns the fence of each job that it still holds."""
    rows = tx.execute(
        "UPDATE jobs SET lease_expires_at = ? WHERE owner = ? AND state = 'running' RETURNING id, fence",
        (now_text(owner.lease_s), owner.id),
    )
    return {row["id"]: row["fence"] for row in rows}


def complete_job(tx: Connection, job: Job) -> bool:
    """The job is done. False when somebody else holds it by now: then what was done for it must be rolled back."""
    if (held := _find_held(tx, job)) is None:
        return False
    tx.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
    if held.due_at is not None:
        _put_job(tx, job.kind, job.subject, job.scope_id, held.due_at)
    return True


def fail_job(
    tx: Connection, job: Job, code: str, *, retryable: bool, retry_after_s: float | None = None
) -> JobState | None:
    """An attempt failed: the job is due again after its wait (± 20 %, never sooner than `retry_after_s`), or dead.

    Returns its new state; None when somebody else holds it by now.
    """
    if (held := _find_held(tx, job)) is None:
        return None
    waits_s = list_waits_s(job.kind)
    if not retryable or job.attempts > len(waits_s):
        _bury_job(tx, held, code)
        return "dead"
    wait_s = waits_s[job.attempts - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)
    wait_s = min(max(wait_s, retry_after_s or 0.0), _LONGEST_WAIT_S)
    tx.execute(
        "UPDATE jobs SET state = 'due', due_at = ?, owner = NULL, lease_expires_at = NULL, last_error = ? WHERE id = ?",
        (now_text(wait_s), code, job.id),
    )
    return "due"


def return_jobs(tx: Connection, *, owner: Owner) -> None:
    """Give back what this process is running, as if it had not begun: it is shutting down."""
    tx.execute(
        "UPDATE jobs SET state = 'due', due_at = ?, attempts = attempts - 1, owner = NULL, lease_expires_at = NULL"
        " WHERE owner = ? AND state = 'running'",
        (now_text(), owner.id),
    )


def expire_job_leases(tx: Connection) -> None:
    """Let every running job be taken over at once: no other process is left that could be running it."""
    tx.execute("UPDATE jobs SET lease_expires_at = ? WHERE state = 'running'", (now_text(),))


# ── looking after ────────────────────────────────────────────────────────────────────────────────────────────────────


def list_jobs(
    conn: Connection,
    *,
    state: JobState | None = None,
    kind: JobKind | None = None,
    limit: int = 50,
    before: str | None = None,
) -> list[Job]:
    """Newest first; `before` is the last id of the page before."""
    rows = conn.execute(
        "SELECT * FROM jobs WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR kind = ?2) AND (?3 IS NULL OR id < ?3)"
        " ORDER BY id DESC LIMIT ?4",
        (state, kind, before, limit),
    )
    return [_read_job(row) for row in rows]


def get_job(conn: Connection, job_id: str) -> Job:
    """The job. Raises NotFound, also when it is finished."""
    row = conn.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise NotFound("There is no job with this id; a finished one leaves nothing.")
    return _read_job(row)


def retry_job(tx: Connection, job_id: str) -> Job:
    """Have a dead or waiting job done now, with all its attempts before it. Raises NotFound; Conflict while it runs.

    A dead job gives way to a live one for the same subject, if there is one.
    """
    job = get_job(tx, job_id)
    if job.state == "running":
        raise Conflict("This job is running now.")
    tx.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
    enqueue_job(tx, job.kind, job.subject, scope_id=job.scope_id)
    row = tx.execute(
        "SELECT * FROM jobs WHERE kind = ? AND subject = ? AND state IN ('due', 'running')", (job.kind, job.subject)
    ).fetchone()
    return _read_job(row)


def drop_job(tx: Connection, job_id: str) -> Job:
    """Erase a job that is not running, and return what it was. Raises NotFound; Conflict while it runs."""
    job = get_job(tx, job_id)
    if job.state == "running":
        raise Conflict("This job is running now.")
    tx.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
    return job


def drop_jobs_of(tx: Connection, kind: JobKind, subject: str) -> None:
    """Erase whatever job there is for a subject: a running one finds out when it ends."""
    tx.execute("DELETE FROM jobs WHERE kind = ? AND subject = ?", (kind, subject))


def measure_jobs(conn: Connection) -> list[JobCount]:
    """How the jobs stand, by kind; kinds without jobs are absent. A job whose holder's lease ran out counts as due."""
    rows = conn.execute(
        "WITH timed AS (SELECT kind, state, CASE state WHEN 'due' THEN due_at WHEN 'running' THEN lease_expires_at END"
        " AS since FROM jobs) SELECT kind, count(*) FILTER (WHERE state = 'due' AND since > ?1) AS waiting,"
        " count(*) FILTER (WHERE since <= ?1) AS due,"
        " count(*) FILTER (WHERE state = 'running' AND since > ?1) AS running,"
        " count(*) FILTER (WHERE state = 'dead') AS dead, min(since) FILTER (WHERE since <= ?1) AS oldest"
        " FROM timed GROUP BY kind ORDER BY kind",
        (now_text(),),
    )
    return [JobCount(r["kind"], r["waiting"], r["due"], r["running"], r["dead"], r["oldest"]) for r in rows]


# ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _put_job(
    tx: Connection, kind: JobKind, subject: str, scope_id: int | None, due_at: str, *, replace: bool = False
) -> None:
    tx.execute(
        "INSERT INTO jobs (id, kind, subject, scope_id, state, due_at, created_at)"
        " VALUES (?1, ?2, ?3, ?4, 'due', ?5, ?6)"
        " ON CONFLICT (kind, subject) WHERE state IN ('due', 'running') DO UPDATE SET"
        " due_at = CASE WHEN ?7 THEN ?5 ELSE min(coalesce(due_at, ?5), ?5) END",
        (make_id(), kind, subject, scope_id, due_at, now_text(), int(replace)),
    )


def _find_held(tx: Connection, job: Job) -> Job | None:
    """The job as it stands now, if it is still held under this fence."""
    row = tx.execute(
        "SELECT * FROM jobs WHERE id = ? AND fence = ? AND state = 'running'", (job.id, job.fence)
    ).fetchone()
    return _read_job(row) if row else None


def _bury_job(tx: Connection, job: Job, code: str) -> None:
    """Keep the job as dead, and whatever was asked for meanwhile as a job of its own."""
    tx.execute(
        "UPDATE jobs SET state = 'dead', due_at = NULL, owner = NULL, lease_expires_at = NULL, last_error = ?"
        " WHERE id = ?",
        (code, job.id),
    )
    if job.due_at is not None:
        _put_job(tx, job.kind, job.subject, job.scope_id, job.due_at)


def _read_job(row: Row) -> Job:
    return Job(
        id=row["id"],
        kind=row["kind"],
        subject=row["subject"],
        scope_id=row["scope_id"],
        state=row["state"],
        attempts=row["attempts"],
        due_at=row["due_at"],
        fence=row["fence"],
        last_error=row["last_error"],
        created_at=row["created_at"],
    )
