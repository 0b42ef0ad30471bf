"""Erasing and importing what is large: seen by nobody in part, and in steps that let others in."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from staffstream.background import imports
from staffstream.background.imports import cut_chunks
from staffstream.background.purge import Purger
from staffstream.storage import hidden_scopes, memories, memory_lists
from staffstream.storage.messages import ImportedMessage
from tests.tools.provider import ScriptedProvider
from tests.tools.server import Api, serve_here
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio

WORD = "xylophone"


class Held:
    """Purging that waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        purge: Callable[[Purger, Any], Awaitable[None]] = Purger._purge_scope

        async def wait(purger: Purger, scope: Any) -> None:
            self.begun.set()
            await self.go_on.wait()
            await purge(purger, scope)

        monkeypatch.setattr(Purger, "_purge_scope", wait)


async def fill(api: Api, staff: str, count: int = 60) -> str:
    """A conversation with so many messages, and a memory beside it; its id."""
    message = {"message_type": "user", "created_at": "2026-01-01T00:00:00Z"}
    body = {"messages": [message | {"content": f"My {WORD} number {n} is blue."} for n in range(count)]}
    return str((await api.post(f"/staff/{staff}/conversations", body, 201))["id"])


async def count_rows(api: Api) -> dict[str, int]:
    tables = ("scopes", "conversations", "messages", "memories", "memory_vectors")
    return await api.app.state.services.database.read(
        lambda conn: {name: conn.execute(f"SELECT count(*) AS n FROM {name}").fetchone()["n"] for name in tables}
    )


async def is_anything_seen(api: Api, staff: str, conversation: str) -> bool:
    """By any call that could show it."""
    listed = await api.get(f"/staff/{staff}/memories", params={"limit": 200})
    found = await api.get(f"/staff/{staff}/memories", params={"query": f"Which {WORD} is blue?"})
    named = [each["id"] for each in await api.get(f"/staff/{staff}/conversations")]
    answers = [
        await api.http.get(f"/staff/{staff}/conversations/{conversation}"),
        await api.http.get(f"/staff/{staff}/messages", params={"conversation_id": conversation}),
    ]
    context = (await api.http.post(f"/staff/{staff}/context", json={"content": "What is blue?"})).text
    export = (await api.http.get("/me/export")).text
    seen = [WORD in str(listed), WORD in str(found), conversation in named, WORD in context, WORD in export]
    return any(seen) or any(answer.status_code != 404 for answer in answers)


async def test_an_erased_conversation_is_gone_at_once_for_everybody(
    db: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is purged, which waits here; others are served meanwhile, and in the end nothing is left."""
    async with serve_here(db, provider) as api:
        staff = await api.make_staff()
        await api.post(f"/staff/{staff}/memories", {"text": "Kim plays chess."}, 201)
        before = await count_rows(api)
        conversation = await fill(api, staff)
        assert await is_anything_seen(api, staff, conversation)
        held = Held(monkeypatch)
        erasing = asyncio.create_task(api.http.delete(f"/staff/{staff}/conversations/{conversation}"))
        await held.begun.wait()
        assert not await is_anything_seen(api, staff, conversation)
        assert (await api.ask(staff, "Hello")).status == 200
        assert (await count_rows(api))["memories"] > 60
        held.go_on.set()
        assert (await erasing).status_code == 204
        assert not await is_anything_seen(api, staff, conversation)
        after = await count_rows(api)
        assert after["messages"] == 2
        assert after["memories"] == before["memories"] + 2
        assert after["memory_vectors"] == before["memory_vectors"] + 2
        assert after["scopes"] == 1


async def test_an_erased_staff_member_and_an_erased_user_are_gone_at_once(
    db: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for all that they have."""
    async with serve_here(db, provider) as api:
        for path in ("/staff/{}", "/me"):
            monkeypatch.undo()
            staff = await api.make_staff()
            conversation = await fill(api, staff)
            held = Held(monkeypatch)
            erasing = asyncio.create_task(api.http.delete(path.format(staff)))
            await held.begun.wait()
            if path == "/me":
                assert not await is_anything_seen(api, staff, conversation)
            else:
                assert (await api.http.get(f"/staff/{staff}")).status_code == 404
                assert (await api.http.get(f"/staff/{staff}/messages")).status_code == 404
                assert (await api.http.post(f"/staff/{staff}/messages", json={"content": "Hi"})).status_code == 404
                assert await api.get("/staff") == []
            held.go_on.set()
            assert (await erasing).status_code in (200, 204)
            assert set((await count_rows(api)).values()) == {0}


async def test_what_a_crash_leaves_is_purged_by_the_next_start(db: Path, provider: ScriptedProvider) -> None:
    """Hidden and not purged, or imported in part."""
    async with serve_here(db, provider) as api:
        staff = await api.make_staff()
        conversation = await fill(api, staff, 5)
        database = api.app.state.services.database
        scope = await database.read(
            lambda conn: hidden_scopes.Scope(conn.execute("SELECT id FROM scopes").fetchone()["id"], staff, "local")
        )
        await database.write(lambda tx: hidden_scopes.hide_conversation(tx, scope, conversation, {WORD}))

        def import_in_part(tx: Any) -> None:
            hidden = hidden_scopes.open_import(tx, staff)
            made = memories.add_memory(tx, scope, memories.NewMemory(text=WORD), None)
            hidden_scopes.hide_memories(tx, [made.id], hidden)

        await database.write(import_in_part)
    async with serve_here(db, provider) as api:

        async def is_purged() -> bool:
            rows = await count_rows(api)
            return (rows["scopes"], rows["messages"], rows["memories"], rows["memory_vectors"]) == (1, 0, 0, 0)

        await until(is_purged)


async def test_nobody_sees_a_part_of_an_import(
    db: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at after each of its transactions; what breaks it off leaves nothing."""
    monkeypatch.setattr(imports, "CHUNK", 10)
    async with serve_here(db, provider) as api:
        staff = await api.make_staff()
        importer = api.app.state.services.importer
        add, seen = importer._add, []

        def look(tx: Any, scope: Any, hidden: Any, conversation: Any, part: Any) -> Any:
            made = add(tx, scope, hidden, conversation, part)
            seen.append((memory_lists.list_memories(tx, scope, limit=9), conversation.id))
            if len(seen) == 9:
                raise RuntimeError("broken off")
            return made

        monkeypatch.setattr(importer, "_add", look)
        conversation = await fill(api, staff, 60)
        assert [listed for listed, _ in seen] == [[]] * 6
        assert await is_anything_seen(api, staff, conversation)
        before = await count_rows(api)
        message = {"message_type": "user", "content": "Hi", "created_at": "2026-01-01T00:00:00Z"}
        await api.post(f"/staff/{staff}/conversations", {"messages": [message] * 60}, 500)
        assert await count_rows(api) == before


test_nobody_sees_a_part_of_an_import = pytest.mark.logs_errors(test_nobody_sees_a_part_of_an_import)


def test_an_answer_stays_with_its_question() -> None:
    """A part ends before a question, or before an answer that has none."""
    kinds = ["user", "assistant"] * 40 + ["assistant"] * 60
    past = [ImportedMessage(kind, "x", "2026-01-01T00:00:00.000Z") for kind in kinds]  # type: ignore[arg-type]
    parts = list(cut_chunks(past))
    assert [message for part in parts for message in part] == past
    assert max(map(len, parts)) <= imports.CHUNK + 1
    assert all(part[0].message_type == "user" for part in parts[:3])
    long = [ImportedMessage("user", "x" * 60_000, "2026-01-01T00:00:00.000Z")] * 4
    assert [len(part) for part in cut_chunks(long)] == [1, 1, 1, 1]
