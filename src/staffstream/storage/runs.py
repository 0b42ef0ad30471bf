"""Runs: rows in and out. A run's row is its durable state and, while it is queued, its place in the queue.

The first terminal state wins: `end_run` changes a row only while it is active and still held under the same fence,
and tells the caller whether it did. A process holds what it runs by a lease that it renews; a run whose lease ran out
may be taken over under a higher fence, after which the old holder's writes match nothing.
"""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from staffstream.domain import (
    Conversation,
    Message,
    Mode,
    Owner,
    Run,
    RunFailure,
    RunState,
    Scope,
    make_id,
    now_text,
)
from staffstream.errors import NotFound
from staffstream.storage.database import IN_LIST, Connection, Row, pack_list
from staffstream.storage.run_pieces import drop_pieces, load_text
from staffstream.support.sse import encode_json

ERASED = "(erased)"  # stands in a context's record for a text that is no more

_SELECT = "SELECT runs.*, scopes.staff_id, scopes.user_id FROM runs JOIN scopes ON scopes.id = runs.scope_id"
_ACTIVE = "('queued', 'building', 'streaming')"
_BEGUN = "('building', 'streaming')"
_IS_NEXT = (  # nothing is being made in its conversation, and nothing was queued there before it: each one index step
    "runs.state = 'queued' AND NOT EXISTS (SELECT 1 FROM runs AS made"
    f" WHERE made.conversation_id = runs.conversation_id AND made.state IN {_BEGUN})"
    " AND NOT EXISTS (SELECT 1 FROM runs AS earlier WHERE earlier.conversation_id = runs.conversation_id"
    " AND earlier.finished_at IS NULL AND (earlier.turn, earlier.id) < (runs.turn, runs.id))"
)


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def get_run(conn: Connection, scope: Scope, run_id: str) -> Run:
    """The run. Raises NotFound, also when it is someone else's."""
    row = conn.execute(f"{_SELECT} WHERE runs.id = ? AND runs.scope_id = ?", (run_id, scope.id)).fetchone()
    if row is None:
        raise NotFound("There is no run with this id.")
    return _read_run(row)


def load_run_text(conn: Connection, scope: Scope, run_id: str) -> tuple[Run, str]:
    """The run and its text: its saved message's content, or what was saved of it so far. Raises NotFound."""
    run = get_run(conn, scope, run_id)
    if run.message_id is None:
        return run, "" if run.ended else load_text(conn, run.id)
    row = conn.execute(
        "SELECT content FROM messages WHERE id = ? AND scope_id = ?", (run.message_id, scope.id)
    ).fetchone()
    return run, str(row["content"]) if row else ""


def find_active_run(conn: Connection, scope: Scope, conversation_id: str) -> Run | None:
    """The run that is being made in the conversation, or else the next in its queue; None if there is neither."""
    found = None
    for condition in ("finished_at IS NULL", f"state IN {_BEGUN}"):  # each one step into an index
        row = conn.execute(
            f"SELECT * FROM runs WHERE conversation_id = ? AND scope_id = ? AND {condition} ORDER BY turn, id LIMIT 1",
            (conversation_id, scope.id),
        ).fetchone()
        if row is None:  # the rule: nothing is active there, and one look tells
            break
        found = row
    return _read_run(found, scope) if found else None


def has_active_run(conn: Connection, scope: Scope, message_id: str) -> bool:
    """Whether a reply to the message is queued or being made."""
    return bool(
        conn.execute(
            f"SELECT 1 FROM runs WHERE user_message_id = ? AND scope_id = ? AND state IN {_ACTIVE}",
            (message_id, scope.id),
        ).fetchone()
    )


def is_any_due(conn: Connection) -> bool:
    """Whether a queued run could begin now."""
    row = conn.execute(
        f"SELECT 1 FROM runs WHERE {_IS_NEXT} AND coalesce(not_before, '') <= ? LIMIT 1", (now_text(),)
    ).fetchone()
    return row is not None


def find_last_start(conn: Connection) -> str | None:
    """When the newest of all runs began."""
    row = conn.execute("SELECT max(building_at) AS newest FROM runs").fetchone()
    return str(row["newest"]) if row["newest"] else None


def measure_queue(conn: Connection) -> tuple[int, str | None]:
    """How many queued runs could begin now, and since when the oldest of them has been waiting."""
    row = conn.execute(
        "SELECT count(*) AS depth, min(coalesce(not_before, created_at)) AS oldest FROM runs"
        f" WHERE {_IS_NEXT} AND coalesce(not_before, '') <= ?",
        (now_text(),),
    ).fetchone()
    return row["depth"], row["oldest"]


# ── making and claiming ──────────────────────────────────────────────────────────────────────────────────────────────


def insert_run(
    tx: Connection,
    scope: Scope,
    conversation: Conversation,
    question: Message,
    *,
    mode: Mode,
    webhook_url: str | None = None,
    instructions: str = "",
    owner: Owner | None = None,
) -> Run:
    """A new run for a question: queued, or begun by `owner`, who has seen that its conversation has no active one."""
    now = now_text()
    lease_ends, begun = (now_text(owner.lease_s), 1) if owner else (None, 0)
    row = tx.execute(
        "INSERT INTO runs (id, conversation_id, scope_id, user_message_id, turn, mode, state, webhook_url, owner,"
        " fence, attempts, lease_expires_at, building_at, created_at, place, instructions)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
        (
            make_id(), conversation.id, scope.id, question.id, question.turn, mode, "building" if owner else "queued",
            webhook_url, owner.id if owner else None, begun, begun, lease_ends, now if owner else None, now,
            0 if owner else _find_place(tx, scope), instructions or None,
        ),
    ).fetchone()  # fmt: skip
    return _read_run(row, scope)


def _find_place(conn: Connection, scope: Scope) -> int:
    """The place in the queue of a user's next run: after the user's last one, and not before the head of the queue."""
    row = conn.execute(
        "SELECT (SELECT max(place) FROM runs WHERE state = 'queued' AND scope_id IN"
        " (SELECT id FROM scopes WHERE user_id = ?)) AS own,"
        " (SELECT min(place) FROM runs WHERE state = 'queued') AS head",
        (scope.user_id,),
    ).fetchone()
    return max((row["own"] or 0) + 1, row["head"] or 0)


def claim_run(tx: Connection, run: Run, *, owner: Owner) -> Run | None:
    """Begin a queued run for `owner`; None when it is not its conversation's turn, or somebody else has it."""
    if not tx.try_lock_scope(run.scope_id):  # it is taken up at the next look
        return None
    row = tx.execute(
        "UPDATE runs SET state = 'building', owner = ?, fence = fence + 1, attempts = attempts + 1,"
        f" lease_expires_at = ?, building_at = ? WHERE id = ? AND {_IS_NEXT} RETURNING *",
        (owner.id, now_text(owner.lease_s), now_text(), run.id),
    ).fetchone()
    return _read_run(row, run.scope) if row else None


def claim_due_runs(tx: Connection, *, owner: Owner, limit: int, most_of_user: int) -> list[Run]:
    """Begin up to `limit` queued runs that are next in their conversation and due. Users take turns, and `owner` makes
    no more than `most_of_user` asynchronous runs of one at a time.
    """
    going: Counter[str] = Counter()
    for row in tx.execute(
        "SELECT user_id, count(*) AS made FROM runs JOIN scopes ON scopes.id = scope_id"
        f" WHERE state IN {_BEGUN} AND mode = 'async' AND owner = ? GROUP BY user_id",
        (owner.id,),
    ):
        going[row["user_id"]] = row["made"]
    full = pack_list(user for user, made in going.items() if made >= most_of_user)
    claimed, busy = list[Run](), set[int]()
    for row in tx.execute(
        f"{_SELECT} WHERE {_IS_NEXT} AND coalesce(not_before, '') <= ? AND NOT user_id {IN_LIST}"
        " ORDER BY place, runs.id LIMIT +?",
        (now_text(), full, 2 * limit),
    ).fetchall():
        run = _read_run(row)
        if run.scope_id in busy or len(claimed) == limit or going[run.user_id] >= most_of_user:
            continue
        if not tx.try_lock_scope(run.scope_id):  # its later runs must not begin before this one
            busy.add(run.scope_id)
        elif begun := claim_run(tx, run, owner=owner):
            going[run.user_id] += 1
            claimed.append(begun)
    return claimed


def claim_next_run(tx: Connection, *, owner: Owner, conversation_id: str) -> tuple[Run | None, bool]:
    """Begin the queued run that is next in a conversation if it is a stream, which somebody waits at. The second value
    says whether an asynchronous one is next: that one waits for its place in the queue.
    """
    row = tx.execute(
        f"{_SELECT} WHERE runs.conversation_id = ? AND {_IS_NEXT} AND finished_at IS NULL"
        " AND coalesce(not_before, '') <= ? ORDER BY runs.turn, runs.id LIMIT +1",
        (conversation_id, now_text()),
    ).fetchone()
    if row is None or row["mode"] == "async":
        return None, row is not None
    return claim_run(tx, _read_run(row), owner=owner), False


def renew_leases(tx: Connection, *, owner: Owner) -> dict[str, int]:
    """Keep what this process is running; returns the fence of each run that it still holds."""
    rows = tx.execute(
        f"UPDATE runs SET lease_expires_at = ? WHERE owner = ? AND state IN {_BEGUN} RETURNING id, fence",
        (now_text(owner.lease_s), owner.id),
    )
    return {row["id"]: row["fence"] for row in rows}


# ── progress and end ─────────────────────────────────────────────────────────────────────────────────────────────────


def mark_delivered(tx: Connection, run: Run) -> bool:
    """Note that somebody is being sent the text of this run: it can no longer be made anew. False when it already is,
    under another fence.
    """
    cursor = tx.execute(
        "UPDATE runs SET delivered = 1 WHERE id = ? AND scope_id = ? AND fence = ?", (run.id, run.scope_id, run.fence)
    )
    return cursor.rowcount == 1


def was_delivered(conn: Connection, run: Run) -> bool:
    """Whether somebody was sent some of the run's text, by whichever process."""
    statement = "SELECT delivered FROM runs WHERE id = ? AND scope_id = ?"
    row = conn.execute(statement, (run.id, run.scope_id)).fetchone()
    return bool(row and row["delivered"])


def end_run(
    tx: Connection,
    run: Run,
    state: RunState,
    *,
    message_id: str | None = None,
    error: RunFailure | None = None,
    model: str | None = None,
    stop_reason: str | None = None,
    usage: dict[str, Any] | None = None,
    streaming_at: str | None = None,
    first_token_at: str | None = None,
) -> Run | None:
    """Give the run its terminal state, drop its pieces, and return it. None when it has ended already or is held under
    another fence: then nothing was changed.
    """
    tx.lock_scope(run.scope_id)
    row = tx.execute(
        "UPDATE runs SET state = ?, message_id = ?, error = ?, model = ?, stop_reason = ?, usage = ?,"
        " streaming_at = coalesce(?, streaming_at), first_token_at = coalesce(?, first_token_at), finished_at = ?,"
        " lease_expires_at = NULL, followed_until = NULL, instructions = NULL"
        f" WHERE id = ? AND fence = ? AND state IN {_ACTIVE} RETURNING *",
        (
            state, message_id, _dump_failure(error), model, stop_reason,
            json.dumps(usage) if usage is not None else None, streaming_at, first_token_at, now_text(), run.id,
            run.fence,
        ),
    ).fetchone()  # fmt: skip
    if row is None:
        return None
    drop_pieces(tx, run.id)
    return _read_run(row, run.scope)


def requeue_run(tx: Connection, run: Run, *, wait_s: float = 0.0) -> bool:
    """Put a begun run that has delivered nothing back into the queue. False when it is no longer held under its fence,
    which nobody holds from here on.
    """
    tx.lock_scope(run.scope_id)
    cursor = tx.execute(
        "UPDATE runs SET state = 'queued', owner = NULL, lease_expires_at = NULL, not_before = ?, delivered = 0,"
        " streaming_at = NULL, first_token_at = NULL, followed_until = NULL, fence = fence + 1"
        f" WHERE id = ? AND fence = ? AND state IN {_BEGUN}",
        (now_text(wait_s) if wait_s else None, run.id, run.fence),
    )
    if cursor.rowcount == 0:
        return False
    drop_pieces(tx, run.id)
    return True


def find_abandoned_runs(conn: Connection, *, owner: Owner, all_begun: bool) -> list[tuple[Run, bool]]:
    """Begun runs that nobody is making any more, each with whether any of its text was delivered.

    With `all_begun` (this process is alone on the file) every begun run, else those of others whose lease has run out:
    the owner itself knows what it is making, however late its busy loop renews.
    """
    rows = conn.execute(
        f"{_SELECT} WHERE state IN {_BEGUN} AND (? = 1 OR (owner <> ? AND lease_expires_at < ?))"
        " ORDER BY scope_id, runs.id",
        (int(all_begun), owner.id, now_text()),
    )
    return [(_read_run(row), bool(row["delivered"])) for row in rows]


# ── what a run was built from ────────────────────────────────────────────────────────────────────────────────────────


def save_context(tx: Connection, run_id: str, record: dict[str, Any]) -> None:
    """Save what a run sent to the provider and why, in place of an earlier attempt's record."""
    tx.execute(
        "INSERT INTO run_contexts (run_id, record) VALUES (?, ?)"
        " ON CONFLICT (run_id) DO UPDATE SET record = excluded.record",
        (run_id, encode_json(record).decode()),
    )


def load_context(conn: Connection, scope: Scope, run_id: str) -> dict[str, Any]:
    """What a run was built from. Raises NotFound."""
    row = conn.execute(
        "SELECT record FROM run_contexts JOIN runs ON runs.id = run_id WHERE run_id = ? AND scope_id = ?",
        (run_id, scope.id),
    ).fetchone()
    if row is None:
        raise NotFound("There is no record of a context for this message. Only replies made here have one.")
    record: dict[str, Any] = json.loads(row["record"])
    return record


def erase_summaries(tx: Connection, scope: Scope, conversation_id: str, *, after_turn: int) -> None:
    """Take the summary out of the records of a conversation's later contexts: it may hold words that are erased."""
    rows = tx.execute(
        "SELECT run_id, record FROM run_contexts JOIN runs ON runs.id = run_id"
        " WHERE conversation_id = ? AND scope_id = ? AND turn > ?",
        (conversation_id, scope.id, after_turn),
    ).fetchall()
    for row in rows:
        record = json.loads(row["record"])
        items = [item for section in record["sections"] if section["name"] == "summary" for item in section["items"]]
        for item in items:
            item["text"] = ERASED
        if items:
            tx.execute(
                "UPDATE run_contexts SET record = ? WHERE run_id = ?", (encode_json(record).decode(), row["run_id"])
            )


def list_old_contexts(conn: Connection, *, before: str, limit: int) -> list[str]:
    """The ids of runs that ended before a moment and still have the record of their context."""
    rows = conn.execute(
        "SELECT run_id FROM run_contexts JOIN runs ON runs.id = run_id WHERE finished_at < ? LIMIT +?", (before, limit)
    )
    return [row["run_id"] for row in rows]


def drop_contexts(tx: Connection, run_ids: Iterable[str]) -> None:
    """Erase the records of the contexts of some runs."""
    tx.executemany("DELETE FROM run_contexts WHERE run_id = ?", [(run_id,) for run_id in run_ids])


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _dump_failure(error: RunFailure | None) -> str | None:
    if error is None:
        return None
    return json.dumps({"code": error.code, "detail": error.detail, "retryable": error.retryable})


def _read_run(row: Row, scope: Scope | None = None) -> Run:
    """A run from its row; the names of its scope come from there, or from a join."""
    return Run(
        id=row["id"],
        staff_id=scope.staff_id if scope else row["staff_id"],
        user_id=scope.user_id if scope else row["user_id"],
        scope_id=row["scope_id"],
        conversation_id=row["conversation_id"],
        user_message_id=row["user_message_id"],
        turn=row["turn"],
        mode=row["mode"],
        state=row["state"],
        message_id=row["message_id"],
        error=RunFailure(**json.loads(row["error"])) if row["error"] else None,
        model=row["model"],
        stop_reason=row["stop_reason"],
        usage=json.loads(row["usage"]) if row["usage"] else None,
        webhook_url=row["webhook_url"],
        fence=row["fence"],
        attempts=row["attempts"],
        not_before=row["not_before"],
        created_at=row["created_at"],
        building_at=row["building_at"],
        streaming_at=row["streaming_at"],
        first_token_at=row["first_token_at"],
        finished_at=row["finished_at"],
        instructions=row["instructions"] or "",
    )
