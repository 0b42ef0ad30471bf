"""Recall: what fits is found by word and by meaning, what does not is left out, and age weighs a little."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from staffstream.domain import Message, Scope, make_id, now_text
from staffstream.memory.fact_changes import learn_fact
from staffstream.memory.recall import Recalled, recall_memories
from staffstream.memory.traits import HalfLives
from staffstream.models.embeddings import load_static_embedder
from staffstream.replies.context import MEMORY_SHARE
from staffstream.replies.context_sources import recall_for
from staffstream.storage import memories, staff
from staffstream.storage.database import Connection, Group
from staffstream.storage.memories import Memory, NewMemory
from staffstream.storage.sqlite.connections import connect
from staffstream.storage.vectors import EmbedNow, prepare_index
from tests.tools.databases import prepare

NOW = datetime(2026, 11, 1, tzinfo=UTC)
UNRELATED = (Path(__file__).parents[1] / "data" / "unrelated_questions.txt").read_text("utf-8").splitlines()
LIFE = """\
My sister Kari moved to Bergen last spring and found a flat near the harbour.
I started as a nurse at the children's ward in August.
We adopted a grey cat from the shelter and named her Pebble.
On Thursdays I play the cello in an amateur orchestra.
I am allergic to hazelnuts and carry a pen with me.
My brother Tom is training for his first marathon.
We painted the kitchen yellow over the long weekend.
Grandma's recipe for cardamom buns needs fresh yeast.
The car failed its inspection because of the brakes.
I finished the novel about the lighthouse keeper and cried.
Our daughter Ida lost her first tooth at breakfast.
We booked a cabin in the mountains for the winter holiday.
My boss Petra wants me to lead the night shift.
The garden is full of slugs after all the rain.
I signed up for a pottery class with my neighbour Lena.
Tom borrowed my tent and returned it with a hole.
I have been sleeping badly since the move.
We watched an old film about a submarine and fell asleep.
Kari is expecting a baby in February.
My favourite tea is the smoky one from the corner shop.
The dentist says Ida needs braces in two years.
I sold my bicycle to a student and miss it already.
Lena's dog dug up all our tulips.
We are saving for a trip to Japan to see the cherry trees.
Dad's knee operation went well and he walks again.
I dropped my phone into the lake while fishing.
Our landlord promised to fix the heating by Friday.
I volunteer at the library's reading hour for children.
Petra gave me a plant that I have not killed yet.
I want to learn Portuguese before the summer.
"""


@pytest.fixture
def tx(db: Path) -> Iterator[Connection]:
    """A connection within a transaction on a new file, ready for the built-in embedder."""
    prepare(db)
    table = load_static_embedder()
    with contextlib.closing(connect(db)) as connection:
        connection.execute("BEGIN")
        prepare_index(connection, table.name, table.dimensions)
        yield connection
        connection.execute("ROLLBACK")


@pytest.fixture
def scope(tx: Connection) -> Scope:
    return staff.ensure_scope(tx, staff.create_staff(tx, {"name": "Ada"}).id, "kim")


def embed(text: str) -> object:
    return load_static_embedder().embed_now([text])[0]


EMBED: EmbedNow = embed  # type: ignore[assignment]


def keep(tx: Connection, scope: Scope, text: str, day: str = "2026-10-01", **fields: object) -> Memory:
    new = NewMemory(text=text, occurred_at=f"{day}T12:00:00.000Z", **fields)  # type: ignore[arg-type]
    return memories.add_memory(tx, scope, new, EMBED)


def ask(
    tx: Connection, scope: Scope, question: str, *, embed: EmbedNow | None = EMBED, limit: int = 10
) -> list[Recalled]:
    return recall_memories(tx, scope, question, embed=embed, limit=limit, now=NOW)


def keep_life(tx: Connection, scope: Scope) -> None:
    for line in LIFE.splitlines():
        keep(tx, scope, line)


FITTING = {
    "Where does Kari live now?": "Bergen",
    "What instrument do I play?": "cello",
    "What am I allergic to?": "hazelnuts",
    "What is our cat called?": "Pebble",
    "How is dad after his surgery?": "knee",
    "Which language do I want to learn?": "Portuguese",
}


@pytest.mark.parametrize(("question", "word"), FITTING.items())
def test_what_fits_is_recalled_and_relevant(tx: Connection, scope: Scope, question: str, word: str) -> None:
    """By shared words or by meaning alone, the answer is among the best three and above the floor."""
    keep_life(tx, scope)
    best = [item for item in ask(tx, scope, question, limit=3) if item.relevant]
    assert any(word in item.memory.text for item in best), [item.memory.text for item in best]


def test_an_unrelated_question_recalls_nothing(tx: Connection, scope: Scope) -> None:
    """Of over a hundred questions about other things, most have nothing to inject, and on average a line or two."""
    keep_life(tx, scope)
    assert len(UNRELATED) >= 100
    found = [ask(tx, scope, question) for question in UNRELATED]
    assert sum(any(item.relevant for item in each) for each in found) <= len(UNRELATED) / 2
    assert _mean_tokens(found) <= 50


def _mean_tokens(found: Iterable[Sequence[Recalled]]) -> float:
    """What memories may take of a context of 6,000 tokens, on average."""
    shares = [max((item.grade for item in each), default=0.0) ** 2 * MEMORY_SHARE * 6000 for each in found]
    return sum(shares) / len(shares)


def test_an_embedder_to_which_all_texts_are_alike_recalls_no_more(tx: Connection, scope: Scope) -> None:
    """Where unrelated texts have a cosine of 0.6, that counts as none; what fits is found all the same."""
    common = np.full(256, 1.2 / 16, np.float32)

    def embed_alike(text: str) -> Any:
        vector = EMBED(text) + common
        return vector / np.linalg.norm(vector)

    for line in LIFE.splitlines():
        memories.add_memory(tx, scope, NewMemory(text=line), embed_alike)
    asked = {question: ask(tx, scope, question, embed=embed_alike) for question in (*UNRELATED, *FITTING)}
    assert _mean_tokens(asked[question] for question in UNRELATED) <= 150
    assert all(any(word in item.memory.text for item in asked[question]) for question, word in FITTING.items())


@pytest.mark.parametrize(
    "question",
    [
        "What do you know about me?",
        "Tell me everything you remember about me.",
        "Who am I?",
        "What have I told you so far?",
        "Describe me!",
        "Do you remember me?",
    ],
)
def test_a_question_for_everything_recalls_what_is_known_of_the_user(
    tx: Connection, scope: Scope, question: str
) -> None:
    """There is no topic to compare with: what matters most comes first, and nothing that is true no longer."""
    keep_life(tx, scope)
    about = {"subject": "user", "predicate": "has"}
    keep(tx, scope, "The user has a boat.", importance=0.3, **about)
    keep(tx, scope, "The user has diabetes.", importance=0.9, **about)
    keep(tx, scope, "Tom has a horse.", importance=0.9, subject="Tom", predicate="has")
    sold = keep(tx, scope, "The user has a car.", importance=0.9, **about)
    memories.delete_memory(tx, scope, sold.id)
    found = ask(tx, scope, question, limit=40)
    texts = [item.memory.text for item in found if item.relevant]
    assert texts[0] == "The user has diabetes."
    assert "The user has a boat." in texts
    assert not {"Tom has a horse.", "The user has a car."} & set(texts)


def test_a_question_with_a_topic_is_about_that(tx: Connection, scope: Scope) -> None:
    """Words of asking alone do not ask for all that is known."""
    keep_life(tx, scope)
    assert "Kari" in ask(tx, scope, "Do you remember the name of Kari's town?")[0].memory.text
    assert _mean_tokens([ask(tx, scope, "Tell me a joke about penguins!")]) <= 50


def test_one_text_counts_once_and_the_question_itself_is_no_evidence(tx: Connection, scope: Scope) -> None:
    """A question that was asked and left without an answer many times does not push out what was told."""
    asked = "Where is my mother's ring?"
    keep(tx, scope, "My mother's ring lies in the blue tin.", "2025-01-01")
    for day in range(1, 26):
        keep(tx, scope, asked, f"2026-01-{day:02}")
        keep(tx, scope, "I do not know where your mother's ring is.", f"2026-01-{day:02}")
    question = Message(make_id(), "", "", 1, "user", asked, "complete", now_text())
    texts = [item.memory.text for item in recall_for(tx, scope, question, EMBED, HalfLives())]
    assert sorted(texts) == ["I do not know where your mother's ring is.", "My mother's ring lies in the blue tin."]


def test_equals_are_ordered_by_age(tx: Connection, scope: Scope) -> None:
    """The same words said twice: the later one comes first."""
    old = keep(tx, scope, "Kim went sailing with Tom.", "2025-01-01")
    new = keep(tx, scope, "Kim went sailing with Tom.", "2026-10-20")
    assert [item.memory.id for item in ask(tx, scope, "Who did Kim go sailing with?")] == [new.id, old.id]


def test_an_old_strong_match_beats_a_new_weak_one(tx: Connection, scope: Scope) -> None:
    """Age takes at most a tenth: it never buries what fits."""
    strong = keep(tx, scope, "Kim's boat is called Albatross and lies in Hamar.", "2021-01-01")
    keep(tx, scope, "Kim saw a big boat on the news.", "2026-10-31")
    assert ask(tx, scope, "What is the name of Kim's boat in Hamar?")[0].memory.id == strong.id


def test_asking_for_the_latest_makes_age_count(tx: Connection, scope: Scope) -> None:
    """The gap between old and new grows when the question asks what is new."""
    keep(tx, scope, "Kim went sailing with Tom.", "2025-01-01")
    keep(tx, scope, "Kim went sailing with Tom.", "2026-10-20")

    def gap(question: str) -> float:
        new, old = ask(tx, scope, question)
        return new.score / old.score

    assert gap("Who did Kim go sailing with most recently?") > gap("Who did Kim go sailing with?") > 1


def test_a_shorter_half_life_ages_more(tx: Connection, scope: Scope) -> None:
    """The operator's half-lives count, the general one and the one for questions about the latest."""
    keep(tx, scope, "Kim went sailing with Tom.", "2026-09-01")
    usual, latest = "Who did Kim go sailing with?", "Who did Kim go sailing with most recently?"

    def score(question: str, half_lives: HalfLives) -> float:
        return recall_memories(tx, scope, question, embed=EMBED, limit=1, half_lives=half_lives, now=NOW)[0].score

    assert score(usual, HalfLives(days=10)) < score(usual, HalfLives(latest_days=1))
    assert score(latest, HalfLives(latest_days=1)) < score(latest, HalfLives(days=10))


def test_being_said_again_makes_a_memory_young(tx: Connection, scope: Scope) -> None:
    """Reinforcement moves the clock."""
    statement = {"subject": "user", "predicate": "sails_with", "object": "Tom"}
    old = keep(tx, scope, "Kim goes sailing with Tom.", "2024-01-01", **statement)
    before = ask(tx, scope, "Who does Kim go sailing with?")[0].score
    again = NewMemory(text=old.text, occurred_at="2026-10-30T00:00:00.000Z", **statement)
    learnt = learn_fact(tx, scope, again, replaces=None, by_user=True, embed=EMBED)
    assert learnt
    assert learnt.memory.id == old.id
    assert ask(tx, scope, "Who does Kim go sailing with?")[0].score > before


def test_a_pinned_memory_does_not_age(tx: Connection, scope: Scope) -> None:
    """A pin stops the clock."""
    old = keep(tx, scope, "Kim goes sailing with Tom.", "2020-01-01")
    before = ask(tx, scope, "Who does Kim go sailing with?")[0].score
    memories.change_memory(tx, scope, old.id, {"pinned": True}, EMBED)
    assert ask(tx, scope, "Who does Kim go sailing with?")[0].score > before


def test_words_alone_are_searched_when_no_vector_can_be_had(tx: Connection, scope: Scope) -> None:
    """A remote embedder that is down costs meaning, not memory."""
    keep_life(tx, scope)
    assert "Bergen" in ask(tx, scope, "Has Kari moved to Bergen?", embed=None)[0].memory.text


def test_a_scope_recalls_only_its_own(tx: Connection, scope: Scope) -> None:
    """The same question in another scope finds nothing of this one."""
    keep_life(tx, scope)
    other = staff.ensure_scope(tx, scope.staff_id, "bob")
    assert ask(tx, other, "Where does Kari live now?") == []
    mine = keep(tx, other, "Kari lives in Rome.")
    assert [item.memory.id for item in ask(tx, other, "Where does Kari live now?")] == [mine.id]


def test_what_was_deleted_is_not_recalled(tx: Connection, scope: Scope) -> None:
    """Also by an index that was read before the deletion."""
    keep_life(tx, scope)
    found = ask(tx, scope, "Where does Kari live now?")[0]
    memories.delete_memory(tx, scope, found.memory.id)
    assert found.memory.id not in [item.memory.id for item in ask(tx, scope, "Where does Kari live now?")]


def test_what_is_restored_is_recalled_again(tx: Connection, scope: Scope) -> None:
    """Also the newest memory, by an index that has forgotten it."""
    keep_life(tx, scope)
    newest = keep(tx, scope, "Kari's new address is by the Fløibanen.")
    assert ask(tx, scope, "What is Kari's address?")[0].memory.id == newest.id
    memories.delete_memory(tx, scope, newest.id)
    assert ask(tx, scope, "What is Kari's address?")[0].memory.id != newest.id
    memories.restore_memory(tx, scope, newest.id, EMBED)
    assert ask(tx, scope, "What is Kari's address?")[0].memory.id == newest.id


def test_a_reader_sees_its_own_snapshot(db: Path, tx: Connection, scope: Scope) -> None:
    """Readers share an index: one whose snapshot is older passes over what is too new for it, and takes it for no
    deletion.
    """
    keep_life(tx, scope)
    tx.execute("COMMIT")
    group = Group()
    with (
        contextlib.closing(connect(db, read_only=True, group=group)) as early,
        contextlib.closing(connect(db, read_only=True, group=group)) as late,
    ):
        early.execute("BEGIN")
        before = ask(early, scope, "What is Kari's address?")
        tx.execute("BEGIN IMMEDIATE")
        newest = keep(tx, scope, "Kari's new address is by the Fløibanen.")
        memories.delete_memory(tx, scope, before[0].memory.id)
        tx.execute("COMMIT")
        for _ in range(2):
            late.execute("BEGIN")
            found = [item.memory.id for item in ask(late, scope, "What is Kari's address?")]
            late.execute("ROLLBACK")
            assert found[0] == newest.id
            assert before[0].memory.id not in found
            assert newest.id not in [item.memory.id for item in ask(early, scope, "What is Kari's address?")]
        early.execute("ROLLBACK")
    tx.execute("BEGIN")


@pytest.mark.parametrize("question", ["", " ", "?", "the", "\x00", "😀😀", "a" * 20_000, "мир " * 3000, '"', "*" * 500])
def test_any_question_is_answered(tx: Connection, scope: Scope, question: str) -> None:
    """Whatever is asked, in an empty scope and in a full one, nothing breaks."""
    ask(tx, scope, question)
    keep_life(tx, scope)
    assert isinstance(ask(tx, scope, question), list)


def test_as_many_as_are_asked_for_are_found(tx: Connection, scope: Scope) -> None:
    """More than a reply needs, where a search wants them, of one kind too."""
    for number in range(100):
        keep(tx, scope, f"Boat number {number} lies in Hamar.", kind="episode" if number % 2 else "fact")
    assert len(ask(tx, scope, "Which boat lies in Hamar?", limit=90)) == 90
    found = recall_memories(tx, scope, "Which boat lies in Hamar?", embed=EMBED, limit=40, kind="fact", now=NOW)
    assert [item.memory.kind for item in found] == ["fact"] * 40
