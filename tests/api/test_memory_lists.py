"""What is remembered, as those look at it who want to see it: filtered, counted, searched, corrected."""

from pathlib import Path
from typing import Any

import pytest

from tests.memory.test_erasing import WORD, told
from tests.tools.extractions import list_facts
from tests.tools.provider import ScriptedProvider
from tests.tools.server import Api

pytestmark = pytest.mark.anyio


async def list_texts(api: Api, ada: str, **filter: str) -> list[str]:
    return [memory["text"] for memory in await api.get(f"/staff/{ada}/memories", params=filter)]


async def test_what_was_forgotten_is_found_by_its_words(api: Api, ada: str) -> None:
    """Tombstones are out of every recall; a query among them finds words in any script, whatever their case."""
    for text in ("Kim likes tea.", "Ким живёт в ОСЛО.", "Kim owns 100% of it."):
        memory = await api.post(f"/staff/{ada}/memories", {"text": text}, 201)
        await api.delete(f"/staff/{ada}/memories/{memory['id']}")
    assert await list_texts(api, ada, deleted="true", query="осло ким") == ["Ким живёт в ОСЛО."]
    assert await list_texts(api, ada, deleted="true", query="100%") == ["Kim owns 100% of it."]
    assert await list_texts(api, ada, deleted="true", query="_") == []
    overview = await api.get(f"/staff/{ada}/memories/overview")
    assert overview == {"facts": 0, "messages": 0, "pinned": 0, "forgotten": 3, "groups": []}


async def test_facts_are_counted_and_listed_by_what_they_are_about(db: Path, provider: ScriptedProvider) -> None:
    """The overview counts what holds now; a group of it is listed by its subject and category."""
    async with told(db, provider) as (api, ada, _, _):
        [fact] = await list_facts(api, ada)
        group = {"subject": fact["subject"], "category": fact["category"]}
        added = await api.post(f"/staff/{ada}/memories", {"text": "Kim lives in Oslo."}, 201)
        await api.patch(f"/staff/{ada}/memories/{added['id']}", {"text": "Kim lives in Bergen.", "pinned": True})
        overview = await api.get(f"/staff/{ada}/memories/overview")
        assert (overview["facts"], overview["pinned"], overview["forgotten"]) == (2, 1, 0)
        assert {**group, "count": 1} in overview["groups"]
        assert {"subject": "", "category": "", "count": 1} in overview["groups"]
        assert await list_texts(api, ada, kind="fact", **group) == [fact["text"]]
        assert await list_texts(api, ada, kind="fact", current="true", subject="") == ["Kim lives in Bergen."]
        assert await list_texts(api, ada, pinned="true", current="true") == ["Kim lives in Bergen."]
        here = await list_texts(api, ada, kind="fact", conversation_id=fact["conversation_id"])
        assert here == [fact["text"]]
        assert overview["messages"] == len(await list_texts(api, ada, kind="episode"))


async def test_pinned_ones_come_first_in_pages(api: Api, ada: str) -> None:
    """Page by page, each once: the pinned ones, then the others, newest first."""
    made = await api.post(f"/staff/{ada}/memories", [{"text": f"Number {n}."} for n in range(7)], 201)
    for n in (2, 0):
        await api.patch(f"/staff/{ada}/memories/{made[n]['id']}", {"pinned": True})
    seen: list[str] = []
    path = f"{api.url}/api/v1/staff/{ada}/memories?limit=2&pinned_first=true"
    while path:
        response = await api.http.get(path)
        seen += [memory["text"] for memory in response.json()]
        path = api.url + response.links["next"]["url"] if "next" in response.links else ""
    assert seen == [f"Number {n}." for n in (2, 0, 6, 5, 4, 3, 1)]


async def test_a_correction_keeps_its_source_and_the_graph_follows_it(db: Path, provider: ScriptedProvider) -> None:
    """The corrected fact still names the message and the words that it came from; another object is in the graph."""
    async with told(db, provider) as (api, ada, _, _):
        [fact] = await list_facts(api, ada)
        text = fact["text"].replace(WORD, "Pegasus")
        assert text != fact["text"]
        corrected = await api.patch(f"/staff/{ada}/memories/{fact['id']}", {"text": text})
        same: list[Any] = [corrected[name] for name in ("source_message_id", "quote", "subject", "predicate")]
        assert same == [fact[name] for name in ("source_message_id", "quote", "subject", "predicate")]
        assert corrected["object"] == "Pegasus"
        whole = await api.get(f"/staff/{ada}/memories/{corrected['id']}")
        assert whole["source_message"]["id"] == fact["source_message_id"]
        graph = await api.get(f"/staff/{ada}/graph")
        names = {node["id"]: node["name"] for node in graph["nodes"]}
        assert [names[edge["target"]] for edge in graph["edges"]] == ["Pegasus"]
