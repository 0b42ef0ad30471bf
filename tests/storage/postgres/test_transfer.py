"""A staff member carried from SQLite to PostgreSQL and back: the same rows."""

import contextlib
import json
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from staffstream.storage import archive, conversations, graph, memories, messages, staff
from staffstream.storage.database import Engine
from staffstream.storage.engines import choose_engine
from staffstream.storage.messages import ImportedMessage


def _export(engine: Engine, staff_id: str) -> list[str]:
    with contextlib.closing(engine.connect()) as connection, connection.snapshot():
        return list(archive.export_staff(connection, staff_id))


def _import(engine: Engine, lines: list[str]) -> None:
    engine.prepare()
    with contextlib.closing(engine.connect()) as connection, connection.transact():
        archive.import_staff(connection, lines, None)


def _compare(lines: list[str]) -> list[Any]:
    """The rows as they mean the same everywhere: a scope's id, and its memories' numbers, are each database's own."""
    rows = [json.loads(line) for line in lines[1:]]
    for row in rows:
        values = row.get("row", {})
        for own in ("scope_id", "number", "embedded", "last_memory", *(["id"] if row.get("table") == "scopes" else [])):
            values.pop(own, None)
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def test_a_staff_member_is_carried_to_postgresql_and_back(url: str, tmp_path: Path) -> None:
    first, second, third = (
        choose_engine(tmp_path / "a.db"), choose_engine(SecretStr(url)), choose_engine(tmp_path / "b.db")
    )  # fmt: skip
    first.prepare()
    with contextlib.closing(first.connect()) as connection, connection.transact():
        ada = staff.create_staff(connection, {"name": "Ada"}).id
        for user in ("kim", "bo"):
            scope = staff.ensure_scope(connection, ada, user)
            talk = conversations.create_conversation(connection, scope, title="Boats\0 and more")
            when = "2026-05-01T10:00:00.000Z"
            told = [ImportedMessage("user", "I have a boat.", when), ImportedMessage("assistant", "Nice.", when)]
            for message in messages.import_messages(connection, scope, talk, told):
                memories.add_episode(connection, scope, message, speaker=user, embed=None)
            fact = memories.add_memory(connection, scope, memories.NewMemory(text="Kim owns a boat"), None)
            graph.link_memory(connection, fact.id, [graph.ensure_entity(connection, scope, "the boat")])
    lines = _export(first, ada)
    _import(second, lines)
    there = _export(second, ada)
    assert _compare(there) == _compare(lines)
    _import(third, there)
    assert _compare(_export(third, ada)) == _compare(lines)
