"""API keys: rows in and out. A key names a user and a role; only its SHA-256 is kept.

A key has 192 random bits, so one round of a fast hash is enough: there is nothing to guess that salting or stretching
would slow down, and the hash can be looked up by its index.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from staffstream.domain import Role, make_id, now_text
from staffstream.errors import NotFound, UserExists
from staffstream.storage.database import IN_LIST, Connection, Row, pack_list

PREFIX = "sst_"
_SHOWN_CHARACTERS = len(PREFIX) + 4


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret; `prefix` is the part of it that may be shown."""

    id: str
    name: str
    user_id: str
    role: Role
    prefix: str
    created_at: str
    last_used_at: str | None
    revoked_at: str | None
    gateway: bool


_ALL_KEYS = -1
"""Locked while a key is made: of two made at once one is the first. No scope has this id."""


def create_key(
    tx: Connection, name: str, *, user_id: str | None = None, role: Role | None = None, gateway: bool = False
) -> tuple[ApiKey, str]:
    """A new key and its text, which cannot be had again. A gateway's may name the user that it speaks for.

    Without `user_id` the key is for a new user of its own name; raises UserExists if there is one. Without `role` it is
    a member's, but for the very first key: somebody has to be able to make the first staff member.
    """
    tx.lock_scope(_ALL_KEYS)
    if user_id is None and tx.execute("SELECT 1 FROM api_keys WHERE user_id = ? LIMIT 1", (name,)).fetchone():
        raise UserExists
    text = PREFIX + secrets.token_urlsafe(24)
    is_first = tx.execute("SELECT 1 FROM api_keys LIMIT 1").fetchone() is None
    role = role or ("admin" if is_first else "member")
    row = tx.execute(
        "INSERT INTO api_keys (id, name, user_id, role, prefix, hash, created_at, gateway)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
        (make_id(), name, user_id or name, role, text[:_SHOWN_CHARACTERS], _hash(text), now_text(), int(gateway)),
    ).fetchone()
    return _read_key(row), text


def find_key(conn: Connection, text: str) -> ApiKey | None:
    """The valid key with this text."""
    digest = _hash(text)
    row = conn.execute("SELECT * FROM api_keys WHERE hash = ? AND revoked_at IS NULL", (digest,)).fetchone()
    if row is None or not hmac.compare_digest(row["hash"], digest):
        return None
    return _read_key(row)


def find_key_by_id(conn: Connection, key_id: str) -> ApiKey | None:
    """The valid key with this id."""
    row = conn.execute("SELECT * FROM api_keys WHERE id = ? AND revoked_at IS NULL", (key_id,)).fetchone()
    return _read_key(row) if row else None


def list_keys(conn: Connection) -> list[ApiKey]:
    """All keys, oldest first, the revoked ones too."""
    return [_read_key(row) for row in conn.execute("SELECT * FROM api_keys ORDER BY id")]


def revoke_key(tx: Connection, key_id: str) -> ApiKey:
    """Make a key invalid from now on; what its user has stays. Raises NotFound."""
    row = tx.execute(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ? RETURNING *", (now_text(), key_id)
    ).fetchone()
    if row is None:
        raise NotFound("There is no key with this id.")
    return _read_key(row)


def note_uses(tx: Connection, used: Mapping[str, str]) -> None:
    """Write down when some keys were last used: {key id: time}."""
    tx.executemany(
        "UPDATE api_keys SET last_used_at = max(coalesce(last_used_at, ''), ?) WHERE id = ?",
        [(moment, key_id) for key_id, moment in used.items()],
    )


def find_revoked(conn: Connection, key_ids: Iterable[str]) -> list[str]:
    """Those of the keys that are not valid any more."""
    wanted = list(key_ids)
    rows = conn.execute(f"SELECT id FROM api_keys WHERE revoked_at IS NULL AND id {IN_LIST}", (pack_list(wanted),))
    valid = {row["id"] for row in rows}
    return [key_id for key_id in wanted if key_id not in valid]


def has_admin(conn: Connection) -> bool:
    """Whether an admin has a valid key."""
    found = conn.execute("SELECT 1 FROM api_keys WHERE role = 'admin' AND revoked_at IS NULL LIMIT 1")
    return found.fetchone() is not None


def has_keys(conn: Connection) -> bool:
    """Whether anybody has a valid key."""
    return conn.execute("SELECT 1 FROM api_keys WHERE revoked_at IS NULL LIMIT 1").fetchone() is not None


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _read_key(row: Row) -> ApiKey:
    names = ("id", "name", "user_id", "role", "prefix", "created_at", "last_used_at", "revoked_at")
    return ApiKey(**{name: row[name] for name in names}, gateway=bool(row["gateway"]))
