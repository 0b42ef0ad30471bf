"""Erasing: what a user takes back is in no table, no index, no record and no byte of the file."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.tools.databases import connect
from tests.tools.extractions import QUICK, answer, fact, list_facts, wait_learned
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Reply
from tests.tools.server import serve_here

pytestmark = pytest.mark.anyio

WORD = "quetzalcoatl"
SAID = f"My boat is called {WORD} and lies in the harbour."


@contextlib.asynccontextmanager
async def told(db: Path, provider: ScriptedProvider) -> Any:
    """A server where one message told the word: learned from, recalled by a reply elsewhere, sent to a webhook."""
    provider.script_structured(
        answer(
            fact(f"Kim has a boat called {WORD}.", SAID, predicate="has_boat", object=WORD.title()),
            entities=[{"name": "The Gull", "type": "boat", "aliases": [WORD]}],
            relations=[
                {"subject": "user", "predicate": "has_boat", "object": WORD.title(), "quote": SAID, "message": 1}
            ],
        )
    )
    async with serve_here(db, provider, **QUICK) as api:
        ada = await api.make_staff(webhook_url="https://example.com/hook")
        provider.script(Reply(["A fine name: ", WORD, "."]))
        received = await api.ask(ada, SAID, key="told")
        await wait_learned(api, provider, 1)
        assert len(await list_facts(api, ada)) == 1
        other = await api.post(f"/staff/{ada}/conversations", {"title": "other"}, 201)
        asked = await api.ask(ada, "What is my boat called, which lies in the harbour?", conversation_id=other["id"])
        record = await api.get(f"/staff/{ada}/messages/{asked.run_id}/context")
        assert WORD in str(record).casefold()
        yield api, ada, received, asked


@pytest.mark.parametrize("what", ["message", "conversation", "staff"])
async def test_what_is_erased_leaves_no_words_behind(db: Path, provider: ScriptedProvider, what: str) -> None:
    """No table, index, name in the graph, delivery or record of another reply's context holds its words."""
    async with told(db, provider) as (api, ada, received, _):
        path = {
            "message": f"/staff/{ada}/messages/{received.headers['x-user-message-id']}",
            "conversation": f"/staff/{ada}/conversations/{received.headers['x-conversation-id']}",
            "staff": f"/staff/{ada}",
        }[what]
        await api.delete(path)
    assert find_word(db, WORD) == []
    assert WORD.encode() not in read_file(db).lower()


async def test_an_erased_reply_is_in_no_delivery(db: Path, provider: ScriptedProvider) -> None:
    """The webhook's stored body goes with the message that it told of; the question stays."""
    async with told(db, provider) as (api, ada, received, _):
        await api.delete(f"/staff/{ada}/messages/{received.run_id}")
        assert await api.said(ada) == [SAID]
        assert (await api.rejoin(ada, received.run_id)).text == ""
    assert "deliveries" not in find_word(db, WORD)


async def test_a_record_says_where_a_text_was_erased(db: Path, provider: ScriptedProvider) -> None:
    """The other reply's record still tells what went in, without the words."""
    async with told(db, provider) as (api, ada, received, asked):
        path = f"/staff/{ada}/messages/{asked.run_id}/context"
        before = await api.get(path)
        await api.delete(f"/staff/{ada}/messages/{received.headers['x-user-message-id']}")
        after = await api.get(path)
        assert [s["tokens"] for s in after["sections"]] == [s["tokens"] for s in before["sections"]]
        items = [item for section in after["sections"] for item in section["items"] if "score" in item]
        assert items
        assert {item["text"] for item in items} == {"(erased)"}


async def test_a_forgotten_memory_is_in_no_index_and_no_record(db: Path, provider: ScriptedProvider) -> None:
    """A tombstone keeps its text, to be restored with; nothing else does, and restoring brings all of it back."""
    async with told(db, provider) as (api, ada, _, asked):
        memories = await api.get(f"/staff/{ada}/memories")
        doomed = [memory for memory in memories if WORD in memory["text"]]
        for memory in doomed:
            await api.delete(f"/staff/{ada}/memories/{memory['id']}")
        assert WORD not in str(await api.get(f"/staff/{ada}/messages/{asked.run_id}/context"))
        assert set(find_word(db, WORD)) == {"memories", "messages", "deliveries"}
        for memory in doomed:
            await api.post(f"/staff/{ada}/memories/{memory['id']}/restore")
        assert WORD in str(await api.get(f"/staff/{ada}/messages/{asked.run_id}/context"))
        assert WORD in str(await api.get(f"/staff/{ada}/graph")).casefold()


async def test_erasing_leaves_the_names_that_others_still_say(db: Path, provider: ScriptedProvider) -> None:
    """A thing that another message names stays in the graph under that name."""
    async with told(db, provider) as (api, ada, received, _):
        await api.ask(ada, "I painted The Gull.")
        await wait_learned(api, provider, 2)
        graph_before = await api.get(f"/staff/{ada}/graph", params={"entity": WORD})
        assert graph_before["nodes"]
        await api.delete(f"/staff/{ada}/messages/{received.headers['x-user-message-id']}")
        assert (await api.get(f"/staff/{ada}/graph", params={"entity": WORD}))["nodes"] == []


async def test_erasing_the_newer_fact_makes_the_older_true_again_in_the_graph_too(
    db: Path, provider: ScriptedProvider
) -> None:
    """The home that was superseded by an erased message holds again, as a memory and as a relation."""
    provider.script_structured(
        answer(
            fact("Kim lives in Oslo.", "I live in Oslo"),
            relations=[
                {"subject": "user", "predicate": "lives_in", "object": "Oslo", "quote": "I live in Oslo", "message": 1}
            ],
        ),
        answer(fact("Kim lives in Bergen.", "I moved to Bergen", object="Bergen", replaces=1)),
    )
    async with serve_here(db, provider, **QUICK) as api:
        ada = await api.make_staff()
        await api.ask(ada, "I live in Oslo.")
        await wait_learned(api, provider, 1)
        moved = await api.ask(ada, "I moved to Bergen.")
        await wait_learned(api, provider, 2)
        assert (await api.get(f"/staff/{ada}/graph"))["edges"] == []
        await api.delete(f"/staff/{ada}/messages/{moved.headers['x-user-message-id']}")
        assert [edge["text"] for edge in (await api.get(f"/staff/{ada}/graph"))["edges"]] == ["user — lives in → Oslo"]


def find_word(db: Path, word: str) -> list[str]:
    """The tables that hold the word anywhere, compared without case; the word index by a search of its own."""
    found = []
    with contextlib.closing(connect(db)) as connection:
        tables = [row["name"] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for table in tables:
            if table == "memory_words":
                rows = connection.execute("SELECT rowid FROM memory_words WHERE memory_words MATCH ?", (f'"{word}"',))
                found += [table] * len(rows.fetchall())
                continue
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                found += [table for value in tuple(row) if word in _show(value)]
    return found


def _show(value: object) -> str:
    return value.decode("utf-8", "replace").casefold() if isinstance(value, bytes) else str(value).casefold()


def read_file(db: Path) -> bytes:
    """The file's bytes, free pages too, once all that was committed is in it."""
    with contextlib.closing(connect(db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return db.read_bytes()
