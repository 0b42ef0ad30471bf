"""Everything that one user has on this server, over all staff members: listed for an export, and counted."""

import json
from collections.abc import Iterator

from staffstream.domain import now_text
from staffstream.storage.database import Connection
from staffstream.storage.schema import read_version

FORMAT = "staffstream-user-export"
VERSION = 1

_OF_USER = "scope_id IN (SELECT id FROM scopes WHERE user_id = ?)"
_OF_RUN = f"run_id IN (SELECT id FROM runs WHERE {_OF_USER})"
_OF_CONVERSATION = f"conversation_id IN (SELECT id FROM conversations WHERE {_OF_USER})"
_TABLES = {
    "api_keys": "user_id = ? ORDER BY id",
    "scopes": "user_id = ? ORDER BY id",
    "conversations": f"{_OF_USER} ORDER BY id",
    "messages": f"{_OF_USER} ORDER BY conversation_id, turn, id",
    "runs": f"{_OF_USER} ORDER BY id",
    "run_contexts": f"{_OF_RUN} ORDER BY run_id",
    "deliveries": f"{_OF_USER} ORDER BY id",
    "summaries": _OF_CONVERSATION,
    "memories": f"{_OF_USER} ORDER BY number",
    "entities": f"{_OF_USER} ORDER BY id",
    "entity_names": _OF_USER,
    "relations": f"{_OF_USER} ORDER BY id",
    "memory_entities": f"memory_id IN (SELECT id FROM memories WHERE {_OF_USER})",
    "spending_days": "user_id = ? ORDER BY day",
}
_HIDDEN = {"hash", "last_used_at", "owner", "fence", "lease_expires_at"}
"""A key's secret, and what changes though the user does nothing: the same data give the same export."""
_COUNTED = ("conversations", "messages", "runs", "memories", "entities", "relations", "summaries", "deliveries")


def export_user(conn: Connection, user_id: str) -> Iterator[str]:
    """The lines of the export, without their ends: a head, one row a line, and an end that counts the rows."""
    head = {"format": FORMAT, "version": VERSION, "schema": read_version(), "user_id": user_id}
    yield json.dumps(head, ensure_ascii=False)
    rows = 0
    names = "SELECT id, name FROM staff WHERE id IN (SELECT staff_id FROM scopes WHERE user_id = ?) ORDER BY id"
    selects = {"staff": names} | {table: f"SELECT * FROM {table} WHERE {where}" for table, where in _TABLES.items()}
    for table, select in selects.items():
        for row in conn.execute(select, (user_id,)):
            values = {name: row[name] for name in row.keys() if name not in _HIDDEN}  # noqa: SIM118
            yield json.dumps({"table": table, "row": values}, ensure_ascii=False)
            rows += 1
    yield json.dumps({"end": True, "rows": rows})


def count_rows(conn: Connection, user_id: str) -> dict[str, int]:
    """How many rows of each kind the user has."""
    selects = {
        table: f"SELECT count(*) AS count FROM {table} WHERE {_TABLES[table].split(' ORDER ')[0]}" for table in _COUNTED
    }
    return {table: int(conn.execute(select, (user_id,)).fetchone()["count"]) for table, select in selects.items()}


def drop_spending(tx: Connection, user_id: str) -> None:
    """Erase what the user spent on earlier days; today's sum is what the daily cap is measured against."""
    tx.execute("DELETE FROM spending_days WHERE user_id = ? AND day < ?", (user_id, now_text()[:10]))
