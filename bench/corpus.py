"""Files full of memories, made through the package's own functions: talks in English-like sentences.

The words are the built-in embedder's word pieces that are words, which stand in the order of how common they are, drawn
by Zipf's law. They mean nothing together, so these files measure time and size; what recall finds is measured on real
talk (recall.py). `python -m bench.corpus` makes the file of the bench `memory` beforehand; it takes minutes, and is
kept for later runs.
"""

import contextlib
import fcntl
import hashlib
import itertools
import re
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench import clients
from staffstream.domain import Scope, format_time
from staffstream.memory.learning import index_past_conversation
from staffstream.models.embeddings import load_static_embedder
from staffstream.storage import conversations, messages, staff
from staffstream.storage.database import Connection, transact
from staffstream.storage.messages import ImportedMessage
from staffstream.storage.numbers import get_number_range
from staffstream.storage.schema import read_schema
from staffstream.storage.sqlite.connections import connect
from staffstream.storage.sqlite.files import prepare_file
from staffstream.storage.vectors import find_local, prepare_index

SIZES = (1_000_000, 100_000, 10_000, 1_000, 100)  # memories; the largest first: a search elsewhere has to step over it
CACHE = Path(tempfile.gettempdir()) / "staffstream-bench-files"
TURNS = 50  # messages of a conversation, each of which is one memory
REPLY_TOKENS = 2  # the staff members' replies: the bench is about what comes before them
USER = "local"  # of a server without keys

_START, _SPAN = datetime(2026, 1, 5, tzinfo=UTC), timedelta(days=300)
_COMMON = 200  # words of the vocabulary that no question asks for
_TALKS_A_TRANSACTION = 200


@lru_cache
def list_words() -> list[str]:
    """English words, the commonest first."""
    with (files("staffstream") / "data" / "static-embedder.npz").open("rb") as file, np.load(file) as table:
        pieces = table["vocabulary"].tobytes().decode().split("\n")
    return [piece for piece in pieces[pieces.index("the") :] if re.fullmatch("[a-z]{2,}", piece)]


@lru_cache
def _weigh_words() -> np.ndarray[Any, np.dtype[np.float64]]:
    """The sums of the words' shares by Zipf's law, up to each."""
    return np.cumsum(1 / (np.arange(len(list_words())) + 2.7))


def write_talk(*seed: int) -> list[str]:
    """TURNS sentences of 6 to 24 words."""
    random, words, edges = np.random.default_rng(seed), list_words(), _weigh_words()
    lengths = random.integers(6, 25, TURNS)
    drawn = np.searchsorted(edges, random.random(lengths.sum()) * edges[-1], side="right").tolist()
    chosen = (words[place] for place in drawn)
    return [" ".join(itertools.islice(chosen, length)).capitalize() + "." for length in lengths]


def write_questions(conn: Connection, scope: Scope, count: int, *, seed: int) -> list[str]:
    """Questions after three of the rarer words of some memory."""
    random = np.random.default_rng(seed)
    common = set(list_words()[:_COMMON])
    first, last = get_number_range(scope)
    last = conn.execute("SELECT max(number) FROM memories WHERE number BETWEEN ? AND ?", (first, last)).fetchone()[0]
    questions: list[str] = []
    while len(questions) < count:
        number = int(random.integers(first + 1, last + 1))
        text = conn.execute("SELECT text FROM memories WHERE number = ?", (number,)).fetchone()[0]
        rare = sorted(set(re.findall("[a-z]+", text.lower())) - common)
        if len(rare) >= 3:
            questions.append("What did I say about {}, {} and {}?".format(*random.permutation(rare)[:3]))
    return questions


def list_texts(conn: Connection, scope: Scope) -> list[str]:
    """The scope's memories, oldest first."""
    rows = conn.execute("SELECT text FROM memories WHERE number BETWEEN ? AND ?", get_number_range(scope))
    return [row["text"] for row in rows]


def build_file(sizes: Sequence[int], *, show_progress: bool = False) -> tuple[Path, list[Scope]]:
    """A file with one scope a size, in this order, kept between runs; it is not to be written to.

    One that another run left unfinished is gone on with.
    """
    CACHE.mkdir(exist_ok=True)
    path = CACHE / f"{_name_file(sizes)}.db"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            _fill_file(unfinished, sizes, show_progress=show_progress)
            unfinished.rename(path)
    with contextlib.closing(connect(path, read_only=True)) as connection:
        return path, _load_scopes(connection, len(sizes))


def _name_file(sizes: Sequence[int]) -> str:
    """A name for what today's code would write: whatever changes it, in whichever room, makes a new file."""
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.db"
        _fill_file(sample, (TURNS, TURNS))
        written = hashlib.sha256(repr((sizes, read_schema())).encode())
        with contextlib.closing(connect(sample, read_only=True)) as connection:
            tables = [row["name"] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            for row in itertools.chain.from_iterable(connection.execute(f"SELECT * FROM {name}") for name in tables):
                for value in row:  # words and vectors are blobs; texts differ by ids and times, and are in both
                    written.update(value if isinstance(value, bytes) else b"")
    return f"{sum(sizes)}-{written.hexdigest()[:16]}"


def _fill_file(path: Path, sizes: Sequence[int], *, show_progress: bool = False) -> None:
    """Everybody talks all the time: the scopes' conversations lie among each other."""
    talks = sorted((n / size, scope, n) for scope, size in enumerate(sizes) for n in range(0, size, TURNS))
    prepare_file(path)
    with contextlib.closing(connect(path, durability="off")) as connection:
        with transact(connection):
            prepare_index(connection, load_static_embedder().name, load_static_embedder().dimensions)
            done = connection.execute("SELECT count(*) FROM conversations").fetchone()[0]
            if not done:
                _make_scopes(connection, len(sizes))
        scopes = _load_scopes(connection, len(sizes))
        with tqdm(total=len(talks), initial=done, disable=not show_progress, unit=" talks", mininterval=1) as bar:
            for begin in range(done, len(talks), _TALKS_A_TRANSACTION):
                some = talks[begin : begin + _TALKS_A_TRANSACTION]
                with transact(connection):
                    for age, scope, n in some:
                        _add_talk(connection, scopes[scope], write_talk(scope, n), _START + age * _SPAN)
                bar.update(len(some))
        while _merge(connection):  # as housekeeping does
            pass
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _merge(connection: Connection) -> bool:
    with transact(connection):
        return connection.search.merge_words(connection)


def _make_scopes(connection: Connection, count: int) -> None:
    """As many staff members, who have met the user."""
    for number in range(count):
        fields = {"name": f"Ada {number}", "persona": "You are brief.", "max_output_tokens": REPLY_TOKENS}
        staff.ensure_scope(connection, staff.create_staff(connection, fields).id, USER)


def _load_scopes(connection: Connection, count: int) -> list[Scope]:
    return [staff.load_scope(connection, number + 1) for number in range(count)]


def _add_talk(connection: Connection, scope: Scope, sentences: Sequence[str], began: datetime) -> None:
    """A past conversation as an import keeps it, a minute a message."""
    conversation = conversations.create_conversation(connection, scope, user_name=clients.USER_NAME)
    past = [
        ImportedMessage("assistant" if n % 2 else "user", text, format_time(began + timedelta(minutes=n)))
        for n, text in enumerate(sentences)
    ]
    saved = messages.import_messages(connection, scope, conversation, past)
    index_past_conversation(connection, scope, conversation, saved, find_local(load_static_embedder()))


if __name__ == "__main__":
    print(build_file(SIZES, show_progress=True)[0])
