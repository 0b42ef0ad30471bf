"""The knowledge graph of one scope: entities under all their names, and dated relations between them. Rows in and
out.

An entity is found by any of its names, folded, through an index; two entities turn out to be one as soon as something
goes by a name of each. A relation is never overwritten: what is no longer true gets a `valid_to`.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from staffstream.domain import Scope, make_id, now_text
from staffstream.storage.database import IN_LIST, Connection, Row, pack_list

USER_NAME = "user"
LONGEST_NAME_WORDS = 5
_LONGEST_UNSPACED = 8  # characters of a name in a script that puts no blanks between words
_WORD = re.compile(r"\w+(?:[-.&/+]\w+)*[+#]*")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]{2,}"
)
"""Thai, Lao, Burmese, Khmer, Japanese kana and Chinese characters."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A person, place or thing that was mentioned."""

    id: str
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Relation:
    """One dated statement between two entities; `distance` is how many steps from where a search began."""

    id: str
    subject: Entity
    predicate: str
    object: Entity
    valid_from: str
    valid_to: str | None
    memory_id: str | None
    source_message_id: str | None
    distance: int = 1

    @property
    def line(self) -> str:
        """As a prompt and a page show it, e.g. `Anna — lives in → Bergen`."""
        return f"{self.subject.name} — {self.predicate.replace('_', ' ')} → {self.object.name}"


def fold_name(name: str) -> str:
    """A name as it is looked up: compatibility forms, case and outer punctuation do not count, nor a possessive
    ending.
    """
    words = _WORD.findall(unicodedata.normalize("NFKC", name).casefold())
    return " ".join(word for word in words if word != "s")


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def ensure_entity(tx: Connection, scope: Scope, name: str, *, type: str = "", aliases: Iterable[str] = ()) -> Entity:
    """The entity of this name, made if there is none, and from now on found by each alias too.

    Entities that already have one of these names are merged into the oldest, or the user. Raises ValueError for a name
    without a word in it.
    """
    folded = [fold for each in (name, *aliases) if (fold := fold_name(each))]
    if not fold_name(name):
        raise ValueError("an entity's name needs a letter or a digit")
    known = sorted(_find_by_names(tx, scope, folded), key=lambda entity: entity.name != USER_NAME)
    entity = known[0] if known else _insert_entity(tx, scope, name, type)
    for other in known[1:]:
        merge_entities(tx, scope, entity, other)
    tx.executemany(
        "INSERT INTO entity_names (scope_id, name, entity_id) VALUES (?, ?, ?)"
        " ON CONFLICT (scope_id, name) DO UPDATE SET entity_id = excluded.entity_id",
        [(scope.id, fold, entity.id) for fold in folded],
    )
    if type and not entity.type:
        tx.execute("UPDATE entities SET type = ? WHERE id = ?", (type, entity.id))
    return entity


def add_relation(
    tx: Connection,
    scope: Scope,
    subject: Entity,
    predicate: str,
    object: Entity,
    *,
    valid_from: str,
    memory_id: str | None,
    source_message_id: str | None,
) -> None:
    """State a relation; one that is stated already, and still valid, is left as it is."""
    tx.execute(
        "INSERT INTO relations (id, scope_id, subject_id, predicate, object_id, memory_id, source_message_id,"
        " valid_from, created_at) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 WHERE NOT EXISTS (SELECT 1 FROM relations"
        " WHERE scope_id = ?2 AND subject_id = ?3 AND predicate = ?4 AND object_id = ?5 AND valid_to IS NULL)",
        (make_id(), scope.id, subject.id, predicate, object.id, memory_id, source_message_id, valid_from, now_text()),
    )


def restate_memory(
    tx: Connection,
    scope: Scope,
    *,
    memory_id: str,
    subject: str,
    predicate: str,
    object: str,
    valid_from: str,
    source_message_id: str | None,
) -> None:
    """Put back into the graph what a restored memory states."""
    ends = [ensure_entity(tx, scope, name) for name in (subject, object)]
    link_memory(tx, memory_id, ends)
    tx.execute("UPDATE relations SET valid_to = NULL WHERE memory_id = ? AND scope_id = ?", (memory_id, scope.id))
    add_relation(
        tx, scope, ends[0], predicate, ends[1],
        valid_from=valid_from, memory_id=memory_id, source_message_id=source_message_id,
    )  # fmt: skip


def end_relations(tx: Connection, scope: Scope, memory_id: str, valid_to: str) -> None:
    """What this memory stated is true no longer."""
    tx.execute(
        "UPDATE relations SET valid_to = ? WHERE memory_id = ? AND scope_id = ? AND valid_to IS NULL",
        (valid_to, memory_id, scope.id),
    )


def reopen_relations(tx: Connection, scope: Scope, memory_ids: Sequence[str]) -> None:
    """What these memories stated is true again."""
    tx.execute(
        f"UPDATE relations SET valid_to = NULL WHERE memory_id {IN_LIST} AND scope_id = ?",
        (pack_list(memory_ids), scope.id),
    )


def forget_memory(tx: Connection, scope: Scope, memory_id: str) -> None:
    """Take what this memory stated out of the graph, and the entities that nothing else mentions."""
    tx.execute("DELETE FROM relations WHERE memory_id = ? AND scope_id = ?", (memory_id, scope.id))
    tx.execute("DELETE FROM memory_entities WHERE memory_id = ?", (memory_id,))
    drop_orphans(tx, scope)


def link_memory(tx: Connection, memory_id: str, entities: Iterable[Entity]) -> None:
    """Note which entities a memory speaks of."""
    tx.executemany(
        "INSERT INTO memory_entities (memory_id, entity_id) VALUES (?, ?) ON CONFLICT DO NOTHING",
        [(memory_id, entity.id) for entity in entities],
    )


def drop_orphans(tx: Connection, scope: Scope) -> None:
    """Erase entities that no relation and no memory mentions any more."""
    tx.execute(
        "DELETE FROM entities WHERE scope_id = ?"
        " AND NOT EXISTS (SELECT 1 FROM memory_entities WHERE entity_id = entities.id)"
        " AND NOT EXISTS (SELECT 1 FROM relations WHERE subject_id = entities.id)"
        " AND NOT EXISTS (SELECT 1 FROM relations WHERE object_id = entities.id)",
        (scope.id,),
    )


def drop_name(tx: Connection, scope: Scope, name: str) -> None:
    """No text has this folded name any more: its entity gets another one of its names, or is erased."""
    entity = next(iter(_find_by_names(tx, scope, [name])), None)
    tx.execute("DELETE FROM entity_names WHERE scope_id = ? AND name = ?", (scope.id, name))
    if entity is None or fold_name(entity.name) != name:
        return
    if others := list_names(tx, scope, [entity.id])[entity.id]:
        tx.execute("UPDATE entities SET name = ? WHERE id = ? AND scope_id = ?", (others[0], entity.id, scope.id))
    else:
        tx.execute("DELETE FROM entities WHERE id = ? AND scope_id = ?", (entity.id, scope.id))


def merge_entities(tx: Connection, scope: Scope, kept: Entity, other: Entity) -> None:
    """Two names turned out to be one thing: all relations of the other move to the one that is kept, each once.

    What then connects the thing with itself (that Robert is called Bob) says nothing.
    """
    tx.execute(
        "UPDATE entity_names SET entity_id = ? WHERE entity_id = ? AND scope_id = ?", (kept.id, other.id, scope.id)
    )
    tx.execute(
        "UPDATE relations SET subject_id = ? WHERE subject_id = ? AND scope_id = ?", (kept.id, other.id, scope.id)
    )
    tx.execute("UPDATE relations SET object_id = ? WHERE object_id = ? AND scope_id = ?", (kept.id, other.id, scope.id))
    tx.execute(
        "DELETE FROM relations WHERE scope_id = ?1 AND (subject_id = ?2 OR object_id = ?2) AND (subject_id = object_id"
        " OR EXISTS (SELECT 1 FROM relations AS twin WHERE twin.scope_id = ?1 AND twin.id < relations.id"
        " AND twin.subject_id = relations.subject_id AND twin.predicate = relations.predicate"
        " AND twin.object_id = relations.object_id AND twin.valid_to IS NULL AND relations.valid_to IS NULL))",
        (scope.id, kept.id),
    )
    tx.execute(  # what is known under either name can be repeated, or made untrue, under the other
        "UPDATE memories SET subject = ? WHERE scope_id = ? AND kind = 'fact' AND subject = ?",
        (kept.name, scope.id, other.name),
    )
    tx.execute(  # the other's own rows go with it
        "INSERT INTO memory_entities (memory_id, entity_id) SELECT memory_id, ? FROM memory_entities"
        " WHERE entity_id = ? ON CONFLICT DO NOTHING",
        (kept.id, other.id),
    )
    tx.execute("DELETE FROM entities WHERE id = ? AND scope_id = ?", (other.id, scope.id))


def _insert_entity(tx: Connection, scope: Scope, name: str, type: str) -> Entity:
    row = tx.execute(
        "INSERT INTO entities (id, scope_id, name, type, created_at) VALUES (?, ?, ?, ?, ?) RETURNING *",
        (make_id(), scope.id, name.strip(), type, now_text()),
    ).fetchone()
    return _read_entity(row)


# ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def find_entities(conn: Connection, scope: Scope, text: str) -> list[Entity]:
    """The entities that a text names, longest name first: every sequence of its words is looked up in the index of
    names, and in scripts without blanks every sequence of characters.
    """
    folded = fold_name(text)
    words = folded.split()
    sequences = {
        " ".join(words[start : start + length])
        for length in range(1, LONGEST_NAME_WORDS + 1)
        for start in range(len(words) - length + 1)
    }
    for part in _UNSPACED.findall(folded):
        sequences.update(
            part[start:end]
            for start in range(len(part))
            for end in range(start + 1, min(start + _LONGEST_UNSPACED, len(part)) + 1)
        )
    rows = conn.execute(
        "SELECT entities.*, entity_names.name AS found FROM json_each(?) AS sequence"
        " CROSS JOIN entity_names ON entity_names.scope_id = ? AND entity_names.name = sequence.value"
        " JOIN entities ON entities.id = entity_names.entity_id",
        (pack_list(sequences), scope.id),
    ).fetchall()
    rows.sort(key=lambda row: (-len(row["found"]), row["id"]))
    return list({row["id"]: _read_entity(row) for row in rows}.values())


def find_entities_of_memories(conn: Connection, scope: Scope, memory_ids: Sequence[str]) -> list[Entity]:
    """The entities that some memories speak of."""
    rows = conn.execute(
        "SELECT DISTINCT entities.* FROM memory_entities JOIN entities ON entities.id = entity_id"
        f" WHERE memory_id {IN_LIST} AND +scope_id = ? ORDER BY entities.id",
        (pack_list(memory_ids), scope.id),
    )
    return [_read_entity(row) for row in rows]


# CROSS JOIN keeps the order of the steps: the planner, which knows nothing of what a list holds, would rather read all
# relations of the scope for each. PostgreSQL wants the collation of the ids in both arms of a recursion.
NEIGHBOURHOOD = """
WITH RECURSIVE near (entity_id, distance) AS (
    SELECT value COLLATE BINARY, 0 FROM json_each(:start)
    UNION
    SELECT CASE WHEN r.subject_id = near.entity_id THEN r.object_id ELSE r.subject_id END, near.distance + 1 FROM near
    CROSS JOIN relations AS r ON r.id IN (
        SELECT id FROM relations WHERE scope_id = :scope AND subject_id = near.entity_id
        UNION ALL
        SELECT id FROM relations WHERE scope_id = :scope AND object_id = near.entity_id
    )
    WHERE near.distance + 1 < :depth AND (:ended = 1 OR r.valid_to IS NULL)
), touching (id, distance) AS (
    SELECT r.id, near.distance + 1 FROM near
    CROSS JOIN relations AS r ON r.scope_id = :scope AND r.subject_id = near.entity_id
    UNION ALL
    SELECT r.id, near.distance + 1 FROM near
    CROSS JOIN relations AS r ON r.scope_id = :scope AND r.object_id = near.entity_id
), found AS (SELECT id, min(distance) AS distance FROM touching GROUP BY id)
SELECT relations.*, s.name AS subject_name, s.type AS subject_type, o.name AS object_name, o.type AS object_type,
       found.distance
FROM found CROSS JOIN relations ON relations.id = found.id
JOIN entities AS s ON s.id = relations.subject_id JOIN entities AS o ON o.id = relations.object_id
WHERE :ended = 1 OR relations.valid_to IS NULL
ORDER BY found.distance, relations.valid_from DESC, relations.id LIMIT :limit
"""


def find_neighbourhood(
    conn: Connection, scope: Scope, entities: Sequence[Entity], *, depth: int, limit: int, ended: bool = False
) -> list[Relation]:
    """The relations within `depth` steps of some entities, nearest and newest first; with `ended`, also what was true
    once.
    """
    rows = conn.execute(
        NEIGHBOURHOOD,
        {
            "scope": scope.id,
            "start": pack_list(entity.id for entity in entities),
            "depth": depth,
            "limit": limit,
            "ended": int(ended),
        },
    )
    return [_read_relation(row) for row in rows]


def find_entities_named(conn: Connection, scope: Scope, name: str) -> list[Entity]:
    """The entity of an id or of exactly this name, as a list of one or none."""
    row = conn.execute("SELECT * FROM entities WHERE id = ? AND scope_id = ?", (name, scope.id)).fetchone()
    return [_read_entity(row)] if row else _find_by_names(conn, scope, [fold_name(name)])


def list_entities(conn: Connection, scope: Scope, *, limit: int) -> list[Entity]:
    """The scope's entities, newest first."""
    rows = conn.execute("SELECT * FROM entities WHERE scope_id = ? ORDER BY id DESC LIMIT +?", (scope.id, limit))
    return [_read_entity(row) for row in rows]


def list_names(conn: Connection, scope: Scope, entity_ids: Sequence[str]) -> dict[str, list[str]]:
    """All folded names of some entities, by entity."""
    names: dict[str, list[str]] = {entity_id: [] for entity_id in entity_ids}
    rows = conn.execute(
        f"SELECT entity_id, name FROM entity_names WHERE scope_id = ? AND entity_id {IN_LIST} ORDER BY name",
        (scope.id, pack_list(entity_ids)),
    )
    for row in rows:
        names[row["entity_id"]].append(row["name"])
    return names


def list_all_names(conn: Connection, scope: Scope) -> list[str]:
    """Every folded name in the scope but the user's."""
    rows = conn.execute("SELECT name FROM entity_names WHERE scope_id = ? AND name <> ?", (scope.id, USER_NAME))
    return [row["name"] for row in rows]


def load_lines(conn: Connection, scope: Scope, ids: Sequence[str]) -> dict[str, str]:
    """Some relations as lines, by id; erased ones are not among them."""
    rows = conn.execute(
        "SELECT relations.*, s.name AS subject_name, s.type AS subject_type, o.name AS object_name,"
        " o.type AS object_type, 1 AS distance FROM relations JOIN entities AS s ON s.id = subject_id"
        " JOIN entities AS o ON o.id = object_id"
        f" WHERE relations.id {IN_LIST} AND +relations.scope_id = ?",
        (pack_list(ids), scope.id),
    )
    return {row["id"]: _read_relation(row).line for row in rows}


def _find_by_names(conn: Connection, scope: Scope, names: Sequence[str]) -> list[Entity]:
    rows = conn.execute(
        "SELECT DISTINCT entities.* FROM entity_names JOIN entities ON entities.id = entity_names.entity_id"
        f" WHERE entity_names.scope_id = ? AND entity_names.name {IN_LIST} ORDER BY entities.id",
        (scope.id, pack_list(names)),
    )
    return [_read_entity(row) for row in rows]


def _read_entity(row: Row) -> Entity:
    return Entity(row["id"], row["name"], row["type"])


def _read_relation(row: Row) -> Relation:
    return Relation(
        id=row["id"],
        subject=Entity(row["subject_id"], row["subject_name"], row["subject_type"]),
        predicate=row["predicate"],
        object=Entity(row["object_id"], row["object_name"], row["object_type"]),
        valid_from=row["valid_from"],
        valid_to=row["valid_to"],
        memory_id=row["memory_id"],
        source_message_id=row["source_message_id"],
        distance=row["distance"],
    )
