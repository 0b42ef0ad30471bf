"""The graph: one thing under all its names, relations with their time, found from a question's words."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from staffstream.domain import Scope
from staffstream.storage import graph, staff
from staffstream.storage.database import Connection
from tests.tools.databases import connect, prepare

DAY = "2026-01-0{}T00:00:00.000Z"


@pytest.fixture
def tx(db: Path) -> Iterator[Connection]:
    """A connection within a transaction on a new file."""
    prepare(db)
    with contextlib.closing(connect(db)) as connection:
        connection.execute("BEGIN")
        yield connection
        connection.execute("ROLLBACK")


@pytest.fixture
def scope(tx: Connection) -> Scope:
    member = staff.create_staff(tx, {"name": "Ada"})
    return staff.ensure_scope(tx, member.id, "kim")


def relate(tx: Connection, scope: Scope, subject: str, predicate: str, object: str, day: int = 1) -> None:
    graph.add_relation(
        tx, scope, graph.ensure_entity(tx, scope, subject), predicate, graph.ensure_entity(tx, scope, object),
        valid_from=DAY.format(day), memory_id=None, source_message_id=None,
    )  # fmt: skip


def lines(tx: Connection, scope: Scope, name: str, depth: int = 1, *, ended: bool = False) -> list[str]:
    start = graph.find_entities_named(tx, scope, name)
    return [r.line for r in graph.find_neighbourhood(tx, scope, start, depth=depth, limit=50, ended=ended)]


@pytest.mark.parametrize("name", ["anna", "ANNA", " Anna ", "Anna's", "Ａｎｎａ", "“Anna”"])
def test_a_name_is_found_however_it_is_written(tx: Connection, scope: Scope, name: str) -> None:
    """Case, width, quotes and a possessive ending do not make another thing."""
    anna = graph.ensure_entity(tx, scope, "Anna")
    assert graph.ensure_entity(tx, scope, name) == anna


def test_entities_are_found_in_a_question(tx: Connection, scope: Scope) -> None:
    """Names of several words as well, anywhere in the text; parts of words are no names."""
    anna, york = graph.ensure_entity(tx, scope, "Anna"), graph.ensure_entity(tx, scope, "New York")
    found = graph.find_entities(tx, scope, "Does Anna’s brother like New York, or Annapolis?")
    assert set(found) == {anna, york}
    assert graph.find_entities(tx, scope, "new yorkers and annas") == []
    assert graph.find_entities(tx, scope, "") == []


def test_a_name_is_found_anywhere_in_a_long_question(tx: Connection, scope: Scope) -> None:
    """At its beginning, in its middle and at its end, and the longest name comes first."""
    names = ["Anna", "New York Public Library", "Bergen"]
    anna, library, bergen = (graph.ensure_entity(tx, scope, name) for name in names)
    filler = " ".join(f"word{n}" for n in range(1500))
    found = graph.find_entities(tx, scope, f"Anna {filler} New York Public Library {filler} Bergen")
    assert found == [library, bergen, anna]


def test_a_name_is_found_where_no_blanks_are_written(tx: Connection, scope: Scope) -> None:
    """Japanese, Chinese and Thai names in the middle of a sentence."""
    names = ["田中", "北京", "สมชาย"]
    tanaka, beijing, somchai = (graph.ensure_entity(tx, scope, name) for name in names)
    assert graph.find_entities(tx, scope, "田中さんはどこに住んでいますか。") == [tanaka]
    assert graph.find_entities(tx, scope, "我下周去北京出差") == [beijing]
    assert graph.find_entities(tx, scope, "สมชายอยู่ที่ไหน") == [somchai]


def test_two_names_of_one_thing_are_merged(tx: Connection, scope: Scope) -> None:
    """When something goes by a name of each, all that was said of either is said of one."""
    relate(tx, scope, "Bob", "works_at", "Acme")
    relate(tx, scope, "Robert Smith", "lives_in", "Leeds")
    merged = graph.ensure_entity(tx, scope, "Bob", aliases=["Robert Smith", "Bobby"])
    assert sorted(lines(tx, scope, "bobby")) == ["Bob — lives in → Leeds", "Bob — works at → Acme"]
    assert graph.find_entities_named(tx, scope, "robert smith") == [merged]


def test_a_merge_leaves_each_relation_once_and_none_to_itself(tx: Connection, scope: Scope) -> None:
    """That Bob is called Robert says nothing once they are one; where both live is said once, and where he lived."""
    relate(tx, scope, "Bob", "lives_in", "Leeds")
    relate(tx, scope, "Robert", "lives_in", "Leeds", day=2)
    relate(tx, scope, "Bob", "also_called", "Robert", day=3)
    relate(tx, scope, "Leeds", "home_of", "Robert", day=4)
    graph.ensure_entity(tx, scope, "Robert", aliases=["Bob"])
    assert lines(tx, scope, "Robert", ended=True) == ["Leeds — home of → Bob", "Bob — lives in → Leeds"]


def test_the_user_stays_the_user_in_a_merge(tx: Connection, scope: Scope) -> None:
    """However old the other entity is: everything that looks for the user looks for that name."""
    relate(tx, scope, "Kim", "lives_in", "Leeds")
    graph.ensure_entity(tx, scope, "user")
    assert graph.ensure_entity(tx, scope, "user", aliases=["Kim"]).name == "user"
    assert lines(tx, scope, "kim") == ["user — lives in → Leeds"]


@pytest.mark.sqlite
def test_the_neighbourhood_steps_along_indexes(tx: Connection, scope: Scope) -> None:
    """Walking from an entity reads its own relations, not the scope's."""
    values = {"scope": scope.id, "start": "[]", "depth": 2, "limit": 9, "ended": 0}
    plan = [row["detail"] for row in tx.execute(f"EXPLAIN QUERY PLAN {graph.NEIGHBOURHOOD}", values)]
    steps = [detail for detail in plan if re.search(r"\b(?:r|relations|entities|s|o)\b USING", detail)]
    assert len(steps) == 8, plan
    assert all(re.search(r"\((?:id|scope_id=\? AND (?:subject|object)_id)=\?\)", step) for step in steps), plan


def test_a_repeated_relation_is_one(tx: Connection, scope: Scope) -> None:
    """Saying it again adds nothing."""
    relate(tx, scope, "Anna", "lives_in", "Bergen")
    relate(tx, scope, "anna", "lives_in", "BERGEN", day=2)
    assert lines(tx, scope, "Anna") == ["Anna — lives in → Bergen"]


def test_the_neighbourhood_grows_by_steps(tx: Connection, scope: Scope) -> None:
    """Depth 1 is what touches the entity, depth 2 what touches that, cycles included."""
    relate(tx, scope, "Anna", "sister_of", "Kari")
    relate(tx, scope, "Kari", "works_at", "Acme", day=2)
    relate(tx, scope, "Acme", "based_in", "Oslo", day=3)
    relate(tx, scope, "Oslo", "home_of", "Anna", day=4)
    assert lines(tx, scope, "Kari") == ["Kari — works at → Acme", "Anna — sister of → Kari"]
    assert len(lines(tx, scope, "Kari", depth=2)) == 4
    relate(tx, scope, "Anna", "works_at", "Acme", day=5)
    assert len(lines(tx, scope, "Kari")) == 2  # what joins two neighbours is a step away


def test_what_was_true_once_is_kept_apart(tx: Connection, scope: Scope) -> None:
    """A relation that ended is out of the neighbourhood, and still there for those who ask."""
    relate(tx, scope, "Anna", "lives_in", "Oslo")
    tx.execute("UPDATE relations SET valid_to = ?", (DAY.format(2),))
    relate(tx, scope, "Anna", "lives_in", "Bergen", day=2)
    assert lines(tx, scope, "Anna") == ["Anna — lives in → Bergen"]
    assert len(lines(tx, scope, "Anna", ended=True)) == 2


def test_a_scope_sees_only_its_own(tx: Connection, scope: Scope) -> None:
    """Another user's Anna is another Anna."""
    relate(tx, scope, "Anna", "lives_in", "Bergen")
    other = staff.ensure_scope(tx, scope.staff_id, "bob")
    assert graph.find_entities(tx, other, "Anna") == []
    assert lines(tx, other, "Anna") == []
    relate(tx, other, "Anna", "lives_in", "Rome")
    assert lines(tx, scope, "Anna") == ["Anna — lives in → Bergen"]


@pytest.mark.sqlite
def test_names_are_looked_up_by_index(tx: Connection, scope: Scope) -> None:
    """Finding a question's entities scans nothing."""
    plan = tx.execute(
        "EXPLAIN QUERY PLAN SELECT DISTINCT entities.* FROM entity_names JOIN entities ON entities.id ="
        " entity_names.entity_id WHERE entity_names.scope_id = 1 AND entity_names.name IN ('a', 'b')"
    ).fetchall()
    assert not [row["detail"] for row in plan if row["detail"].startswith("SCAN")]


@pytest.mark.parametrize("name", ["", " ", "!!!", "’s"])
def test_a_name_needs_a_word(tx: Connection, scope: Scope, name: str) -> None:
    """What has no letter and no digit names nothing."""
    with pytest.raises(ValueError, match="letter"):
        graph.ensure_entity(tx, scope, name)
