"""Runs that wait in the queue or that another process makes, as logs of this process.

Each that somebody follows here has one log, which all its subscribers share and which is fed from the database: from
the run's pieces while it is made, from its message when it has ended. One task looks for all of them together.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass

from staffstream.domain import TERMINAL_STATES, Run
from staffstream.errors import NotFound
from staffstream.replies.active_runs import ActiveRuns
from staffstream.replies.run_log import RunLog
from staffstream.storage import run_pieces, runs
from staffstream.storage.database import Connection, Database
from staffstream.storage.run_pieces import FOLLOWED_S, RunNews
from staffstream.storage.wakeups import RunWakeups
from staffstream.support.rounds import run_round

LOOK_EVERY_S = 0.05  # at runs that another process makes,
LOOK_AT_QUEUE_EVERY_S = 0.25  # and when all of them wait in the queue


@dataclass(slots=True)
class _RemoteRun:
    run: Run
    log: RunLog
    subscribers: int = 0
    delivered: int | None = None  # the fence under which the run was marked as delivered


class RemoteRuns:
    """Follows runs through the database. `running` is its lifespan."""

    def __init__(self, *, database: Database, active_runs: ActiveRuns, wakeups: RunWakeups) -> None:
        self._database = database
        self._active_runs = active_runs
        self._wakeups = wakeups
        self._by_id: dict[str, _RemoteRun] = {}
        self._wanted = asyncio.Event()
        self._marked_at = 0.0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look for news until the block ends."""
        looking = asyncio.create_task(self._look_forever(), name="remote runs")
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            self._let_go(list(self._by_id))

    @contextlib.asynccontextmanager
    async def open_log(self, run: Run) -> AsyncIterator[RunLog]:
        """The log of a run that this process does not make, with all that was saved of it. It is closed without an end
        when the run begins here, or the server drains.
        """
        remote = self._by_id.get(run.id)
        if remote is None:
            remote = self._by_id[run.id] = _RemoteRun(run, RunLog(run.id))
        remote.subscribers += 1
        self._wanted.set()
        try:
            await self._look(only=run.id)
            yield remote.log
        finally:
            remote.subscribers -= 1
            if not remote.subscribers and self._by_id.get(run.id) is remote:
                del self._by_id[run.id]

    async def _look_forever(self) -> None:
        while True:
            if not self._by_id:
                self._wanted.clear()
                await self._wanted.wait()
            await run_round(self._mark_followed)
            await run_round(self._look)
            await self._wait()

    async def _wait(self) -> None:
        """Until something may have changed: elsewhere, or because a run has begun here."""
        made_elsewhere = any(remote.run.state != "queued" for remote in self._by_id.values())
        limit_s = LOOK_EVERY_S if made_elsewhere else LOOK_AT_QUEUE_EVERY_S
        waits = [
            asyncio.ensure_future(self._wakeups.wait(limit_s)),
            asyncio.ensure_future(self._active_runs.begun.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _mark_followed(self) -> None:
        """Ask the processes that make these runs to save their text often, well before that runs out."""
        now = asyncio.get_running_loop().time()
        made = [remote.run.id for remote in self._by_id.values() if remote.run.state != "queued"]
        if made and now - self._marked_at > FOLLOWED_S / 3:
            await self._database.write(lambda tx: run_pieces.mark_followed(tx, made))
            self._marked_at = now

    async def _look(self, only: str | None = None) -> None:
        """Take what is new of all runs, or of one, into their logs."""
        begun_here = [run_id for run_id in self._by_id if run_id in self._active_runs.by_id]
        self._let_go(list(self._by_id) if self._active_runs.draining else begun_here)
        followed = {run_id: remote.log.cursor for run_id, remote in self._by_id.items() if only in (None, run_id)}
        if not followed:
            return
        found = await self._database.read(lambda conn: run_pieces.load_news(conn, followed))
        news = {item.run_id: item for item in found}
        for run_id in followed:
            remote = self._by_id.get(run_id)
            if remote and run_id in news:
                await self._take(remote, news[run_id])
            elif remote:
                self._let_go([run_id])  # erased: whoever follows finds that out

    async def _take(self, remote: _RemoteRun, news: RunNews) -> None:
        run = remote.run = dataclasses.replace(remote.run, state=news.state, fence=news.fence)
        log = remote.log
        if run.state in TERMINAL_STATES:
            with contextlib.suppress(NotFound):  # erased just now
                run, text = await self._load(run)
                log.append(text[log.cursor :])
                log.close(run.end)
            return
        if news.pieces and await self._mark_delivered(remote):
            for start, text in news.pieces:
                if start != log.cursor:  # another look took it, or a piece was saved anew and is longer
                    text = (await self._load(run))[1][log.cursor :]
                log.append(text)
        if run.state == "streaming":
            log.enter_phase("responding" if news.first_token_at else "thinking")

    async def _load(self, run: Run) -> tuple[Run, str]:
        def load(conn: Connection) -> tuple[Run, str]:
            return runs.load_run_text(conn, run.scope, run.id)

        return await self._database.read(load)

    async def _mark_delivered(self, remote: _RemoteRun) -> bool:
        """Before the text of an asynchronous run is sent: from here on it can no longer be made anew. False when it is
        being made anew already: then this text is not what its reply will be.
        """
        run = remote.run
        if run.mode == "async" and remote.delivered != run.fence:
            if not await self._database.write(lambda tx: runs.mark_delivered(tx, run)):
                return False
            remote.delivered = run.fence
        return True

    def _let_go(self, run_ids: list[str]) -> None:
        for run_id in run_ids:
            self._by_id.pop(run_id).log.close(None)
