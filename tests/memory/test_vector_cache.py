"""The index of a scope in memory: however it came about, it holds what a fresh one would."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from staffstream.domain import Scope
from staffstream.memory.vector_cache import NO_VECTOR, ScopeIndex
from staffstream.models.embeddings import load_static_embedder
from staffstream.storage import conversations, memories, staff
from staffstream.storage.database import Connection
from staffstream.storage.memories import NewMemory
from staffstream.storage.sqlite import search
from staffstream.storage.sqlite.connections import connect
from staffstream.storage.vectors import find_local, load_unembedded, prepare_index, save_vectors
from tests.tools.databases import prepare

TABLE = load_static_embedder()
EMBED = find_local(TABLE)
TEXTS = ("The boat lies in Hamar.", "", "Tom has a dog.", "\x00", "We sail on Sunday, if it does not rain too much.")

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 4), st.integers(0, 2), st.booleans()),
        st.tuples(st.sampled_from(["delete", "restore"]), st.integers(0, 9)),
        st.just(("embed",)),
        st.just(("read",)),
    ),
    max_size=25,
)


@pytest.fixture
def tx(db: Path) -> Iterator[Connection]:
    """A connection to a new file, ready for the built-in embedder."""
    prepare(db)
    with contextlib.closing(connect(db, durability="off")) as connection:
        prepare_index(connection, TABLE.name, TABLE.dimensions)
        yield connection


def do_step(tx: Connection, scope: Scope, threads: list[str | None], made: list[str], step: tuple[object, ...]) -> None:
    """One change of the scope's memories."""
    match step:
        case ("add", int(text), int(thread), bool(now)):
            kind = "episode" if threads[thread] else "fact"
            new = NewMemory(text=TEXTS[text], kind=kind, conversation_id=threads[thread])
            made.append(memories.add_memory(tx, scope, new, EMBED if now else None).id)
        case ("delete", int(which)) if which < len(made):
            memories.delete_memory(tx, scope, made[which])
        case ("restore", int(which)) if which < len(made):
            memories.restore_memory(tx, scope, made[which], EMBED)
        case ("embed",):
            waiting = load_unembedded(tx, scope, limit=3)
            save_vectors(tx, scope, [n for n, _ in waiting], TABLE.embed_now([text for _, text in waiting]))


def describe(index: ScopeIndex, living: list[int]) -> list[object]:
    """What can be asked of the index about the living memories."""
    (positions,) = index.locate_all([np.array(living, np.int64)])
    distances = index.measure_distances(TABLE.embed_now(["boat"])[0])
    return [
        index.get_numbers(positions).tolist(),
        (index.get_threads(positions) != 0).tolist(),
        [index.get_pieces(positions[i : i + 1]).tolist() for i in range(len(positions))],
        index.get_pieces(positions).tolist(),
        [NO_VECTOR] * len(positions) if distances is None else distances[positions].tolist(),
    ]


def list_neighbours(index: ScopeIndex) -> list[list[int]]:
    """Two steps to both sides; an index that knows what is deleted steps over none of it."""
    return index.look_around(np.arange(len(index))).tolist()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, at_a_time=st.integers(1, 4))
def test_reading_on_gives_what_reading_anew_gives(
    tx: Connection, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[object, ...]], at_a_time: int
) -> None:
    """Memories added, erased, brought back and embedded late, read in parts of any size, at any moment."""
    monkeypatch.setattr(search, "_ROWS_AT_A_TIME", at_a_time)
    scope = staff.ensure_scope(tx, staff.create_staff(tx, {"name": "Ada"}).id, "kim")
    threads = [None, *(conversations.create_conversation(tx, scope).id for _ in range(2))]
    kept, made = ScopeIndex(), []
    for step in (*steps, ("read",)):
        do_step(tx, scope, threads, made, step)
        if step == ("read",):
            if not kept.read_on(tx, scope):
                kept = ScopeIndex()
                assert kept.read_on(tx, scope)
            fresh = ScopeIndex()
            assert fresh.read_on(tx, scope)
            rows = tx.execute("SELECT number FROM memories WHERE scope_id = ? AND deleted_at IS NULL", (scope.id,))
            living = [row["number"] for row in rows]
            assert describe(kept, living) == describe(fresh, living)
            if len(kept) == len(fresh):
                assert list_neighbours(kept) == list_neighbours(fresh)
