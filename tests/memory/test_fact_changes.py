"""Changed and ended facts: what closes a known fact, what doesn't, and that a deleted fact is known by its meaning."""

from pathlib import Path
from typing import Any

import pytest

from tests.tools.extractions import QUICK, answer, fact, list_facts, wait_learned
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Reply
from tests.tools.server import Api, serve_here

pytestmark = pytest.mark.anyio


async def tell(api: Api, provider: ScriptedProvider, ada: str, text: str) -> None:
    """One message, and the wait until it was learned from."""
    times = len([request for request in provider.requests if request.schema])
    await api.ask(ada, text)
    await wait_learned(api, provider, times + 1)


def current(facts: list[Any]) -> set[str]:
    return {each["text"] for each in facts if each["valid_to"] is None}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            fact("Kim loves coffee.", "I love coffee", predicate="likes", object="coffee"),
            fact("Kim can't stand coffee.", "I can't stand coffee any more", predicate="dislikes", object="coffee"),
        ),
        (
            fact("Kim works at Acme.", "I work at Acme", predicate="works_at", object="Acme"),
            fact("Kim has no job.", "I have no job", predicate="employment", object="none"),
        ),
    ],
)
async def test_an_ended_fact_is_closed_under_another_predicate(
    db: Path, provider: ScriptedProvider, before: Any, after: Any
) -> None:
    """The statement names the fact that it ends; the ended one can be restored."""
    provider.script_structured(answer(before), answer(after | {"replaces": 1}))
    async with serve_here(db, provider, **QUICK) as api:
        ada = await api.make_staff()
        await tell(api, provider, ada, f"{before['quote']}.")
        await tell(api, provider, ada, f"{after['quote']}.")
        facts = await list_facts(api, ada)
        assert current(facts) == {after["text"]}
        [ended] = [each for each in facts if each["text"] == before["text"]]
        await api.post(f"/staff/{ada}/memories/{ended['id']}/restore", {}, 200)
        assert current(await list_facts(api, ada)) == {before["text"]}


async def test_a_single_valued_predicate_closes_by_itself(db: Path, provider: ScriptedProvider) -> None:
    """A new age, under another name of the predicate and without `replaces`, ends the old one; two homes in one message
    are both true.
    """
    provider.script_structured(
        answer(fact("Kim is 41.", "I am 41", predicate="age", object="41")),
        answer(fact("Kim is 42.", "I turned 42", predicate="is_years_old", object="42")),
        answer(
            fact("Kim lives in Oslo.", "I live in Oslo", object="Oslo"),
            fact("Kim lives in Norway.", "Oslo, Norway", object="Norway"),
        ),
    )
    async with serve_here(db, provider, **QUICK) as api:
        ada = await api.make_staff()
        for text in ("I am 41.", "I turned 42 today.", "I live in Oslo, Norway."):
            await tell(api, provider, ada, text)
        assert current(await list_facts(api, ada)) == {"Kim is 42.", "Kim lives in Oslo.", "Kim lives in Norway."}


async def test_an_echo_of_what_was_corrected_is_not_learned(db: Path, provider: ScriptedProvider) -> None:
    """A reply that repeats the old home does not bring it back."""
    provider.script_structured(
        answer(fact("Kim lives in Oslo.", "I live in Oslo")),
        answer(fact("Kim lives in Bergen.", "I moved to Bergen", object="Bergen")),
        answer(fact("Kim lives in Oslo.", "You live in Oslo", message=2)),
    )
    async with serve_here(db, provider, **QUICK) as api:
        ada = await api.make_staff()
        await tell(api, provider, ada, "I live in Oslo.")
        await tell(api, provider, ada, "I moved to Bergen.")
        provider.script(Reply(["You live in Oslo, as far as I know."]))
        await tell(api, provider, ada, "Where do I live?")
        assert current(await list_facts(api, ada)) == {"Kim lives in Bergen."}


async def test_the_graph_follows_what_ended(db: Path, provider: ScriptedProvider) -> None:
    """The relation of a fact that ended under another predicate ends with it."""
    works = {"subject": "user", "predicate": "works_at", "object": "Acme", "quote": "I work at Acme", "message": 1}
    provider.script_structured(
        answer(
            fact("Kim works at Acme.", "I work at Acme", predicate="works_at", object="Acme"),
            entities=[{"name": "Acme", "type": "organisation", "aliases": []}],
            relations=[works],
        ),
        answer(fact("Kim has no job.", "I was laid off", predicate="employment", object="no job", replaces=1)),
    )
    async with serve_here(db, provider, **QUICK) as api:
        ada = await api.make_staff()
        await tell(api, provider, ada, "I work at Acme.")
        assert len((await api.get(f"/staff/{ada}/graph"))["edges"]) == 1
        await tell(api, provider, ada, "I was laid off.")
        assert (await api.get(f"/staff/{ada}/graph"))["edges"] == []


@pytest.mark.parametrize(
    "again",
    [
        fact("Kim's home is in Oslo.", "my home is in Oslo", predicate="home_town"),
        fact("Kim resides in Oslo.", "I reside in Oslo", predicate="resides_in"),
    ],
)
async def test_a_deleted_fact_is_known_by_its_meaning(db: Path, provider: ScriptedProvider, again: Any) -> None:
    """In other words and under another predicate it stays deleted; what is something else is learned."""
    other = fact("Kim plays the cello.", "I play the cello", predicate="plays", object="the cello")
    provider.script_structured(answer(fact("Kim lives in Oslo.", "I live in Oslo")), answer(again, other))
    async with serve_here(db, provider, **QUICK) as api:
        ada = await api.make_staff()
        await tell(api, provider, ada, "I live in Oslo.")
        [learned] = await list_facts(api, ada)
        await api.delete(f"/staff/{ada}/memories/{learned['id']}")
        await tell(api, provider, ada, f"Well, {again['quote']}, and I play the cello.")
        assert current(await list_facts(api, ada)) == {"Kim plays the cello."}


async def test_the_important_facts_are_shown_in_any_language(db: Path, provider: ScriptedProvider) -> None:
    """An important fact that shares no word with a message is shown to the extractor, before many trifles."""
    facts = [fact("Kim lives in Oslo.", "I live in Oslo", importance=0.8)]
    facts += [
        fact(f"Kim bought tile {n}.", "tiles", predicate=f"bought_{n}", object=f"tile {n}", importance=0.2)
        for n in range(50)
    ]
    provider.script_structured(answer(*facts), answer())
    async with serve_here(db, provider, **QUICK) as api:
        ada = await api.make_staff()
        await tell(api, provider, ada, "I live in Oslo and bought tiles.")
        await tell(api, provider, ada, "先週、大阪に引っ越しました。")
        asked = [request.said for request in provider.requests if request.schema]
        assert "Kim lives in Oslo." in asked[-1]


async def test_a_long_message_is_learned_from_to_its_end(db: Path, provider: ScriptedProvider) -> None:
    """It is asked about in parts; facts of every part are saved, and the next message comes after it."""
    filler = "The weather was fine and nothing else happened on that day. " * 900
    text = f"My cat is called Pixel. {filler} My dog is called Rex."
    cat = fact("Kim has a cat called Pixel.", "My cat is called Pixel", predicate="has_cat", object="Pixel")
    dog = fact("Kim has a dog called Rex.", "My dog is called Rex", predicate="has_dog", object="Rex")
    provider.script_structured(answer(cat), answer(dog), answer())
    async with serve_here(db, provider, **QUICK) as api:
        ada = await api.make_staff(context_budget_tokens=100_000)
        await tell(api, provider, ada, text)
        assert current(await list_facts(api, ada)) == {cat["text"], dog["text"]}
