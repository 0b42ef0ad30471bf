"""Live events tell each user, and nobody else, what changes, as it happens and after a gap."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import TypeAdapter

from staffstream.api.event_models import LiveEvent
from staffstream.domain import Scope
from tests.tools.server import Api

pytestmark = pytest.mark.anyio
Event = dict[str, Any]
EVENT: TypeAdapter[Any] = TypeAdapter(LiveEvent)


class Listener:
    """An open stream of live events; `events` grows, `last_id` is the id of the last one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.last_id = ""
        self._grown = asyncio.Condition()

    async def read(self, lines: AsyncIterator[str]) -> None:
        async for line in lines:
            if line.startswith("id: "):
                self.last_id = line[4:]
            if line.startswith("data: "):
                async with self._grown:
                    self.events.append(EVENT.validate_json(line[6:], extra="forbid"))
                    self._grown.notify_all()

    async def wait_for(self, kind: str) -> Event:
        """The first event of a kind."""
        async with asyncio.timeout(10), self._grown:
            while not (found := [event for event in self.events if event["type"] == kind]):
                await self._grown.wait()
            return found[0]


@contextlib.asynccontextmanager
async def listen(api: Api, last_event_id: str | None = None) -> AsyncIterator[Listener]:
    listener = Listener()
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    async with api.http.stream("GET", f"{api.url}/api/v1/events", headers=headers, timeout=30) as response:
        assert response.status_code == 200
        reading = asyncio.create_task(listener.read(response.aiter_lines()))
        try:
            yield listener
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading


async def test_a_reply_a_rename_and_a_memory_are_told(api: Api) -> None:
    """Each event names the staff member and what it is about."""
    ada = await api.make_staff()
    base = f"{api.url}/api/v1/staff/{ada}"
    async with listen(api) as listener:
        assert (await listener.wait_for("reset")) == {"type": "reset"}
        await api.ask(ada, "Hi")
        started = await listener.wait_for("run.started")
        ended = await listener.wait_for("run.ended")
        assert started["staff_id"] == ada
        assert started["run_id"] == ended["run_id"]
        await api.http.patch(f"{base}/conversations/{started['conversation_id']}", json={"title": "Greetings"})
        changed = await listener.wait_for("conversation.changed")
        assert changed["conversation_id"] == started["conversation_id"]
        memory = (await api.http.post(f"{base}/memories", json={"text": "Kim lives in Bergen."})).json()
        assert (await listener.wait_for("memory.learned"))["memory_id"] == memory["id"]
        await api.http.patch(f"{base}/memories/{memory['id']}", json={"pinned": True})
        assert (await listener.wait_for("memory.changed"))["memory_id"] == memory["id"]
        await api.http.delete(f"{base}/memories/{memory['id']}")
        assert (await listener.wait_for("memory.forgotten"))["memory_id"] == memory["id"]


async def test_a_client_that_comes_back_gets_what_it_missed(api: Api) -> None:
    """Events after the last one, without a reset; a strange or old id gets a reset."""
    ada = await api.make_staff()
    async with listen(api) as listener:
        await listener.wait_for("reset")
    await api.http.post(f"{api.url}/api/v1/staff/{ada}/memories", json={"text": "Kim lives in Bergen."})
    async with listen(api, listener.last_id) as again:
        await again.wait_for("memory.learned")
        assert again.events[0]["type"] == "memory.learned"
    for strange in ("nonsense", "0:1", f"{listener.last_id}9999"):
        async with listen(api, strange) as lost:
            await lost.wait_for("reset")
            assert lost.events[0]["type"] == "reset"


async def test_what_waits_is_counted_and_learned_from_when_asked(api: Api) -> None:
    """`learning` counts messages that nothing was learned from; asked to, the server learns from few of them too."""
    ada = await api.make_staff()
    await api.ask(ada, "I live in Bergen.")
    path = f"{api.url}/api/v1/staff/{ada}/learning"
    assert (await api.http.get(path)).json() == {"waiting_messages": 2}
    async with listen(api) as listener:
        await listener.wait_for("reset")
        assert (await api.http.post(path)).status_code == 202
        await listener.wait_for("learning.started")
        await listener.wait_for("learning.ended")
    assert (await api.http.get(path)).json() == {"waiting_messages": 0}


async def test_another_users_events_are_not_told(api: Api) -> None:
    """One process, two users: each stream has its own user's events alone."""
    events = api.app.state.services.events
    kim, lee = Scope(1, "ada", "kim"), Scope(2, "ada", "lee")
    frames = events.follow("kim", None, heartbeat_s=5)
    assert b"reset" in await anext(frames)
    events.publish(lee, "conversation.changed", conversation_id="of-lee")
    events.publish(kim, "conversation.changed", conversation_id="of-kim")
    assert b"of-kim" in await anext(frames)
    await frames.aclose()
