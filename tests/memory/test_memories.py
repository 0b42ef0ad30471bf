"""Memories over HTTP: told, listed, searched, corrected, forgotten, brought back; nothing left where nothing may be."""

from typing import Any

import pytest

from tests.tools.provider import ScriptedProvider
from tests.tools.server import Api

pytestmark = pytest.mark.anyio


async def tell(api: Api, ada: str, text: str, **fields: Any) -> Any:
    return await api.post(f"/staff/{ada}/memories", {"text": text, **fields}, 201)


async def search(api: Api, ada: str, query: str, **options: Any) -> list[Any]:
    found: list[Any] = await api.get(f"/staff/{ada}/memories", params={"query": query, **options})
    return found


async def test_a_told_memory_is_recalled_at_once(api: Api, ada: str) -> None:
    """POST answers 201 with the memory, and the next search finds it, scored."""
    told = await tell(api, ada, "Kari plays the cello on Thursdays.")
    assert told["kind"] == "fact"
    found = await search(api, ada, "Who plays the cello?")
    assert found[0]["id"] == told["id"]
    assert found[0]["score"] > 0


async def test_a_list_is_told_in_order_and_all_or_nothing(api: Api, ada: str) -> None:
    """A list answers with a list; one wrong entry refuses the whole."""
    made = await api.post(f"/staff/{ada}/memories", [{"text": f"Number {n}."} for n in range(5)], 201)
    assert [memory["text"] for memory in made] == [f"Number {n}." for n in range(5)]
    problem = await api.post(f"/staff/{ada}/memories", [{"text": "fine"}, {"text": " "}], 422)
    assert problem["errors"]
    assert len(await api.get(f"/staff/{ada}/memories")) == 5


async def test_a_message_can_be_recalled_as_soon_as_it_is_saved(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """An episode is made in the transaction that saves the message, so that even a run under way finds it."""
    gate = provider.hold(["Not", "ed."])
    async with api.stream(ada, "The boiler code is 4711-zebra.") as stream_reader:
        gate.release()
        await stream_reader.token()
        found = await search(api, ada, "boiler code")
        assert found[0]["kind"] == "episode"
        assert found[0]["source_message_id"] == stream_reader.response.headers["x-user-message-id"]
        gate.open()
        await stream_reader.rest()


async def test_listing_is_newest_first_in_pages(api: Api, ada: str) -> None:
    """Without a query: newest first, with a Link to the next page, each memory once."""
    for n in range(7):
        await tell(api, ada, f"Note {n}.", occurred_at=f"2026-01-0{n + 1}T00:00:00Z")
    seen, path = [], f"{api.url}/api/v1/staff/{ada}/memories?limit=3"
    while path:
        response = await api.http.get(path)
        seen += [memory["text"] for memory in response.json()]
        path = api.url + response.links["next"]["url"] if "next" in response.links else ""
    assert seen == [f"Note {n}." for n in reversed(range(7))]


async def test_another_text_supersedes_and_keeps_the_history(api: Api, ada: str) -> None:
    """PATCH makes a new memory; the old one is closed, is in the history, and is not built into replies."""
    old = await tell(api, ada, "Kim lives in Oslo.")
    new = await api.get(f"/staff/{ada}/memories")
    response = await api.http.patch(f"/staff/{ada}/memories/{old['id']}", json={"text": "Kim lives in Bergen."})
    new = response.json()
    assert (response.status_code, new["text"]) == (200, "Kim lives in Bergen.")
    shown = await api.get(f"/staff/{ada}/memories/{new['id']}")
    assert [form["text"] for form in shown["history"]] == ["Kim lives in Oslo.", "Kim lives in Bergen."]
    assert shown["history"][0]["superseded_by"] == new["id"]
    assert shown["history"][0]["valid_to"] is not None
    record = await api.post(f"/staff/{ada}/context", {"content": "Where does Kim live?"})
    injected = [
        item["text"] for section in record["sections"] for item in section["items"] if section["name"] == "memories"
    ]
    assert injected == ["Kim lives in Bergen."]
    again = await api.http.patch(f"/staff/{ada}/memories/{old['id']}", json={"text": "x"})
    assert again.status_code == 409


async def test_pinning_changes_in_place(api: Api, ada: str) -> None:
    """pinned and importance are no new statement: the id stays."""
    told = await tell(api, ada, "Kim is allergic to nuts.")
    response = await api.http.patch(f"/staff/{ada}/memories/{told['id']}", json={"pinned": True, "importance": 0.9})
    changed = response.json()
    assert (changed["id"], changed["pinned"], changed["importance"]) == (told["id"], True, 0.9)


async def test_a_deleted_memory_can_be_restored(api: Api, ada: str) -> None:
    """DELETE takes it out of every search and keeps a tombstone; restore brings it back whole."""
    told = await tell(api, ada, "Kim's locker is number 88.")
    path = f"/staff/{ada}/memories/{told['id']}"
    assert (await api.http.delete(path)).status_code == 204
    assert (await api.http.delete(path)).status_code == 204
    assert await search(api, ada, "locker number") == []
    assert await api.get(f"/staff/{ada}/memories") == []
    assert [m["id"] for m in await api.get(f"/staff/{ada}/memories", params={"deleted": "true"})] == [told["id"]]
    restored = await api.post(f"{path}/restore")
    assert restored["deleted_at"] is None
    assert (await search(api, ada, "locker number"))[0]["id"] == told["id"]


async def test_restoring_a_superseded_memory_makes_it_current(api: Api, ada: str) -> None:
    """Restore on the old form closes the one that took its place."""
    old = await tell(api, ada, "The meeting is on Monday.")
    new = (
        await api.http.patch(f"/staff/{ada}/memories/{old['id']}", json={"text": "The meeting is on Friday."})
    ).json()
    restored = await api.post(f"/staff/{ada}/memories/{old['id']}/restore")
    assert (restored["valid_to"], restored["superseded_by"]) == (None, None)
    assert (await api.get(f"/staff/{ada}/memories/{new['id']}"))["valid_to"] is not None


async def test_of_a_chain_exactly_one_form_is_current(api: Api, ada: str) -> None:
    """Restoring any form closes the one that was current, back and forth; deleting and restoring changes neither."""
    forms = [await tell(api, ada, "The meeting is on Monday.")]
    for day in ("Tuesday", "Friday"):
        forms.append(await api.patch(f"/staff/{ada}/memories/{forms[-1]['id']}", {"text": f"The meeting is on {day}."}))
    for n in (0, 2, 1, 0):
        await api.post(f"/staff/{ada}/memories/{forms[n]['id']}/restore")
        assert await list_current(api, ada) == [forms[n]["text"]]
    await api.delete(f"/staff/{ada}/memories/{forms[1]['id']}")
    await api.post(f"/staff/{ada}/memories/{forms[1]['id']}/restore")
    assert await list_current(api, ada) == [forms[0]["text"]]
    shown = await api.get(f"/staff/{ada}/memories/{forms[0]['id']}")
    assert [form["id"] for form in shown["history"]] == [form["id"] for form in forms]


async def list_current(api: Api, ada: str) -> list[str]:
    return [m["text"] for m in await api.get(f"/staff/{ada}/memories") if m["valid_to"] is None]


@pytest.mark.parametrize("query", ['"', "foo-bar", "C++", "*", "NEAR(", "a AND", "(", "😀", "' OR 1=1 --", "\x00", " "])
async def test_any_text_is_a_query(api: Api, ada: str, query: str) -> None:
    """Nothing that a user types is query syntax."""
    await tell(api, ada, "foo bar C++ a")
    assert isinstance(await search(api, ada, query), list)


async def test_memory_can_be_switched_off(api: Api, provider: ScriptedProvider) -> None:
    """With memory_enabled false nothing is kept and nothing recalled."""
    staff_id = await api.make_staff(memory_enabled=False)
    await api.ask(staff_id, "My locker is number 88.")
    assert await api.get(f"/staff/{staff_id}/memories") == []
    record = await api.post(f"/staff/{staff_id}/context", {"content": "What is my locker's number?"})
    assert [s["items"] for s in record["sections"] if s["name"] == "memories"] == [[]]


async def test_a_long_message_is_recalled_by_any_of_its_parts(api: Api) -> None:
    """A message of many paragraphs becomes several episodes, each small enough to be recalled whole."""
    ada = await api.make_staff(context_budget_tokens=30_000)
    filler = "\n\n".join(f"Paragraph {n} is about the weather in town {n}. " + "It rained. " * 30 for n in range(20))
    await api.ask(ada, f"{filler}\n\nThe vault opens with marmalade.\n\n{filler}")
    best = (await search(api, ada, "What opens the vault?", limit=1))[0]
    assert "marmalade" in best["text"]
    assert len(best["text"]) <= 1500
