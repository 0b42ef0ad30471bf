"""The database's own notes: rows in and out."""

from staffstream.domain import now_text
from staffstream.storage.database import Connection


def find_note(conn: Connection, key: str) -> str | None:
    """What is noted under a key."""
    row = conn.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return str(row["value"]) if row else None


def set_note(tx: Connection, key: str, value: str) -> None:
    """Note a value, in place of the one before it."""
    tx.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def drop_note(tx: Connection, key: str) -> None:
    """Note nothing under a key any more."""
    tx.execute("DELETE FROM meta WHERE key = ?", (key,))


def prove_writable(tx: Connection) -> None:
    """Write a note, so that the commit shows whether anything can be saved."""
    set_note(tx, "ready_at", now_text())
