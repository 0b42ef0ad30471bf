"""Live events: what changes for each user, sent to every stream that the user has open.

The events of all users stand in one list of limited length; a stream holds the number of the last event that it has
sent. An event's id is `<process>:<number>`, so a client that comes back goes on where it was. After a restart, or when
what it missed is no longer in the list, it gets a `reset` instead and asks for everything again. Only changes that
this process makes are told.
"""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from staffstream.domain import Run, Scope, make_id, now_text
from staffstream.errors import StaffstreamError
from staffstream.storage import memories, staff
from staffstream.storage.database import Database
from staffstream.storage.jobs import Job
from staffstream.storage.memories import Memory
from staffstream.support import sse

log = logging.getLogger(__name__)

KEPT_EVENTS = 5000

EventType = Literal[
    "reset",
    "conversation.changed",
    "run.started",
    "run.ended",
    "learning.started",
    "learning.ended",
    "memory.learned",
    "memory.changed",
    "memory.forgotten",
]


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """One event for one user."""

    number: int
    user_id: str
    data: dict[str, Any]


class LiveEvents:
    """The events of one process."""

    def __init__(self, database: Database, *, list_active: Callable[[], Iterable[Run]]) -> None:
        self._database = database
        self._list_active = list_active
        self._process = make_id()
        self._events: deque[LiveEvent] = deque(maxlen=KEPT_EVENTS)
        self._last = 0
        self._changed: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._learning_since: dict[str, str] = {}
        self._closed = False

    def publish(self, scope: Scope, kind: EventType, **ids: str | None) -> None:
        """Tell the user of a scope what changed. Call it after the commit, on the event loop."""
        self._last += 1
        self._events.append(LiveEvent(self._last, scope.user_id, {"type": kind, "staff_id": scope.staff_id, **ids}))
        if changed := self._changed.pop(scope.user_id, None):
            changed.set()

    def publish_run(self, run: Run, kind: Literal["run.started", "run.ended"]) -> None:
        """Tell that a run has begun or ended."""
        self.publish(run.scope, kind, conversation_id=run.conversation_id, run_id=run.id)

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for changed in self._changed.values():
            changed.set()

    # ── listening ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def follow(
        self, user_id: str, last_event_id: str | None, *, heartbeat_s: float, push: object = None
    ) -> AsyncGenerator[bytes, None]:
        """The frames of a user's events after one, live. Without an event to go on from, a `reset` and the runs that
        are being made come first.
        """
        sent = self._find_place(last_event_id)
        if sent is None:
            sent = self._last
            yield self._encode(sent, {"type": "reset"})
            for run in self._list_active():
                if run.user_id == user_id:
                    started = {"conversation_id": run.conversation_id, "run_id": run.id}
                    yield self._encode(sent, {"type": "run.started", "staff_id": run.staff_id} | started)
        while not self._closed:
            changed = self._changed[user_id]
            if self._events and self._events[0].number > sent + 1:  # so slow that some are gone
                sent = self._last
                yield self._encode(sent, {"type": "reset"})
            for event in [event for event in reversed(self._events) if event.number > sent][::-1]:
                if event.user_id == user_id:
                    yield self._encode(event.number, event.data)
                sent = event.number
            if changed.is_set():
                continue
            try:
                async with asyncio.timeout(heartbeat_s):
                    await changed.wait()
            except TimeoutError:
                yield sse.PING

    def _find_place(self, last_event_id: str | None) -> int | None:
        """The number to go on after; None if that is not known, or what came since is not."""
        process, _, number = (last_event_id or "").rpartition(":")
        if process != self._process or not (number.isascii() and number.isdigit()) or len(number) > 15:
            return None
        oldest = self._events[0].number if self._events else self._last + 1
        return int(number) if oldest - 1 <= int(number) <= self._last else None

    def _encode(self, number: int, data: dict[str, Any]) -> bytes:
        return b"id: %s:%d\n%s" % (self._process.encode(), number, sse.encode_event(data))

    # ── learning ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def note_job(self, job: Job, state: Literal["started", "ended"]) -> None:
        """Tell that a conversation is being learned from, and at the end what was learned."""
        if job.kind != "extract":
            return
        with suppress(StaffstreamError):  # its staff member was erased meanwhile, or the disk is away
            scope = await self._database.read(lambda conn: staff.load_scope(conn, job.scope_id or 0))
            if state == "started":
                self._learning_since[job.id] = now_text()
                self.publish(scope, "learning.started", conversation_id=job.subject)
                return
            since = self._learning_since.pop(job.id, now_text())
            for memory in await self._database.read(
                lambda conn: memories.list_learned(conn, scope, job.subject, since=since)
            ):
                self.publish_memory(scope, memory.id, "memory.learned", memory)
            self.publish(scope, "learning.ended", conversation_id=job.subject)

    def publish_memory(
        self,
        scope: Scope,
        memory_id: str,
        kind: Literal["memory.learned", "memory.changed", "memory.forgotten"],
        memory: Memory | None = None,
    ) -> None:
        """Tell that a memory is new, has changed or is forgotten."""
        source = memory.source_message_id if memory else None
        conversation_id = memory.conversation_id if memory else None
        self.publish(scope, kind, memory_id=memory_id, source_message_id=source, conversation_id=conversation_id)
