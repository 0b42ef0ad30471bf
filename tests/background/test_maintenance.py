"""What the server does by the clock: erasing what has grown old, keeping the word index in few parts."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from staffstream.background.maintenance import WordMerger
from staffstream.domain import Scope, now_text
from staffstream.storage import memories, meta, staff
from staffstream.storage.database import Connection
from staffstream.storage.memories import NewMemory
from staffstream.storage.sqlite.backups import check_backup
from tests.tools.databases import connect, open_database, transact
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S
from tests.tools.server import Api, serve_here
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600.0


def age(db: Path, conversation_id: str, days: float) -> None:
    """As if all of it had happened so long ago."""
    then = now_text(-days * DAY_S)
    with contextlib.closing(connect(db)) as connection:
        connection.execute("UPDATE conversations SET updated_at = ? WHERE id = ?", (then, conversation_id))
        connection.execute("UPDATE runs SET finished_at = ? WHERE conversation_id = ?", (then, conversation_id))


async def talk(api: Api, staff_id: str, content: str) -> tuple[str, str]:
    """The ids of a new conversation and of the reply in it."""
    conversation = (await api.post(f"/staff/{staff_id}/conversations", {}, 201))["id"]
    received = await api.ask(staff_id, content, conversation_id=conversation)
    return conversation, received.run_id


async def wait_for(db: Path, statement: str, value: object) -> None:
    """Return once a statement gives a value."""
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.closing(connect(db)) as connection:
            while connection.execute(statement).fetchone()[0] != value:
                await asyncio.sleep(0.01)


async def test_conversations_past_their_age_are_erased_with_what_came_from_them(
    db: Path, provider: ScriptedProvider
) -> None:
    """What is used, and what was told outside of conversations, stays; the search finds nothing of the rest."""
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        old, _ = await talk(api, ada, "My sister Marit sails to Bodø.")
        young, _ = await talk(api, ada, "My brother Odd skis to Voss.")
        await api.post(f"/staff/{ada}/memories", {"text": "Kim has a dog."}, 201)
        age(db, old, days=31)
        age(db, young, days=29)
    async with serve_here(db, provider, retention_days=30) as api:
        await wait_for(db, "SELECT count(*) FROM conversations", 1)
        assert [item["id"] for item in await api.get(f"/staff/{ada}/conversations")] == [young]
        texts = str(await api.get(f"/staff/{ada}/memories", params={"query": "Marit Odd dog", "limit": 50}))
        assert "Odd" in texts
        assert "dog" in texts
        assert "Marit" not in texts
    with contextlib.closing(connect(db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    check_backup(db)


async def test_nothing_is_erased_by_a_clock_that_has_jumped(
    db: Path, provider: ScriptedProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so and waits a day, over restarts too; by then a person has put the clock right, or it was right."""
    async with serve_here(db, provider, retention_days=30) as api:
        ada = await api.make_staff()
        old, _ = await talk(api, ada, "My sister Marit sails to Bodø.")
    age(db, old, days=31)
    with contextlib.closing(connect(db)) as connection, transact(connection):
        meta.set_note(connection, "age_checked_at", now_text(-60 * 86400))
    for _ in range(2):
        caplog.clear()
        async with serve_here(db, provider, retention_days=30) as api:
            await until_logged(caplog, "nothing is erased by age for a day")
            assert [item["id"] for item in await api.get(f"/staff/{ada}/conversations")] == [old]


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    async def is_logged() -> bool:
        return text in caplog.text

    await until(is_logged)


async def test_a_conversation_with_an_active_run_is_not_erased(db: Path, provider: ScriptedProvider) -> None:
    """However old: its reply is still to be saved."""
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        done, _ = await talk(api, ada, "done")
        busy = (await api.post(f"/staff/{ada}/conversations", {}, 201))["id"]
        gate = provider.hold(["one"])
        async with api.stream(ada, "busy", conversation_id=busy):
            await provider.arrived(2)
            age(db, done, days=400)
            with contextlib.closing(connect(db)) as connection:
                connection.execute("UPDATE conversations SET updated_at = '2020-01-01T00:00:00.000Z'")
            async with serve_here(db, provider, retention_days=30):
                await wait_for(db, "SELECT count(*) FROM conversations", 1)
            gate.open()
        assert [item["id"] for item in await api.get(f"/staff/{ada}/conversations")] == [busy]


async def test_without_the_setting_everything_is_kept(db: Path, provider: ScriptedProvider) -> None:
    """Nobody loses a conversation by default; only records of contexts have an age."""
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        old, reply = await talk(api, ada, "hello")
        _, later = await talk(api, ada, "hello again")
        age(db, old, days=4000)
    async with serve_here(db, provider) as api:
        await wait_for(db, "SELECT count(*) FROM run_contexts", 1)
        assert len(await api.get(f"/staff/{ada}/conversations")) == 2
        assert (await api.get(f"/staff/{ada}/messages/{reply}"))["content"]
        await api.get(f"/staff/{ada}/messages/{reply}/context", 404)
        await api.get(f"/staff/{ada}/messages/{later}/context")


def count_parts(conn: Connection) -> int:
    return int(conn.execute("SELECT count(DISTINCT segid) AS n FROM memory_words_idx").fetchone()["n"])


async def test_the_word_index_is_kept_in_few_parts(db: Path) -> None:
    """What many small transactions left is put together, the same is found as before, and then there is nothing to do
    until something changes.
    """

    def meet(tx: Connection) -> Scope:
        return staff.ensure_scope(tx, staff.create_staff(tx, {"name": "Ada"}).id, "kim")

    async with open_database(db) as database:
        scope = await database.write(meet)
        for number in range(40):
            new = NewMemory(text=f"Boat {number} lies in harbour {number % 7}.")
            await database.write(lambda tx, new=new: memories.add_memory(tx, scope, new, None))
        asked = ["boat", "harbour", "5"]
        before = await database.read(lambda conn: conn.search.find_words(conn, scope, asked, most=100))
        parts = await database.read(count_parts)
        merger = WordMerger(database)
        await merger.merge()
        after = await database.read(lambda conn: conn.search.find_words(conn, scope, asked, most=100))
        assert [None if found is None else found.tolist() for found in after] == [
            None if found is None else found.tolist() for found in before
        ]
        assert await database.read(count_parts) < min(parts, 6)
        await database.write(
            lambda tx: tx.execute("INSERT INTO memory_words (memory_words) VALUES ('integrity-check')")
        )
        commits: list[int] = []
        database.on_commit = lambda count, seconds: commits.append(count)
        await merger.merge()
        assert commits == []
