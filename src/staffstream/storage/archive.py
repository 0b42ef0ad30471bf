"""A staff member with everything it holds as JSON Lines, and back.

The first line says what the file is, the last one how many rows it has, so that a cut file is noticed; between them
stands one row a line. Reading refuses whatever it does not know, and every reference must lead to a row of the same
file: a file from elsewhere must not attach anything to somebody's conversation. Secrets are not written; words and
vectors are not either, since they are made from the rows.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from staffstream.domain import RunFailure, Scope, Staff, format_time, now_text, parse_time
from staffstream.errors import SetupError
from staffstream.storage import conversations, fingerprints, messages, staff
from staffstream.storage.database import Connection
from staffstream.storage.memory_search import index_memory
from staffstream.storage.schema import read_version
from staffstream.storage.vectors import EmbedNow

FORMAT = "staffstream-export"
VERSION = 1
Row = dict[str, Any]

_OF_SCOPE = "scope_id IN (SELECT id FROM scopes WHERE staff_id = ? AND user_id >= ' ')"
_OF_CONVERSATION = f"conversation_id IN (SELECT id FROM conversations WHERE {_OF_SCOPE})"
_TABLES = {  # in an order in which each row's references come before it
    "staff": "id = ?",
    "scopes": "staff_id = ? AND user_id >= ' '",  # others are hidden: see hidden_scopes.py
    "conversations": f"{_OF_SCOPE} ORDER BY id",
    "messages": f"{_OF_SCOPE} ORDER BY conversation_id, turn, id",
    "runs": f"{_OF_SCOPE} AND finished_at IS NOT NULL ORDER BY id",
    "run_contexts": f"run_id IN (SELECT id FROM runs WHERE {_OF_SCOPE} AND finished_at IS NOT NULL)",
    "summaries": _OF_CONVERSATION,
    "extractions": _OF_CONVERSATION,
    "memories": f"{_OF_SCOPE} ORDER BY number",
    "entities": f"{_OF_SCOPE} ORDER BY id",
    "entity_names": _OF_SCOPE,
    "relations": f"{_OF_SCOPE} ORDER BY id",
    "memory_entities": f"memory_id IN (SELECT id FROM memories WHERE {_OF_SCOPE})",
}
_SECRETS = {"staff": {"webhook_secrets", "erased_at"}}
_REFERENCES = {
    "staff_id": "staff",
    "scope_id": "scopes",
    "conversation_id": "conversations",
    "user_message_id": "messages",
    "reply_to": "messages",
    "source_message_id": "messages",
    "run_id": "runs",
    "memory_id": "memories",
    "superseded_by": "memories",
    "entity_id": "entities",
    "subject_id": "entities",
    "object_id": "entities",
}
_LATER = {"superseded_by"}  # may name a row that comes after it
_NUMBER_BITS = (1 << 32) - 1
_MOST = (1 << 31) - 1  # of any number: a memory's above it would soon lead to the numbers of another scope
_OBJECTS = {"usage", "error", "record"}
_ENDED = ("done", "failed", "cancelled")  # any other run would be taken up and made


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def export_staff(conn: Connection, staff_id: str) -> Iterator[str]:
    """The lines of the file, without their ends, from one snapshot. Raises NotFound."""
    member = staff.get_staff(conn, staff_id)
    head = {"format": FORMAT, "version": VERSION, "schema": read_version(), "exported_at": now_text()}
    yield json.dumps(head | {"staff": member.name}, ensure_ascii=False)
    rows = 0
    for table, condition in _TABLES.items():
        for row in conn.execute(f"SELECT * FROM {table} WHERE {condition}", (staff_id,)):
            values = {name: row[name] for name in row.keys() if name not in _SECRETS.get(table, ())}  # noqa: SIM118
            yield json.dumps({"table": table, "row": values}, ensure_ascii=False)
            rows += 1
    yield json.dumps({"end": True, "rows": rows})


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def import_staff(tx: Connection, lines: Iterable[str], embed: EmbedNow | None) -> tuple[Staff, str | None]:
    """Save the staff member of a file, and give it and the webhook URL that the file has. The URL is not taken over:
    whoever wrote the file would be sent every reply. Raises SetupError for whatever is not right in the file, and for a
    staff member who is here already; the caller's transaction must then be rolled back.
    """
    reader = _Reader(tx)
    try:
        for table, row in _read_rows(lines):
            reader.take(table, row)
    except tx.misfit_errors as error:
        raise SetupError(f"The file has a row that does not fit: {type(error).__name__}.") from error
    reader.check_later()
    _add_fingerprints(tx, reader.scopes.values())
    _index_memories(tx, reader.scopes.values(), embed)
    if len(reader.known["staff"]) != 1:
        raise SetupError("The file must hold exactly one staff member.")
    member = staff.get_staff(tx, str(next(iter(reader.known["staff"]))))
    if member.webhook_url is None:
        return member, None
    return staff.update_staff(tx, member.id, {"webhook_url": None}), member.webhook_url


@dataclass(slots=True)
class _Reader:
    """Takes row after row, and remembers what may be referred to."""

    tx: Connection
    known: dict[str, set[Any]] = field(default_factory=lambda: {table: set() for table in _TABLES})
    scopes: dict[int, Scope] = field(default_factory=dict)
    _columns: dict[str, dict[str, bool]] = field(default_factory=dict)
    _later: list[Any] = field(default_factory=list)

    def take(self, table: str, row: Row) -> None:
        """Check a row and save it."""
        self._check_columns(table, row)
        for name, value in row.items():
            if value is not None and not _is_sound(name, value):
                raise SetupError(f"The file has a value that cannot be: {table}.{name}.")
        self._check_references(table, row)
        if table == "runs" and row["state"] not in _ENDED:
            raise SetupError("The file has a run that has not ended.")
        if table == "scopes":
            self._take_scope(row)
            return
        key = row.get("id", row.get("run_id"))
        if table == "staff":
            if self.tx.execute("SELECT 1 FROM staff WHERE id = ?", (key,)).fetchone():
                raise SetupError(f"The staff member {row.get('name')!r} is here already. Erase it first.")
            row = row | {"webhook_secrets": json.dumps([staff.make_webhook_secret()])}
        if "scope_id" in row:
            row = row | {"scope_id": self.scopes[row["scope_id"]].id}
        if table == "memories":
            row = row | {"number": row["scope_id"] << 32 | row["number"] & _NUMBER_BITS, "embedded": 0}
        self._insert(table, row)
        self.known[table].add(key)

    def check_later(self) -> None:
        """What was referred to before it came must have come by now."""
        if missing := [reference for reference in self._later if reference not in self.known["memories"]]:
            raise SetupError(f"The file refers to a memory that it does not hold: {missing[0]}.")

    def _take_scope(self, row: Row) -> None:
        scope = staff.ensure_scope(self.tx, row["staff_id"], row["user_id"])
        self.tx.execute("UPDATE scopes SET last_memory = ? WHERE id = ?", (row.get("last_memory", 0), scope.id))
        self.scopes[row["id"]] = scope
        self.known["scopes"].add(row["id"])

    def _insert(self, table: str, row: Row) -> None:
        places = ", ".join("?" * len(row))
        self.tx.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", list(row.values()))

    def _check_columns(self, table: str, row: Row) -> None:
        """Every column must be one of the table's, and every one that has no default must be there."""
        if table not in self._columns:
            self._columns[table] = self.tx.list_columns(table)
        columns, hidden = self._columns[table], _SECRETS.get(table, set())
        if strange := set(row) - (set(columns) - hidden):
            raise SetupError(f"The file has a column of {table} that is not known here: {sorted(strange)[0]!r}.")
        if missing := {name for name, needed in columns.items() if needed} - hidden - _list_given(row):
            raise SetupError(f"The file lacks a column of {table}: {sorted(missing)[0]!r}.")

    def _check_references(self, table: str, row: Row) -> None:
        for name, referred in _REFERENCES.items():
            value = row.get(name)
            if value is None:
                continue
            if name in _LATER:
                self._later.append(value)
            elif value not in self.known[referred]:
                raise SetupError(f"The file refers to a row of {referred} that it does not hold: {table}.{name}.")


def _list_given(row: Row) -> set[str]:
    return {name for name, value in row.items() if value is not None}


def _is_sound(name: str, value: Any) -> bool:
    """Whether what the columns' types leave open can be read again: times, objects, numbers."""
    if name.endswith("_at") or name in ("valid_from", "valid_to"):
        return isinstance(value, str) and _is_time(value)
    if name in _OBJECTS:
        return isinstance(value, str) and _is_object(name, value)
    if isinstance(value, int):
        return -1 <= (value & _NUMBER_BITS if name == "number" else value) <= _MOST
    return True


def _is_time(text: str) -> bool:
    try:
        return format_time(parse_time(text)) == text
    except (ValueError, OverflowError):
        return False


def _is_object(name: str, text: str) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if name == "error":
        return isinstance(value, dict) and value.keys() == {part.name for part in fields(RunFailure)}
    return isinstance(value, dict)


def _read_rows(lines: Iterable[str]) -> Iterator[tuple[str, Row]]:
    """The rows between a head that is known and an end that is right."""
    parsed = (_parse_line(number, line) for number, line in enumerate(lines, 1))
    head = next(parsed, {})
    if head.get("format") != FORMAT:
        raise SetupError("The file is no export of staffstream.")
    version, schema = head.get("version"), head.get("schema")
    if not isinstance(version, int) or not isinstance(schema, int) or version < 1:
        raise SetupError("The file does not say which version of an export it is.")
    if version > VERSION or schema > read_version():
        raise SetupError(
            f"The file was exported by a newer staffstream (format {version}, schema {schema}; this one reads format"
            f" {VERSION}, schema {read_version()}). Upgrade this staffstream."
        )
    for rows, entry in enumerate(parsed):
        if entry.get("end"):
            if entry.get("rows") != rows or next(parsed, None) is not None:
                break
            return
        table, row = entry.get("table"), entry.get("row")
        if table not in _TABLES or not isinstance(row, dict):
            raise SetupError(f"The file has rows of a table that is not known here: {str(table)[:50]!r}.")
        yield str(table), row
    raise SetupError("The file is not whole: its end is missing or does not fit.")


def _parse_line(number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise SetupError(f"Line {number} of the file is no JSON object.")
    return value


def _add_fingerprints(tx: Connection, scopes: Iterable[Scope]) -> None:
    """Let clients that repeat a conversation find it again."""
    for scope in scopes:
        for conversation in conversations.list_conversations(tx, scope, limit=_MOST, before=None):
            newest_first = messages.list_messages(tx, scope, conversation.id, limit=_MOST)
            fingerprints.add_past(tx, scope, reversed(newest_first))


def _index_memories(tx: Connection, scopes: Iterable[Scope], embed: EmbedNow | None) -> None:
    """Make the living memories findable; without `embed` their vectors are left to the embed job."""
    for scope in scopes:
        tx.execute(
            "UPDATE scopes SET last_memory = max(last_memory, (SELECT coalesce(max(number & ?), 0) FROM memories"
            " WHERE scope_id = scopes.id)) WHERE id = ?",
            (_NUMBER_BITS, scope.id),
        )
        rows = tx.execute(
            "SELECT number, kind, text, occurred_at, conversation_id FROM memories"
            " WHERE scope_id = ? AND deleted_at IS NULL ORDER BY number",
            (scope.id,),
        ).fetchall()
        for row in rows:
            embedded = index_memory(
                tx,
                scope,
                row["number"],
                text=row["text"],
                occurred_at=row["occurred_at"],
                conversation_id=row["conversation_id"] if row["kind"] == "episode" else None,
                embed=embed,
            )
            tx.execute("UPDATE memories SET embedded = ? WHERE number = ?", (int(embedded), row["number"]))
