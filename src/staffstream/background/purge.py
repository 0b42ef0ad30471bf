"""Erasing what is large: hidden in one transaction, then purged in many small ones that let the others in.

A staff member with 100,000 memories takes minutes to take out of the indexes; in one transaction it would hold every
other commit as long. What is hidden is purged to its end also when its caller leaves, and by the next start after a
crash.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine

from staffstream.domain import Scope
from staffstream.storage import hidden_scopes, staff, user_data
from staffstream.storage.database import Connection, Database
from staffstream.support.rounds import run_round

log = logging.getLogger(__name__)

STEP_S = 0.05  # how long one transaction is to take
_FEWEST, _FIRST, _MOST = 5, 25, 500


class Purger:
    """Erases staff members and conversations. Use within `running`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._purging = asyncio.Lock()  # one at a time: half of the writer's time is for the others
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self, *, alone: bool) -> AsyncIterator[None]:
        """Go on with what an earlier process left. `alone` when no other process is on the database."""
        self._start(self._resume(imports=alone))
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def erase_staff(self, staff_id: str) -> None:
        """Erase a staff member with all that it holds of every user; returns when all is gone. Raises NotFound."""
        await self._database.write(lambda tx: hidden_scopes.hide_staff(tx, staff_id))
        await self.purge()

    async def erase_conversation(
        self, scope: Scope, conversation_id: str, *, check: Callable[[Connection], None] = lambda tx: None
    ) -> None:
        """Erase a conversation with all that came from it; returns when all is gone. Raises NotFound, or what `check`
        raises in the transaction that hides it.
        """

        def hide(tx: Connection) -> None:
            check(tx)
            hidden_scopes.hide_conversation(tx, scope, conversation_id, words)

        words = await self._database.read(lambda conn: hidden_scopes.list_words(conn, scope, conversation_id))
        await self._database.write(hide)
        await self.purge()

    async def erase_user(self, user_id: str) -> None:
        """Erase everything of a user; returns when all is gone. What is sent meanwhile is erased with the rest."""
        while await self._database.write(lambda tx: hidden_scopes.hide_user(tx, user_id)):
            await self.purge()
        await self._database.write(lambda tx: user_data.drop_spending(tx, user_id))
        await self._database.clear_log()

    async def purge(self) -> None:
        """Purge what is hidden; goes on when the caller leaves."""
        await asyncio.shield(self._start(self._purge()))

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="purge")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _resume(self, *, imports: bool) -> None:
        await run_round(functools.partial(self._purge, imports=imports))

    async def _purge(self, *, imports: bool = False) -> None:
        async with self._purging:
            for scope in await self._database.read(functools.partial(hidden_scopes.list_erased, imports=imports)):
                await self._purge_scope(scope)
            for staff_id in await self._database.read(hidden_scopes.list_erased_staff):
                await self._database.write(functools.partial(staff.delete_staff, staff_id=staff_id))

    async def _purge_scope(self, scope: Scope) -> None:
        limit, more = _FIRST, True
        while more:
            started = time.monotonic()
            more = await self._database.write(functools.partial(hidden_scopes.purge_some, scope=scope, limit=limit))
            took_s = time.monotonic() - started
            await asyncio.sleep(min(took_s, STEP_S))
            limit = max(_FEWEST, limit // 2) if took_s > 2 * STEP_S else min(_MOST, limit * 2)
