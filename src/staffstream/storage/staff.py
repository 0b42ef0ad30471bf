"""Staff members and scopes: rows in and out.

Staff members are shared by all users of a server; what a user says to one hangs on the pair's scope, which is made the
first time the two meet.
"""

import base64
import json
import secrets
from collections.abc import Mapping
from typing import Any

from staffstream.domain import Scope, Staff, make_id, now_text
from staffstream.errors import NotFound
from staffstream.storage.database import Connection, Row

_NO_STAFF = "There is no staff member with this id."
_FIELDS = (
    "name",
    "role",
    "persona",
    "model",
    "context_budget_tokens",
    "max_output_tokens",
    "thinking_budget_tokens",
    "webhook_url",
    "memory_enabled",
)


def make_webhook_secret() -> str:
    """A new signing secret as Standard Webhooks writes it: `whsec_` and 24 random bytes in base64."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


def create_staff(tx: Connection, fields: Mapping[str, Any], *, webhook_secret: str | None = None) -> Staff:
    """Save a new staff member; `fields` are Staff's own names, absent ones get their defaults."""
    now = now_text()
    values: dict[str, Any] = {"role": "", "persona": "", "memory_enabled": True} | dict(fields)
    values |= {"id": make_id(), "created_at": now, "updated_at": now}
    values["webhook_secrets"] = json.dumps([webhook_secret or make_webhook_secret()])
    tx.execute(
        f"INSERT INTO staff ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",
        list(values.values()),
    )
    return get_staff(tx, values["id"])


def get_staff(conn: Connection, staff_id: str) -> Staff:
    """The staff member. Raises NotFound."""
    row = conn.execute("SELECT * FROM staff WHERE id = ? AND erased_at IS NULL", (staff_id,)).fetchone()
    if row is None:
        raise NotFound(_NO_STAFF)
    return _read_staff(row)


def list_staff(conn: Connection) -> list[Staff]:
    """All staff members, oldest first."""
    return [_read_staff(row) for row in conn.execute("SELECT * FROM staff WHERE erased_at IS NULL ORDER BY id")]


def update_staff(
    tx: Connection, staff_id: str, changes: Mapping[str, Any], *, webhook_secret: str | None = None
) -> Staff:
    """Change the named fields only. Raises NotFound.

    A new webhook secret comes before the present one, which stays valid until the next. Naming the webhook's URL,
    be it the same, enables it again.
    """
    values = {name: changes[name] for name in _FIELDS if name in changes} | {"updated_at": now_text()}
    present = get_staff(tx, staff_id).webhook_secrets[0]
    if webhook_secret not in (None, present):
        values["webhook_secrets"] = json.dumps([webhook_secret, present])
    if "webhook_url" in changes:
        values["webhook_disabled_at"] = None
    tx.execute(
        f"UPDATE staff SET {', '.join(f'{name} = ?' for name in values)} WHERE id = ?",
        [*values.values(), staff_id],
    )
    return get_staff(tx, staff_id)


def disable_webhook(tx: Connection, staff_id: str, url: str) -> bool:
    """Send no more to the staff member's webhook, until its URL is set again. False if it has another URL by now."""
    cursor = tx.execute(
        "UPDATE staff SET webhook_disabled_at = ? WHERE id = ? AND webhook_url = ?", (now_text(), staff_id, url)
    )
    return cursor.rowcount == 1


def mark_erased(tx: Connection, staff_id: str) -> None:
    """Nobody finds the staff member from now on. Raises NotFound."""
    marked = tx.execute("UPDATE staff SET erased_at = ? WHERE id = ? AND erased_at IS NULL", (now_text(), staff_id))
    if marked.rowcount == 0:
        raise NotFound(_NO_STAFF)


def delete_staff(tx: Connection, staff_id: str) -> None:
    """Erase the row; what hangs on it goes with it, but for what memories.py keeps in its indexes."""
    tx.execute("DELETE FROM staff WHERE id = ?", (staff_id,))


def _read_staff(row: Row) -> Staff:
    return Staff(
        id=row["id"],
        **{name: row[name] for name in _FIELDS if name != "memory_enabled"},
        memory_enabled=bool(row["memory_enabled"]),
        webhook_secrets=tuple(json.loads(row["webhook_secrets"])),
        webhook_disabled_at=row["webhook_disabled_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def find_scope(conn: Connection, staff_id: str, user_id: str) -> Scope:
    """The scope of a pair, for reading. Raises NotFound for an unknown staff member; a pair that has never met gets
    scope 0, which holds nothing.
    """
    row = conn.execute(
        "SELECT scopes.id FROM staff LEFT JOIN scopes ON scopes.staff_id = staff.id AND user_id = ?"
        " WHERE staff.id = ? AND erased_at IS NULL",
        (user_id, staff_id),
    ).fetchone()
    if row is None:
        raise NotFound(_NO_STAFF)
    conn.lock_scope(row["id"] or 0)
    return Scope(row["id"] or 0, staff_id, user_id)


def load_scope(conn: Connection, scope_id: int) -> Scope:
    """The scope that a job is for. Raises NotFound when it was erased."""
    row = conn.execute("SELECT * FROM scopes WHERE id = ?", (scope_id,)).fetchone()
    if row is None:
        raise NotFound("There is no such scope any more.")
    conn.lock_scope(scope_id)
    return Scope(row["id"], row["staff_id"], row["user_id"])


def ensure_scope(tx: Connection, staff_id: str, user_id: str) -> Scope:
    """The scope of a pair, made if they meet for the first time. Raises NotFound for an unknown staff member."""
    return get_or_create_scope(tx, staff_id, user_id)[1]


def get_or_create_scope(tx: Connection, staff_id: str, user_id: str) -> tuple[Staff, Scope]:
    """A staff member, and its scope with a user, made if they meet for the first time. Raises NotFound."""
    row = tx.execute(
        "SELECT staff.*, scopes.id AS scope_id FROM staff LEFT JOIN scopes ON scopes.staff_id = staff.id"
        " AND user_id = ? WHERE staff.id = ? AND erased_at IS NULL",
        (user_id, staff_id),
    ).fetchone()
    if row is None:
        raise NotFound(_NO_STAFF)
    scope_id = row["scope_id"]
    if scope_id is None:
        made = tx.execute("INSERT INTO scopes (staff_id, user_id) VALUES (?, ?) RETURNING id", (staff_id, user_id))
        scope_id = made.fetchone()["id"]
    tx.lock_scope(scope_id)
    return _read_staff(row), Scope(scope_id, staff_id, user_id)


def list_scopes(conn: Connection, staff_id: str) -> list[Scope]:
    """All scopes of a staff member: what has to be purged before it can be erased."""
    rows = conn.execute("SELECT id, user_id FROM scopes WHERE staff_id = ?", (staff_id,))
    return [Scope(row["id"], staff_id, row["user_id"]) for row in rows]
