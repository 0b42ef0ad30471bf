"""Writes down how far the active runs have come, so that a crash loses little and other processes can follow them."""

import asyncio
from collections.abc import Collection, Sequence

from staffstream.domain import Owner
from staffstream.replies.active_runs import ActiveRun, ActiveRuns
from staffstream.replies.endings import Endings
from staffstream.storage import run_pieces
from staffstream.storage.database import Connection, Database
from staffstream.storage.wakeups import RunWakeups
from staffstream.support.rounds import run_round

SAVE_EVERY_S = 0.5  # how often every run is written down,
SAVED_AT_ONCE = 256  # so many in a transaction: all at once would hold up what a thousand runs relay
FOLLOWED_EVERY_S = 0.05  # how often a run is written down that another process follows


class ProgressWriter:
    """Saves what is new of all runs twice a second, and more often of those that another process follows."""

    def __init__(
        self, *, database: Database, owner: Owner, active_runs: ActiveRuns, endings: Endings, wakeups: RunWakeups
    ) -> None:
        self._database = database
        self._owner = owner
        self._active_runs = active_runs
        self._endings = endings
        self._wakeups = wakeups
        self._saving = asyncio.Lock()  # a piece begins where the one before it ended
        self._followed: set[str] = set()

    async def save_all_forever(self) -> None:
        """Save every run, a few at a time, and see which of them are followed."""
        while True:
            due = list(self._active_runs.by_id.values())
            parts = [due[start : start + SAVED_AT_ONCE] for start in range(0, len(due), SAVED_AT_ONCE)] or [due]
            for part in parts:
                await asyncio.sleep(SAVE_EVERY_S / len(parts))
                await run_round(lambda part=part: self._save_round(part))  # type: ignore[misc]
            if due:
                await run_round(self._look_for_followers)

    async def save_followed_forever(self) -> None:
        """Save the runs that other processes follow."""
        while True:
            await asyncio.sleep(FOLLOWED_EVERY_S)
            by_id = self._active_runs.by_id
            if due := [by_id[run_id] for run_id in self._followed if run_id in by_id]:
                await run_round(lambda due=due: self._save(due))  # type: ignore[misc]

    async def _save_round(self, part: Sequence[ActiveRun]) -> None:
        await self._endings.save_unsaved()
        await self._save(part)

    async def _save(self, due: Collection[ActiveRun]) -> None:
        async with self._saving:
            changes = [(active, change) for active in due if (change := active.get_progress())]
            if not changes:
                return

            def save(tx: Connection) -> None:
                run_pieces.save_progress(tx, [change for _, change in changes])

            await self._database.write(save)
            for active, change in changes:
                active.mark_saved(change)
        self._wakeups.announce(self._followed.intersection(active.run.id for active, _ in changes))

    async def _look_for_followers(self) -> None:
        self._followed = await self._database.read(lambda conn: run_pieces.list_followed(conn, owner=self._owner))
