"""The statements of a reply: what SQLite does with them beyond their answers."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from staffstream.domain import Owner, Scope
from staffstream.storage import (
    conversations,
    fingerprints,
    jobs,
    learning_marks,
    memories,
    messages,
    run_pieces,
    runs,
    staff,
)
from staffstream.storage.database import Connection
from tests.tools.databases import connect, prepare


@pytest.fixture
def tx(tmp_path: Path) -> Iterator[Connection]:
    prepare(tmp_path / "s.db")
    with closing(connect(tmp_path / "s.db")) as connection:
        yield connection


def reply_once(tx: Connection, scope: Scope) -> None:
    """Accept, build and finish one reply, by the rooms' own functions."""
    owner = Owner("me", 15.0)
    _, scope = staff.get_or_create_scope(tx, scope.staff_id, scope.user_id)
    conversation = conversations.ensure_conversation(tx, scope, None)
    assert runs.find_active_run(tx, scope, conversation.id) is None
    question = messages.append_user_message(tx, scope, conversation, "Where is the boat?")
    memories.add_episode(tx, scope, question, speaker="Kim", embed=None)
    run = runs.insert_run(tx, scope, conversation, question, mode="stream", owner=owner)
    messages.load_turns(tx, scope, conversation.id, after_turn=0, before_turn=question.turn, limit=400)
    tx.search.find_words(tx, scope, ["boat"], most=10)
    tx.search.load_candidates(tx, scope, [1], None)
    assert runs.end_run(tx, run, "done", message_id=run.id)
    messages.append_reply(tx, run, "In the harbour.", status="complete")
    learning_marks.has_unlearned(tx, scope, conversation.id, at_least=10)
    runs.claim_next_run(tx, owner=owner, conversation_id=conversation.id)
    assert not runs.is_any_due(tx)
    jobs.claim_due_jobs(tx, "extract", owner=owner, limit=4)


@pytest.mark.sqlite
def test_sqlite_compiles_no_statement_of_a_reply_twice(tx: Connection) -> None:
    """A bare `LIMIT ?` would be compiled at every execution, since SQLite plans by its value: six times the cost."""
    scope = staff.ensure_scope(tx, staff.create_staff(tx, {"name": "Ada"}).id, "kim")
    compiled: Counter[str] = Counter()

    def watch(action: int, *details: str | None) -> int:  # SQLite asks for leave whenever it compiles
        compiled[f"{action} {details}"] += 1
        return 0

    tx.set_authorizer(watch)
    reply_once(tx, scope)
    assert compiled
    reply_once(tx, scope)  # some look different when there is a conversation
    reply_once(tx, scope)
    compiled.clear()
    reply_once(tx, scope)
    assert not compiled


@pytest.mark.sqlite
def test_progress_is_found_by_the_runs_ids(tx: Connection) -> None:
    """A thousand runs are written down in one statement, which must not look through all that ever were."""
    for statement in (run_pieces.SAVE_PIECES, run_pieces.SAVE_STATES):
        details = [row["detail"] for row in tx.execute("EXPLAIN QUERY PLAN " + statement, ("[]",))]
        assert details[0].startswith("SCAN new ")
        assert details[1].startswith("SEARCH runs USING INDEX")


@pytest.mark.sqlite
def test_fingerprints_are_found_by_their_indexes(tx: Connection) -> None:
    """A client's history is recognised without a look through all messages of its scope."""
    for statement in (fingerprints.FIND_BY_PATH, fingerprints.FIND_BY_EXCHANGE):
        details = [row["detail"] for row in tx.execute("EXPLAIN QUERY PLAN " + statement, (1, 1, 1))]
        column = "path" if statement is fingerprints.FIND_BY_PATH else "exchange"
        assert details == [
            f"SEARCH fingerprints USING COVERING INDEX fingerprints_by_{column} (scope_id=? AND {column}=?)"
        ]
