"""Durable background work: rows in and out.

A job is enqueued in the transaction that causes it, and its results are committed together with its end, so nothing
is lost and nothing is done twice. There is at most one live job for a (kind, subject): asking for it again while it
waits moves its time, and while it runs has it run once more, so what happened meanwhile is never lost. A process holds
a job by a lease that it renews; one whose lease ran out is taken over under a higher fence, after which `complete_job`
and `fail_job` tell the old holder that it is no longer its own. `due_at` is when a worker may take a job, whatever for:
it fell due, or its holder's lease ran out. Of one queue (a webhook's receiver, which may let each attempt hang) only a
few jobs are run at a time, in all processes together.
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from staffstream.domain import Owner, make_id, now_text
from staffstream.errors import Conflict, NotFound
from staffstream.storage.database import Connection, Row

JobKind = Literal["extract", "summarise", "embed", "deliver"]
JobState = Literal["due", "running", "dead"]

_DELIVERY_WAITS_S = (5.0, 30.0, 300.0, 1800.0, 7200.0, 28800.0, 86400.0)
_OTHER_WAITS_S = (5.0, 20.0, 60.0, 300.0, 1800.0)
_LONGEST_WAIT_S = 30 * 86400.0
_JITTER = 0.2
MAX_RUNNING_PER_QUEUE = 4  # a receiver that hangs holds so many of the worker's places for 15 s each
_LOOKED_AT = 256  # due jobs of a kind, the oldest, among which scopes take turns
_MAX_LEFT_DELIVERIES = 100  # a process that crashes in a loop begins a delivery at every start


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of background work. `attempts` counts those begun, `last_error` is a code of our own."""

    id: str
    kind: JobKind
    subject: str
    scope_id: int | None
    queue: str | None
    state: JobState
    attempts: int
    due_at: str | None
    again_at: str | None
    fence: int
    last_error: str | None
    created_at: str

    @property
    def on_last_attempt(self) -> bool:
        """Whether the job is dead if the attempt begun last fails."""
        return self.attempts > len(list_waits_s(self.kind))

    @property
    def was_left_too_often(self) -> bool:
        """Whether the job is dead if its holder leaves it behind."""
        if self.kind == "deliver":
            return self.fence - self.attempts >= _MAX_LEFT_DELIVERIES
        return self.on_last_attempt


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
    queue: str | None = None,
    due_in_s: float = 0.0,
    replace: bool = False,
) -> None:
    """Have the job done once for this subject, in `due_in_s` seconds or earlier if it was already due before that.

    With `replace` the new time counts even if it is later: each call pushes the job back, as an idle timer needs it.
    A job that is running now is run again at that time.
    """
    _put_job(tx, kind, subject, scope_id, queue, now_text(due_in_s), replace=replace)


def _put_job(
    tx: Connection,
    kind: JobKind,
    subject: str,
    scope_id: int | None,
    queue: str | None,
    due_at: str,
    *,
    replace: bool = False,
) -> None:
    tx.execute(
        "INSERT INTO jobs (id, kind, subject, scope_id, state, due_at, created_at, queue)"
        " VALUES (?1, ?2, ?3, ?4, 'due', ?5, ?6, ?8)"
        " ON CONFLICT (kind, subject) WHERE state IN ('due', 'running') DO UPDATE SET"
        " due_at = CASE WHEN jobs.state = 'running' THEN jobs.due_at WHEN ?7 = 1 THEN ?5"
        " ELSE min(jobs.due_at, ?5) END,"
        " again_at = CASE WHEN jobs.state <> 'running' THEN NULL WHEN ?7 = 1 THEN ?5"
        " ELSE min(coalesce(jobs.again_at, ?5), ?5) END",
        (make_id(), kind, subject, scope_id, due_at, now_text(), int(replace), queue),
    )


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────


_RUNNING = "FROM jobs AS other WHERE state = 'running' AND due_at > :now"
_RUNNING_OF_QUEUE = f"(SELECT count(*) {_RUNNING} AND other.queue = jobs.queue)"
_FULL = f"SELECT queue {_RUNNING} AND queue IS NOT NULL GROUP BY queue HAVING count(*) >= {MAX_RUNNING_PER_QUEUE}"
_DUE = f"FROM jobs WHERE kind = :kind AND due_at <= :now AND (queue IS NULL OR queue NOT IN ({_FULL}))"


def find_oldest_due(conn: Connection, kinds: Iterable[JobKind] = get_args(JobKind)) -> str | None:
    """Since when a worker could have taken a job of one of these kinds, or None; a kind is one look into the index."""
    statement, now = f"SELECT due_at {_DUE} ORDER BY due_at LIMIT 1", now_text()
    found = [conn.execute(statement, {"kind": kind, "now": now}).fetchone() for kind in kinds]
    return min((row["due_at"] for row in found if row), default=None)


def is_any_dead(conn: Connection) -> bool:
    """Whether something of our own was given up; a delivery is its receiver's doing, and shown with the delivery."""
    return conn.execute("SELECT 1 FROM jobs WHERE state = 'dead' AND kind <> 'deliver' LIMIT 1").fetchone() is not None


def claim_due_jobs(tx: Connection, kind: JobKind, *, owner: Owner, limit: int) -> list[Job]:
    """Begin up to `limit` jobs of a kind that are due, or whose holder let its lease run out. Scopes take turns.

    One that was left behind by its holder at its last attempt is dead: it may be what ended the process. A delivery's
    attempts are its receiver's failures, so those that ended with the process count apart.
    """
    claimed: list[Job] = []
    begun = Counter[str | None]()
    rows = tx.execute(
        f"SELECT *, {_RUNNING_OF_QUEUE} AS others {_DUE} ORDER BY due_at LIMIT +:limit",
        {"kind": kind, "now": now_text(), "limit": max(limit, _LOOKED_AT) if limit else 0},
    ).fetchall()
    for row in _take_turns(rows):
        if len(claimed) == limit:
            break
        job = _read_job(row)
        if job.state == "running" and job.was_left_too_often:
            _bury_job(tx, job, "abandoned")
        elif (job.queue is None or row["others"] + begun[job.queue] < MAX_RUNNING_PER_QUEUE) and (
            mine := _begin_job(tx, job, owner)
        ):
            begun[job.queue] += 1
            claimed.append(mine)
    return claimed


def _take_turns(rows: list[Any]) -> list[Any]:
    """The rows in another order: every scope's first, then every scope's second, and so on."""
    places = Counter[int | None]()
    placed = []
    for row in rows:
        places[row["scope_id"]] += 1
        placed.append((places[row["scope_id"]], row))
    return [row for _, row in sorted(placed, key=lambda item: item[0])]


def _begin_job(tx: Connection, job: Job, owner: Owner) -> Job | None:
    """None when another process took it since it was found."""
    row = tx.execute(
        "UPDATE jobs SET state = 'running', due_at = ?, again_at = NULL, owner = ?, fence = fence + 1,"
        " attempts = attempts + CASE WHEN kind = 'deliver' AND state = 'running' THEN 0 ELSE 1 END"
        " WHERE id = ? AND fence = ? RETURNING *",
        (now_text(owner.lease_s), owner.id, job.id, job.fence),
    ).fetchone()
    return _read_job(row) if row else None


def renew_job_leases(tx: Connection, *, owner: Owner) -> dict[str, int]:
    """Keep what this process is running; returns the fence of each job that it still holds."""
    rows = tx.execute(
        "UPDATE jobs SET due_at = ? WHERE owner = ? AND state = 'running' RETURNING id, fence",
        (now_text(owner.lease_s), owner.id),
    )
    return {row["id"]: row["fence"] for row in rows}


def complete_job(tx: Connection, job: Job) -> bool:
    """The job is done. False when somebody else holds it by now: then what was done for it must be rolled back."""
    tx.lock_scope(job.scope_id or 0)
    if (held := _find_held(tx, job)) is None:
        return False
    if tx.execute("DELETE FROM jobs WHERE id = ? AND fence = ?", (job.id, job.fence)).rowcount == 0:
        return False
    _drop_earlier(tx, held)  # what they failed at is done
    _put_again(tx, held)
    return True


def fail_job(
    tx: Connection, job: Job, code: str, *, retryable: bool, retry_after_s: float | None = None
) -> JobState | None:
    """An attempt failed: the job is due again after its wait (± 20 %, never sooner than `retry_after_s`), or dead.

    Returns its new state; None when somebody else holds it by now.
    """
    if (held := _find_held(tx, job)) is None:
        return None
    if not retryable or held.on_last_attempt:
        _bury_job(tx, held, code)
        return "dead"
    wait_s = list_waits_s(held.kind)[held.attempts - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)
    wait_s = min(max(wait_s, retry_after_s or 0.0), _LONGEST_WAIT_S)
    tx.execute(
        "UPDATE jobs SET state = 'due', due_at = ?, again_at = NULL, owner = NULL, last_error = ? WHERE id = ?",
        (now_text(wait_s), code, held.id),
    )
    return "due"


def return_jobs(tx: Connection, *, owner: Owner) -> None:
    """Give back what this process is running, as if it had not begun: it is shutting down."""
    tx.execute(
        "UPDATE jobs SET state = 'due', due_at = ?, again_at = NULL, attempts = attempts - 1, owner = NULL"
        " WHERE owner = ? AND state = 'running'",
        (now_text(), owner.id),
    )


def expire_job_leases(tx: Connection) -> None:
    """Let every running job be taken over at once: no other process is left that could be running it."""
    tx.execute("UPDATE jobs SET due_at = ? WHERE state = 'running'", (now_text(),))


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
        " ORDER BY id DESC LIMIT +?4",
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
    job = drop_job(tx, job_id)
    enqueue_job(tx, job.kind, job.subject, scope_id=job.scope_id, queue=job.queue)
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


def drop_dead_jobs(tx: Connection, kind: JobKind, subject: str) -> None:
    """Erase the dead jobs of a subject, when a new one is to take their place."""
    tx.execute("DELETE FROM jobs WHERE kind = ? AND subject = ? AND state = 'dead'", (kind, subject))


def measure_jobs(conn: Connection) -> list[JobCount]:
    """How the jobs stand, by kind; kinds without jobs are absent. A job whose holder's lease ran out counts as due."""
    rows = conn.execute(
        "SELECT kind, count(*) FILTER (WHERE state = 'due' AND due_at > ?1) AS waiting,"
        " count(*) FILTER (WHERE due_at <= ?1) AS due,"
        " count(*) FILTER (WHERE state = 'running' AND due_at > ?1) AS running,"
        " count(*) FILTER (WHERE state = 'dead') AS dead, min(due_at) FILTER (WHERE due_at <= ?1) AS oldest_due_at"
        " FROM jobs GROUP BY kind ORDER BY kind",
        (now_text(),),
    )
    return [JobCount(**dict(row)) for row in rows]


# ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _find_held(tx: Connection, job: Job) -> Job | None:
    """The job as it stands now, if it is still held under this fence."""
    row = tx.execute(
        "SELECT * FROM jobs WHERE id = ? AND fence = ? AND state = 'running'", (job.id, job.fence)
    ).fetchone()
    return _read_job(row) if row else None


def _bury_job(tx: Connection, job: Job, code: str) -> None:
    """Keep the job as dead, in place of earlier ones, and what was asked for while it ran as a job of its own."""
    _drop_earlier(tx, job)
    tx.execute(
        "UPDATE jobs SET state = 'dead', due_at = NULL, again_at = NULL, owner = NULL, last_error = ? WHERE id = ?",
        (code, job.id),
    )
    _put_again(tx, job)


def _drop_earlier(tx: Connection, job: Job) -> None:
    """Erase the dead jobs for the same subject, found by their scope; a delivery has none (see `redeliver`)."""
    if job.kind != "deliver":
        tx.execute(
            "DELETE FROM jobs WHERE scope_id IS NOT DISTINCT FROM ? AND kind = ? AND subject = ? AND state = 'dead'",
            (job.scope_id, job.kind, job.subject),
        )


def _put_again(tx: Connection, job: Job) -> None:
    """The job that was asked for while this one ran."""
    if job.again_at is not None:
        _put_job(tx, job.kind, job.subject, job.scope_id, job.queue, job.again_at)


def _read_job(row: Row) -> Job:
    return Job(
        id=row["id"],
        kind=row["kind"],
        subject=row["subject"],
        scope_id=row["scope_id"],
        queue=row["queue"],
        state=row["state"],
        attempts=row["attempts"],
        due_at=row["due_at"],
        again_at=row["again_at"],
        fence=row["fence"],
        last_error=row["last_error"],
        created_at=row["created_at"],
    )
