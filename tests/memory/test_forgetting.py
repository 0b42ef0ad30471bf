"""Forgetting for good: a memory with its history, its source and its summary; a user's export and end. After each, no
byte is left in the file or its log, while the server runs.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.memory.test_erasing import WORD, find_word, told
from tests.tools.databases import connect
from tests.tools.extractions import count_jobs, list_facts
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Reply, json_reply
from tests.tools.server import Api, make_keys, serve_here
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio


def count_bytes(db: Path, word: str = WORD) -> dict[str, int]:
    """How often the word stands in the file and in its log, whatever its case, as they lie on the disk."""
    files = {name: db.with_name(db.name + name) for name in ("", "-wal")}
    found = {name: path.read_bytes().lower().count(word.encode()) for name, path in files.items() if path.exists()}
    return {name: count for name, count in found.items() if count}


async def erase(api: Api, ada: str, memory_id: str, **query: str) -> Any:
    answer = await api.http.delete(f"/staff/{ada}/memories/{memory_id}", params={"erase": "true"} | query)
    assert answer.status_code == 204, answer.text
    return answer


@pytest.mark.parametrize("change", [False, True], ids=["told", "corrected"])
async def test_a_told_memory_is_erased_with_its_history(api: Api, ada: str, db: Path, change: bool) -> None:
    """Whether it was corrected in between or not, and by the id of any of its forms."""
    memory = await api.post(f"/staff/{ada}/memories", {"text": f"My boat is called {WORD}."}, 201)
    if change:
        await api.patch(f"/staff/{ada}/memories/{memory['id']}", {"text": f"My boat was called {WORD}-2."})
    assert count_bytes(db)
    await erase(api, ada, memory["id"])
    assert await api.get(f"/staff/{ada}/memories") == []
    assert count_bytes(db) == {}


async def test_a_learned_memory_is_erased_with_its_source(db: Path, provider: ScriptedProvider) -> None:
    """The fact, the message that said it with its reply, its place in the graph and in records of contexts."""
    async with told(db, provider) as (api, ada, _, asked):
        [fact] = await list_facts(api, ada)
        other = [m for m in await api.get(f"/staff/{ada}/memories") if m["source_message_id"] == asked.run_id]
        await erase(api, ada, fact["id"], with_source="true")
        for memory in other:
            await erase(api, ada, memory["id"], with_source="true")
        assert find_word(db, WORD) == []
        assert count_bytes(db) == {}


async def test_forgetting_offers_the_source(db: Path, provider: ScriptedProvider) -> None:
    """A plain DELETE keeps the message and links to it; the link's message can be erased then."""
    async with told(db, provider) as (api, ada, received, _):
        [fact] = await list_facts(api, ada)
        answer = await api.http.delete(f"/staff/{ada}/memories/{fact['id']}")
        path = f"/api/v1/staff/{ada}/messages/{received.headers['x-user-message-id']}"
        assert answer.headers["link"] == f'<{path}>; rel="source"'
        await erase(api, ada, fact["id"])
        assert await list_facts(api, ada) == []
        assert (await api.get(f"/staff/{ada}/messages/{received.headers['x-user-message-id']}"))["content"]


async def test_forgetting_drops_the_summary(db: Path, provider: ScriptedProvider) -> None:
    """The one that covers the message, and the next one is written without it."""
    long = "This is a sentence of some length about the plans for the house by the sea. " * 4
    provider.default = Reply(["Noted. ", long], usage={"output_tokens": 5})
    provider.script_structured(*[json_reply({"summary": f"They spoke of {WORD}."})] * 8)
    async with serve_here(db, provider, extract_every_messages=1000, extract_idle_s=3600) as api:
        ada = await api.make_staff(context_budget_tokens=1500)
        await api.ask(ada, f"{WORD}. {long}")
        await talk_until_summed_up(api, ada, db, long)
        memories = await api.get(f"/staff/{ada}/memories", params={"limit": 200})
        [episode] = [memory for memory in memories if WORD in memory["text"]]
        await api.delete(f"/staff/{ada}/memories/{episode['id']}")
        assert find_summary(db) is None
        before = len(provider.requests)
        await talk_until_summed_up(api, ada, db, long)
        asked = [request.said for request in provider.requests[before:] if request.schema]
        assert asked
        assert all(WORD not in said for said in asked)


async def talk_until_summed_up(api: Api, ada: str, db: Path, text: str) -> None:
    for _ in range(12):
        await api.ask(ada, text)
        await until(lambda: count_jobs(api) == 0)
        if find_summary(db) is not None:
            return
    pytest.fail("no summary was written")


def find_summary(db: Path) -> str | None:
    with contextlib.closing(connect(db)) as connection:
        row = connection.execute("SELECT text FROM summaries").fetchone()
        return row["text"] if row else None


async def test_a_user_exports_everything(db: Path, provider: ScriptedProvider) -> None:
    """All their rows of all tables, one a line, with a head and an end; nothing secret."""
    async with told(db, provider) as (api, _ada, received, _):
        answer = await api.http.get("/me/export")
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert lines[0]["format"] == "staffstream-user-export"
        assert lines[-1] == {"end": True, "rows": len(lines) - 2}
        tables = {line["table"] for line in lines[1:-1]}
        assert tables >= {"staff", "conversations", "messages", "runs", "memories", "entities", "relations"}
        messages = [line["row"] for line in lines[1:-1] if line["table"] == "messages"]
        assert received.headers["x-user-message-id"] in {message["id"] for message in messages}
        assert "hash" not in answer.text.split('"table"', 1)[0]


async def test_a_user_is_erased_with_a_receipt(db: Path, provider: ScriptedProvider) -> None:
    """Everything of theirs is gone from the file, the staff member stays, and they can begin anew."""
    async with told(db, provider) as (api, ada, _, _asked):
        answer = await api.http.delete("/me")
        assert answer.status_code == 200
        receipt = answer.json()
        assert receipt["erased"]["conversations"] == 2
        assert receipt["erased"]["messages"] == 4
        assert receipt["erased"]["memories"] >= 5
        assert count_bytes(db) == {}
        assert await api.get(f"/staff/{ada}/memories") == []
        assert (await api.get(f"/staff/{ada}"))["id"] == ada
        await api.ask(ada, "Hello again.")
        assert len((await api.http.get("/me/export")).text.splitlines()) > 3


async def test_only_the_callers_own_is_exported_and_erased(db: Path, provider: ScriptedProvider) -> None:
    """Another user's conversations and memories stay."""
    keys = make_keys(db, kim="admin", lee="member")
    async with serve_here(db, provider, auth="keys") as api:
        api.http.headers.update(keys["kim"])
        ada = await api.make_staff()
        await api.post(f"/staff/{ada}/memories", {"text": f"Kim has {WORD}."}, 201)
        api.http.headers.update(keys["lee"])
        await api.post(f"/staff/{ada}/memories", {"text": "Lee has a kite."}, 201)
        assert WORD not in (await api.http.get("/me/export")).text
        assert (await api.http.delete("/me")).json()["erased"]["memories"] == 1
        assert await api.get(f"/staff/{ada}/memories") == []
        api.http.headers.update(keys["kim"])
        assert len(await api.get(f"/staff/{ada}/memories")) == 1
