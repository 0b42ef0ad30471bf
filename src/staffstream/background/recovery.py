"""Finds runs that no process makes: it renews leases, sweeps at the start, and begins queued runs.

A begun run that nobody makes any more is ended (`server_restart`) with its partial text saved, or, if it was
asynchronous and nobody had been sent any of it, put back into the queue. On start-up that holds for every begun run
if this process is alone on the file, and always for those whose lease has run out.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator

from staffstream.background.progress import ProgressWriter
from staffstream.domain import Owner
from staffstream.errors import ServerRestart, Unavailable
from staffstream.models.chat import ChatModel
from staffstream.replies.active_runs import ActiveRuns, describe_failure
from staffstream.replies.endings import Ended, Endings
from staffstream.settings import Settings
from staffstream.storage import runs
from staffstream.storage.database import Connection, Database
from staffstream.support.rounds import repeat, run_round

QUEUE_ROUND_S = 1.0  # how often the queue is looked at for what other processes left or what has fallen due
USER_SHARE = 0.75  # of the places for asynchronous replies: one user can never have all of them
CRASHED_ATTEMPTS = 25  # at a run whose making ends with its process every time: well over an hour
_QUICK_ATTEMPTS = 3  # of these follow each other at once
_LONGEST_WAIT_S = 300.0


class Recovery:
    """Takes up what an earlier process left, and then keeps this one's runs recoverable."""

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        owner: Owner,
        chat_model: ChatModel,
        active_runs: ActiveRuns,
        endings: Endings,
        progress: ProgressWriter,
    ) -> None:
        self._settings = settings
        self._database = database
        self._owner = owner
        self._chat_model = chat_model
        self._active_runs = active_runs
        self._endings = endings
        self._progress = progress
        self._renewed = True
        self._sweep_from = 0.0

    @contextlib.asynccontextmanager
    async def running(self, *, alone: bool) -> AsyncIterator[None]:
        """Work until the block ends; by its end every run of this process is over. With `alone`, no other process is
        on the file.
        """
        await self._sweep(all_begun=alone)
        renew_every_s = self._owner.lease_s / 3
        rounds = (
            self._progress.save_all_forever(),
            self._progress.save_followed_forever(),
            repeat(self._renew_leases, renew_every_s, first_in_s=renew_every_s),
            self._take_up_queue_forever(),
        )
        tasks = [asyncio.create_task(work) for work in rounds]
        try:
            yield
        finally:
            await self._active_runs.drain(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(Unavailable):  # a claim that was handed in is committed, and begun, by then
                await self._database.write(lambda tx: None)
            await self._active_runs.drain(0)
            await self._active_runs.wait_idle()

    # ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _renew_leases(self) -> None:
        # As of before: one that begins now may have missed the renewal. One that is not stored has no row to renew.
        mine = [active for active in self._active_runs.by_id.values() if active.past is None]
        loop = asyncio.get_running_loop()
        renewed, self._renewed = self._renewed, False
        held = await self._database.write(lambda tx: runs.renew_leases(tx, owner=self._owner))
        self._renewed = True
        if not renewed:  # the database was away, and others that live have yet to renew theirs
            self._sweep_from = loop.time() + self._owner.lease_s
        for active in mine:
            if held.get(active.run.id) != active.run.fence:
                active.stop("taken_over")
        if loop.time() >= self._sweep_from:
            await self._sweep(all_begun=False)

    async def _sweep(self, *, all_begun: bool) -> None:
        """End, or put back, the begun runs that nobody is making any more."""

        def sweep(tx: Connection) -> list[Ended]:
            ended = []
            for run, delivered in runs.find_abandoned_runs(tx, owner=self._owner, all_begun=all_begun):
                if run.mode == "async" and not delivered and run.attempts < CRASHED_ATTEMPTS:
                    runs.requeue_run(tx, run, wait_s=_wait_after_crash_s(run.attempts))
                else:
                    failure = describe_failure(ServerRestart())
                    ended.append(self._endings.end_from_row(tx, run, "failed", failure))
            return ended

        def follow_up(ended: list[Ended]) -> None:
            self._endings.follow_up_all(ended)
            self._active_runs.queue_changed.set()

        await self._database.write(sweep, then=follow_up)

    # ── the queue ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _take_up_queue_forever(self) -> None:
        """Begin queued runs that are due, as many as there is room for, whenever the queue or the room may have
        changed.
        """
        queue_changed = self._active_runs.queue_changed
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUEUE_ROUND_S):
                    await queue_changed.wait()
            queue_changed.clear()
            await run_round(self._begin_due)

    async def _begin_due(self) -> None:
        active_runs = self._active_runs
        making = sum(active.run.mode == "async" for active in active_runs.by_id.values())
        room = self._settings.async_concurrency - making
        active_runs.queue_waits_for_room = room <= 0
        if room <= 0 or active_runs.draining or not await self._database.read(runs.is_any_due):
            return
        await (
            self._chat_model.wait_ready()
        )  # a claim counts as an attempt, which a process that ends before makes none of
        if not active_runs.draining:
            most_of_user = math.ceil(self._settings.async_concurrency * USER_SHARE)
            claimed = await self._database.write(
                lambda tx: runs.claim_due_runs(tx, owner=self._owner, limit=room, most_of_user=most_of_user),
                then=active_runs.begin,
            )
            active_runs.queue_waits_for_room = bool(claimed)  # there may be more, beyond the room or a user's share


def _wait_after_crash_s(attempts: int) -> float:
    """None at first. A run that may be what ends the process makes room for others more and more, but is not given up
    for a row of crashes that has another reason.
    """
    return min(2.0 ** (attempts - _QUICK_ATTEMPTS), _LONGEST_WAIT_S) if attempts > _QUICK_ATTEMPTS else 0.0
