"""Runs the durable jobs of one process.

A handler does what has to be waited for (a model call, a webhook) outside any transaction and returns the transaction
that saves its results; the worker commits it together with the job's end, or not at all if the job was taken over
meanwhile. What a handler raises decides what becomes of the job: NotFound means that its subject is gone and there is
nothing to do, any other error of our tree is tried again if it is retryable, and a bug is logged and tried again, all
up to the kind's number of attempts.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from staffstream.domain import Owner
from staffstream.errors import NotFound, StaffstreamError, Unavailable
from staffstream.storage import jobs
from staffstream.storage.database import Connection, Database
from staffstream.storage.jobs import Job, JobKind
from staffstream.support.metrics import Metrics
from staffstream.support.rounds import repeat, run_round

log = logging.getLogger(__name__)

Save = Callable[[Connection], Callable[[], None] | None]
"""Saves the results of a job; what it returns is called after the commit."""
Handler = Callable[[Job], Awaitable[Save]]

T = TypeVar("T")

POLL_S = 1.0  # how often to look for what has fallen due, or what another process left
_STORAGE_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class JobHandling:
    """How jobs of one kind are done, how many of them at the same time, and whether any may begin by now: each that is
    begun counts as an attempt, which a process that ends before it can make one has not made.
    """

    handle: Handler
    concurrency: int = 4
    may_begin: Callable[[], bool] = lambda: True


class _LostJob(Exception):
    """Somebody else holds the job by now: rolls back what was done for it."""


class Worker:
    """Takes due jobs and does them. `wake` is set by whoever enqueued one; without it a job waits up to POLL_S."""

    def __init__(
        self,
        database: Database,
        owner: Owner,
        handlings: Mapping[JobKind, JobHandling],
        *,
        wake: asyncio.Event | None = None,
        metrics: Metrics | None = None,
        note_job: Callable[[Job, Literal["started", "ended"]], Awaitable[None]] | None = None,
    ) -> None:
        self.wake = wake or asyncio.Event()
        self._metrics = metrics or Metrics()
        self._note_job = note_job
        self._database = database
        self._owner = owner
        self._handlings = handlings
        self._running: dict[asyncio.Task[None], Job] = {}
        self._draining = False

    @contextlib.asynccontextmanager
    async def running(self, *, alone: bool = False) -> AsyncIterator[None]:
        """Work until the block ends; then what still runs is given back. With `alone`, no other process is on the
        file: what an earlier one had begun is taken over at once.
        """
        if alone:
            await self._database.write(jobs.expire_job_leases)
        renew_every_s = self._owner.lease_s / 3
        renewing = repeat(self._renew_leases, renew_every_s, first_in_s=renew_every_s)
        rounds = [asyncio.create_task(self._claim_forever()), asyncio.create_task(renewing)]
        try:
            yield
        finally:
            await self.drain(0)
            for task in rounds:
                task.cancel()
            await asyncio.gather(*rounds, return_exceptions=True)

    async def drain(self, grace_s: float) -> None:
        """Take no more jobs, give the running ones `grace_s` seconds, then give the rest back to be done later."""
        self._draining = True
        if self._running and grace_s > 0:
            await asyncio.wait(list(self._running), timeout=grace_s)
        left = list(self._running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        with contextlib.suppress(Unavailable):  # without it their leases run out
            await self._database.write(lambda tx: jobs.return_jobs(tx, owner=self._owner))

    # ── rounds ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _claim_forever(self) -> None:
        while True:
            await run_round(self._begin_due)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self.wake.wait()
            self.wake.clear()

    async def _begin_due(self) -> None:
        if await self._database.read(lambda conn: jobs.find_oldest_due(conn, self._handlings)):
            await self._database.write(self._claim, then=self._begin)

    def _claim(self, tx: Connection) -> list[Job]:
        if self._draining:
            return []
        running = Counter(job.kind for job in list(self._running.values()))
        return [
            job
            for kind, handling in self._handlings.items()
            if handling.may_begin()
            for job in jobs.claim_due_jobs(
                tx, kind, owner=self._owner, limit=max(0, handling.concurrency - running[kind])
            )
        ]

    def _begin(self, claimed: list[Job]) -> None:
        for job in claimed if not self._draining else ():  # drain gives back what was claimed meanwhile
            task = asyncio.create_task(self._work(job), name=f"job {job.kind} {job.id}")
            self._running[task] = job
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self.wake.set()  # there is room now, and its end may have made another job due

    async def _renew_leases(self) -> None:
        mine = dict(self._running)  # as of before: a job that is claimed meanwhile may have missed the renewal
        if not mine:
            return
        held = await self._database.write(lambda tx: jobs.renew_job_leases(tx, owner=self._owner))
        for task, job in mine.items():
            if held.get(job.id) != job.fence and not task.done():
                _log_loss(job)
                task.cancel()

    # ── one job ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _work(self, job: Job) -> None:
        if self._note_job:
            await self._note_job(job, "started")
        try:
            await self._do(job)
        finally:
            if self._note_job:
                await self._note_job(job, "ended")

    async def _do(self, job: Job) -> None:
        try:
            save = await self._handlings[job.kind].handle(job)
        except NotFound:
            await self._end(job, lambda tx: None)
        except StaffstreamError as error:
            await self._fail(job, error)
        except Exception:
            log.exception("job %s %s failed", job.kind, job.id)
            await self._fail(job, None)
        else:
            await self._end(job, save)

    async def _end(self, job: Job, save: Save) -> None:
        def end(tx: Connection) -> Callable[[], None] | None:
            if not jobs.complete_job(tx, job):
                raise _LostJob
            return save(tx)

        try:
            if follow_up := await self._write(end):
                follow_up()
            self._metrics.note_job(job.kind, "done")
        except _LostJob:
            _log_loss(job)
        except NotFound:  # its subject was erased while it was worked on
            await self._write(lambda tx: jobs.complete_job(tx, job))
        except Exception:
            log.exception("job %s %s could not be saved", job.kind, job.id)
            await self._fail(job, None)

    async def _fail(self, job: Job, error: StaffstreamError | None) -> None:
        """The attempt failed; None is a bug, which another attempt may or may not meet again."""
        code, retryable = (error.code, error.retryable) if error else ("internal_error", True)
        retry_after_s = error.retry_after_s if error else None
        self._metrics.note_job(job.kind, code)
        state = await self._write(
            lambda tx: jobs.fail_job(tx, job, code, retryable=retryable, retry_after_s=retry_after_s)
        )
        if state:
            level = logging.WARNING if state == "dead" else logging.INFO
            log.log(level, "job %s %s: %s, it is %s after %d attempts", job.kind, job.id, code, state, job.attempts)

    async def _write(self, function: Callable[[Connection], T]) -> T:
        """Commit, as soon as the disk takes it: a job's end must not be lost to a full one."""
        while True:
            try:
                return await self._database.write(function)
            except Unavailable as error:
                log.warning("job ends have to wait: %s", error.code)
                await asyncio.sleep(_STORAGE_WAIT_S)


def _log_loss(job: Job) -> None:
    log.warning("job %s %s was taken over by another process, or dropped", job.kind, job.id)
