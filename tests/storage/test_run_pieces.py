"""The pieces of a reply that is being made: each is written once, and together they are its text."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from staffstream.domain import Owner, Run, Scope
from staffstream.errors import NotFound
from staffstream.storage import conversations, messages, run_pieces, runs, staff
from staffstream.storage.database import Connection
from staffstream.storage.run_pieces import Progress
from tests.tools.databases import connect, prepare

OWNER = Owner("here", 15.0)
SCHEMAS = Path(__file__).parents[1] / "schemas"


@pytest.fixture
def tx(tmp_path: Path) -> Iterator[Connection]:
    prepare(tmp_path / "a.db")
    with contextlib.closing(connect(tmp_path / "a.db")) as connection:
        yield connection


@pytest.fixture
def run(tx: Connection) -> Run:
    """One that this process is making."""
    scope = staff.ensure_scope(tx, staff.create_staff(tx, {"name": "Ada"}).id, "kim")
    conversation = conversations.ensure_conversation(tx, scope, None)
    question = messages.append_user_message(tx, scope, conversation, "Hi")
    return runs.insert_run(tx, scope, conversation, question, mode="stream", owner=OWNER)


def _progress(run: Run, start: int, text: str, *, fence: int | None = None) -> Progress:
    return Progress(run.id, run.fence if fence is None else fence, start, text, True, "streaming", "2026", "2026")


def test_pieces_are_appended(tx: Connection, run: Run) -> None:
    """Any text whole, U+0000 and astral characters among it; one saved anew takes its own place."""
    for start, text in ((0, "a\0"), (2, "👩"), (3, "b"), (3, "bc")):
        run_pieces.save_progress(tx, [_progress(run, start, text)])
    assert run_pieces.load_text(tx, run.id) == "a\0👩bc"
    assert runs.load_run_text(tx, run.scope, run.id)[1] == "a\0👩bc"
    assert tx.execute("SELECT count(*) FROM run_pieces").fetchone()[0] == 3
    assert runs.get_run(tx, run.scope, run.id).state == "streaming"


def test_only_the_holder_of_a_run_appends(tx: Connection, run: Run) -> None:
    """Under another fence, or after the end, nothing is written."""
    run_pieces.save_progress(tx, [_progress(run, 0, "late", fence=run.fence - 1)])
    assert run_pieces.load_text(tx, run.id) == ""
    assert runs.end_run(tx, run, "done", message_id=run.id)
    run_pieces.save_progress(tx, [_progress(run, 0, "late")])
    assert tx.execute("SELECT count(*) FROM run_pieces").fetchone()[0] == 0


@pytest.mark.parametrize("leaves", ["end", "requeue"])
def test_pieces_go_with_the_end_and_with_another_attempt(tx: Connection, run: Run, leaves: str) -> None:
    """They became a message, or the reply is made from its beginning."""
    run_pieces.save_progress(tx, [_progress(run, 0, "text")])
    if leaves == "end":
        runs.end_run(tx, run, "cancelled", message_id=run.id)
    else:
        assert runs.requeue_run(tx, run)
    assert run_pieces.load_text(tx, run.id) == ""


def test_news_begin_at_a_cursor(tx: Connection, run: Run) -> None:
    """Whoever follows from another process is given what it does not have, and how the run stands."""
    run_pieces.save_progress(
        tx,
        [
            _progress(run, 0, "one"),
        ],
    )
    run_pieces.save_progress(tx, [_progress(run, 3, "two")])
    [news] = run_pieces.load_news(tx, {run.id: 3, "erased": 0})
    assert (news.run_id, news.state, news.fence, list(news.pieces)) == (run.id, "streaming", run.fence, [(3, "two")])


def test_followed_runs_are_known_to_their_owner(tx: Connection, run: Run) -> None:
    """For a while; and not to others, nor after the end."""
    assert run_pieces.list_followed(tx, owner=OWNER) == set()
    run_pieces.mark_followed(tx, [run.id])
    assert run_pieces.list_followed(tx, owner=OWNER) == {run.id}
    assert run_pieces.list_followed(tx, owner=replace(OWNER, id="there")) == set()
    runs.end_run(tx, run, "done", message_id=run.id)
    assert run_pieces.list_followed(tx, owner=OWNER) == set()


def test_the_text_of_an_older_file_becomes_a_piece(tmp_path: Path) -> None:
    """A reply that was cut off before the upgrade keeps what it had."""
    path = tmp_path / "old.db"
    with contextlib.closing(connect(path)) as old:
        old.executescript((SCHEMAS / "0003.sql").read_text("utf-8"))  # type: ignore[attr-defined]
        old.execute("PRAGMA foreign_keys = OFF")
        old.execute(
            "INSERT INTO runs (id, conversation_id, scope_id, user_message_id, turn, mode, state,"
            " created_at, partial_text) VALUES ('r', 'c', 1, 'm', 1, 'stream', 'streaming', '2026', 'Half of it')"
        )
    prepare(path)
    with contextlib.closing(connect(path)) as new:
        assert run_pieces.load_text(new, "r") == "Half of it"


def test_scopes_do_not_share_texts(tx: Connection, run: Run) -> None:
    """A run's text is read by its own user alone."""
    run_pieces.save_progress(tx, [_progress(run, 0, "mine")])
    other: Scope = staff.ensure_scope(tx, run.staff_id, "lee")
    with pytest.raises(NotFound):
        runs.load_run_text(tx, other, run.id)
