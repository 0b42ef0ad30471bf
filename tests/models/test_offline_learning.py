"""What the stand-in for Claude learns from what is said: facts, entities, relations and summaries."""

import pytest

from staffstream.memory import extraction, summaries
from staffstream.models.offline.facts import find_facts
from staffstream.models.offline.structured import SUMMARY_CHARS, fill_schema


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Hello! My name is Kim and I live in Bergen.", [("user", "name", "Kim"), ("user", "lives_in", "Bergen")]),
        (
            "I am learning the cello, and my sister Anna plays the piano.",
            [("user", "has_sister", "Anna"), ("user", "learns", "cello"), ("Anna", "plays", "piano")],
        ),
        ("I’m living in St Gallen now", [("user", "lives_in", "St Gallen")]),
        ("I moved to Oslo last week, finally", [("user", "lives_in", "Oslo")]),
        ("I live in Bergen and work at Equinor.", [("user", "lives_in", "Bergen"), ("user", "works_at", "Equinor")]),
        ("My favorite color is dark blue.", [("user", "favourite_colour", "dark blue")]),
        ("Please call me Bob.", [("user", "name", "Bob")]),
        ("I really love hiking.", [("user", "likes", "hiking")]),
        ("I have a dog called Rex.", [("user", "has_dog", "Rex")]),
        ("Kari works at Statoil.", [("Kari", "works_at", "Statoil")]),
        ("My sister lives in Oslo.", [("user's sister", "lives_in", "Oslo")]),
        (
            "My sister Kari lives in Bergen and she works at NRK.",
            [("user", "has_sister", "Kari"), ("Kari", "lives_in", "Bergen"), ("Kari", "works_at", "NRK")],
        ),
    ],
)
def test_learns(said: str, expected: list[tuple[str, str, str]]) -> None:
    """Plain statements are understood, with a predicate of their kind."""
    assert [(fact.subject, fact.predicate, fact.object) for fact in find_facts(said)] == expected


@pytest.mark.parametrize(
    "said",
    [
        *("Do I live in Oslo?", "do I live in Oslo", "If I live in Oslo, I can ski.", "I used to live in Paris."),
        *("I don't live in Oslo.", "I no longer work at Google.", "Maybe I live in a dream.", "I'm a bit tired."),
        *("She lives in Rome.", "I have a question.", "Nice weather!", "Kari said I live in Oslo.", "", "…"),
    ],
)
def test_learns_nothing_from(said: str) -> None:
    """Questions, suppositions, denials, hearsay and small talk are no facts."""
    assert find_facts(said) == []


BATCH = """<known_facts>
<fact n="1" subject="user" predicate="likes" object="coffee" since="2026-01-01">Anna likes coffee.</fact>
<fact n="2" subject="user" predicate="lives_in" object="Rome" since="2026-01-01">Anna lives in Rome.</fact>
</known_facts>

<messages>
<message n="1" from="user" name="Anna" date="2026-03-01">I live in Oslo. My sister Kari works at R&amp;D Ltd.</message>
<message n="2" from="assistant" name='The "Ada"' date="2026-03-01">I live in a server. I like tea.</message>
<message n="3" from="user" name="Anna" date="2026-03-02">Do I live in Paris?
I moved to Bergen. My cousin lives in Bodø. I like tea.</message>
</messages>"""


def test_extracts_facts_with_their_source() -> None:
    """Only what the user states; of two homes the later one; each with the number of its message."""
    found = fill_schema(extraction.SCHEMA, BATCH)["facts"]
    assert {(fact["subject"], fact["predicate"], fact["object"], fact["message"]) for fact in found} == {
        ("user", "has_sister", "Kari", 1),
        ("Kari", "works_at", "R&D Ltd", 1),
        ("user", "lives_in", "Bergen", 3),
        ("user's cousin", "lives_in", "Bodø", 3),
        ("user", "likes", "tea", 3),
    }


def test_words_facts_in_the_third_person_and_quotes_to_the_letter() -> None:
    """A fact can be read on its own; its quote is the sentence as it was written."""
    texts = {fact["quote"]: fact["text"] for fact in fill_schema(extraction.SCHEMA, BATCH)["facts"][:-1]}
    assert texts["I moved to Bergen."] == "Anna lives in Bergen."
    assert texts["My cousin lives in Bodø."] == "Anna's cousin lives in Bodø."
    assert texts["My sister Kari works at R&D Ltd."] in ("Anna has a sister called Kari.", "Kari works at R&D Ltd.")


def test_only_what_cannot_hold_together_is_replaced() -> None:
    """Who moves no longer lives where they did; who likes tea may still like coffee."""
    found = fill_schema(extraction.SCHEMA, BATCH)["facts"]
    assert {fact["predicate"]: fact["replaces"] for fact in found if fact["subject"] == "user"} == {
        "lives_in": 2,
        "likes": 0,
        "has_sister": 0,
    }


def test_extracts_entities_and_relations() -> None:
    """What is at either end of a relation is an entity; the user's carries their name."""
    found = fill_schema(extraction.SCHEMA, BATCH)
    assert {entity["name"]: (entity["type"], entity["aliases"]) for entity in found["entities"]} == {
        "user": ("person", ["Anna"]),
        "user's cousin": ("person", []),
        "Kari": ("person", []),
        "R&D Ltd": ("organisation", []),
        "Bergen": ("place", []),
        "Bodø": ("place", []),
    }
    assert {(each["subject"], each["predicate"], each["object"]) for each in found["relations"]} == {
        ("user", "has_sister", "Kari"),
        ("user", "lives_in", "Bergen"),
        ("user's cousin", "lives_in", "Bodø"),
        ("Kari", "works_at", "R&D Ltd"),
    }


def _batch(*said: str, earlier: str = "") -> str:
    messages = "".join(f'<message n="{n}" from="user" name="Anna">{text}</message>\n' for n, text in enumerate(said))
    return f"<summary>\n{earlier}\n</summary>\n<messages>\n{messages}</messages>"


def test_sums_up_what_was_stated() -> None:
    """Statements of the user are kept in order, questions are not."""
    summary = fill_schema(summaries.SCHEMA, _batch("I live in Oslo.", "How are you?", "I like tea."))["summary"]
    assert summary == "- Anna: I live in Oslo.\n- Anna: I like tea."


def test_summaries_converge() -> None:
    """Folding ever more into a summary keeps it within its size, with facts outliving chatter."""
    summary = ""
    for round_ in range(20):
        chatter = [f"Well then, there we go again with number {round_} and {n}, as ever." for n in range(30)]
        summary = fill_schema(summaries.SCHEMA, _batch(f"I live in Town{round_}.", *chatter, earlier=summary))[
            "summary"
        ]
        assert len(summary) <= SUMMARY_CHARS
    assert "I live in Town0." in summary
    assert "I live in Town19." in summary
    assert fill_schema(summaries.SCHEMA, _batch(earlier=summary))["summary"] == summary


def test_a_batch_of_small_talk_still_gets_a_summary() -> None:
    """Never an empty one, which could not go into a prompt."""
    assert fill_schema(summaries.SCHEMA, _batch("How are you?"))["summary"] == "Nothing of note was said."
