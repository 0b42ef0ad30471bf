"""The text of replies while they are made: rows in and out.

A piece is what is new of a run since its last one, under the number of characters before it, so that nothing is
written twice. From the pieces another process reads a reply that is being made, and a crash leaves them. They become
the message when the run ends, and go in the same transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from staffstream.domain import Owner, RunState, now_text
from staffstream.storage.database import IN_LIST, Connection, pack_list

FOLLOWED_S = 5.0  # how long a process says in advance that it follows a run


@dataclass(frozen=True, slots=True)
class Progress:
    """What is new of a run since it was last saved: its text from `start` on, and its state if that `changed`."""

    run_id: str
    fence: int
    start: int
    text: str
    changed: bool
    state: RunState
    streaming_at: str | None
    first_token_at: str | None


@dataclass(frozen=True, slots=True)
class RunNews:
    """What another process has saved of a run since it was last looked at."""

    run_id: str
    state: RunState
    fence: int
    first_token_at: str | None
    pieces: Sequence[tuple[int, str]]


_BEGUN = "('building', 'streaming')"
_HELD = (
    "runs.id = new.value ->> 'run_id' AND runs.fence = CAST(new.value ->> 'fence' AS BIGINT)"
    f" AND runs.state IN {_BEGUN}"
)
SAVE_PIECES = (
    "INSERT INTO run_pieces (run_id, start, text) SELECT runs.id, CAST(new.value ->> 'start' AS BIGINT),"
    " new.value ->> 'text'"
    f" FROM json_each(?) AS new JOIN runs ON {_HELD} WHERE new.value ->> 'text' <> ''"
    " ON CONFLICT (run_id, start) DO UPDATE SET text = excluded.text"  # the commit of the first try was not seen
)
SAVE_STATES = (
    "UPDATE runs SET state = new.value ->> 'state', streaming_at = new.value ->> 'streaming_at',"
    f" first_token_at = new.value ->> 'first_token_at' FROM json_each(?) AS new WHERE {_HELD}"
)


def save_progress(tx: Connection, changes: Sequence[Progress]) -> None:
    """Append what is new of some runs; one that has ended or was taken over is left alone.

    One statement for all: after each, the database's thread has to wait its turn at the interpreter's lock, up to 5 ms
    while the event loop is busy.
    """
    tx.execute(SAVE_PIECES, (orjson.dumps(changes).decode(),))
    if changed := [change for change in changes if change.changed]:
        tx.execute(SAVE_STATES, (orjson.dumps(changed).decode(),))


def load_text(conn: Connection, run_id: str) -> str:
    """The text of a run that has not ended, as far as it was saved."""
    text = ""
    rows = conn.execute("SELECT start, text FROM run_pieces WHERE run_id = ? ORDER BY start", (run_id,))
    for row in rows.fetchall():
        text += row["text"][len(text) - row["start"] :]
    return text


def drop_pieces(tx: Connection, run_id: str) -> None:
    """Erase the pieces of a run: they became a message, or it is made anew."""
    tx.execute("DELETE FROM run_pieces WHERE run_id = ?", (run_id,))


# ── following from another process ───────────────────────────────────────────────────────────────────────────────────


def mark_followed(tx: Connection, run_ids: Sequence[str]) -> None:
    """Ask whoever makes these runs to save their text more often, for FOLLOWED_S from now."""
    tx.execute(
        f"UPDATE runs SET followed_until = ? WHERE id {IN_LIST} AND state IN {_BEGUN}",
        (now_text(FOLLOWED_S), pack_list(run_ids)),
    )


def list_followed(conn: Connection, *, owner: Owner) -> set[str]:
    """The ids of this process's runs that others follow."""
    rows = conn.execute(
        f"SELECT id FROM runs WHERE followed_until > ? AND owner = ? AND state IN {_BEGUN}", (now_text(), owner.id)
    )
    return {row["id"] for row in rows}


def load_news(conn: Connection, cursors: Mapping[str, int]) -> list[RunNews]:
    """How some runs stand, and their pieces from a cursor on; a run that was erased is absent."""
    wanted = orjson.dumps([[run_id, cursor] for run_id, cursor in cursors.items()]).decode()
    pieces: dict[str, list[tuple[int, str]]] = {}
    for row in conn.execute(
        "SELECT run_id, start, text FROM json_each(?) AS wanted JOIN run_pieces ON run_id = wanted.value ->> 0"
        " AND start >= CAST(wanted.value ->> 1 AS BIGINT) ORDER BY run_id, start",
        (wanted,),
    ):
        pieces.setdefault(row["run_id"], []).append((row["start"], row["text"]))
    rows = conn.execute(
        "SELECT runs.id, state, fence, first_token_at FROM json_each(?) AS wanted"
        " JOIN runs ON runs.id = wanted.value ->> 0",
        (wanted,),
    )
    return [
        RunNews(row["id"], row["state"], row["fence"], row["first_token_at"], pieces.get(row["id"], ())) for row in rows
    ]
