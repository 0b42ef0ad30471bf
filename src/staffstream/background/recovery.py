"""What keeps runs honest while nobody looks: progress on disk, leases, the start-up sweep, the queue, the drain.

A begun run that nobody makes any more is ended (`server_restart`) with its partial text saved, or, if it was
asynchronous and nobody had been sent any of it, put back into the queue. On start-up that holds for every begun run
if this process is alone on the file, and always for those whose lease has run out.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from staffstream.errors import NotFound, ServerRestart, Unavailable
from staffstream.pipeline import Pipeline, SettledRun
from staffstream.replies.active_runs import ActiveRun, describe_failure
from staffstream.storage import runs
from staffstream.storage.database import Connection

log = logging.getLogger(__name__)
Work = Callable[[Pipeline], Awaitable[None]]

BOOKKEEPING_S = 0.5  # partial text is written down this often,
WRITTEN_AT_ONCE = 64  # so many runs in a transaction
QUEUE_ROUND_S = 1.0  # how often the queue is looked at for what other processes left or what has fallen due
CRASHED_ATTEMPTS = 25  # at a run whose making ends with its process every time: well over an hour
_QUICK_ATTEMPTS = 3  # of these follow each other at once
_LONGEST_WAIT_S = 300.0


@contextlib.asynccontextmanager
async def run_recovery(pipeline: Pipeline, *, alone: bool) -> AsyncIterator[None]:
    """Take up what an earlier process left, then keep the books until the block ends; at its end every run is over."""
    pipeline.builder.ratios = await pipeline.database.read(runs.load_token_ratios)
    await _sweep(pipeline, all_begun=alone)
    rounds = (
        _save_progress_forever(pipeline),
        _repeat(pipeline, _keep_leases, pipeline.owner.lease_s / 3),
        _take_up_queue(pipeline),
    )
    tasks = [asyncio.create_task(work) for work in rounds]
    try:
        yield
    finally:
        await drain(pipeline, 0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(Unavailable):  # a claim that a round had handed in is committed, and begun, by then
            await pipeline.database.write(lambda tx: None)
        await drain(pipeline, 0)
        await pipeline.wait_idle()


async def drain(pipeline: Pipeline, grace_s: float) -> None:
    """Take no new runs, give the running ones `grace_s` seconds, then end them with their partial text saved."""
    pipeline.draining = True
    if pipeline.active and grace_s > 0:
        waiting = [asyncio.create_task(active.ended.wait()) for active in pipeline.active.values()]
        await asyncio.wait(waiting, timeout=grace_s)
        for task in waiting:
            task.cancel()
    for active in list(pipeline.active.values()):
        active.stop("shutdown")
    for active in list(pipeline.active.values()):
        await active.ended.wait()


async def _repeat(pipeline: Pipeline, work: Work, every_s: float) -> None:
    """Do a piece of upkeep for ever; trouble with the disk passes, a bug is logged, neither ends the upkeep."""
    while True:
        await asyncio.sleep(every_s)
        await _attempt(pipeline, work)


async def _attempt(pipeline: Pipeline, work: Work) -> None:
    try:
        await work(pipeline)
    except Unavailable as error:
        log.warning("upkeep has to wait: %s", error.code)
    except Exception:
        log.exception("upkeep failed")


async def _save_progress_forever(pipeline: Pipeline) -> None:
    """Write every run down twice a second, a few at a time: all at once would hold up what a thousand runs relay."""
    while True:
        due = list(pipeline.active.values())
        parts = [due[start : start + WRITTEN_AT_ONCE] for start in range(0, len(due), WRITTEN_AT_ONCE)] or [due]
        for part in parts:
            await asyncio.sleep(BOOKKEEPING_S / len(parts))
            await _attempt(pipeline, functools.partial(_write_progress, part=part))


async def _write_progress(pipeline: Pipeline, part: Sequence[ActiveRun]) -> None:
    while pipeline.unsettled:
        try:
            await pipeline.database.write(pipeline.unsettled[0], then=pipeline.after_end)
        except Unavailable:
            raise  # later
        except NotFound:
            pass  # its conversation was deleted since
        except Exception:
            log.exception("the end of a run cannot be saved; the next start will end it")
        pipeline.unsettled.pop(0)
    changes = [change for active in part if (change := active.note_progress())]
    if changes:
        await pipeline.database.write(lambda tx: runs.save_progress(tx, changes))


async def _keep_leases(pipeline: Pipeline) -> None:
    mine = list(pipeline.active.values())  # as of before: one that begins meanwhile may have missed the renewal
    held = await pipeline.database.write(lambda tx: runs.renew_leases(tx, owner=pipeline.owner))
    for active in mine:
        if held.get(active.run.id) != active.run.fence:
            active.stop("taken_over")
    await _sweep(pipeline, all_begun=False)


async def _sweep(pipeline: Pipeline, *, all_begun: bool) -> None:
    """End, or put back, the begun runs that nobody is making any more."""

    def sweep(tx: Connection) -> list[SettledRun]:
        settled = []
        for run, delivered in runs.find_abandoned_runs(tx, owner=pipeline.owner, all_begun=all_begun):
            if run.mode == "async" and not delivered and run.attempts < CRASHED_ATTEMPTS:
                runs.requeue_run(tx, run, wait_s=_wait_after_crash_s(run.attempts))
            else:
                settled.append(pipeline.end_from_row(tx, run, "failed", describe_failure(ServerRestart())))
        return settled

    def follow_up(ended: list[SettledRun]) -> None:
        for settled in ended:
            pipeline.after_end(settled)
        pipeline.queue_changed.set()

    await pipeline.database.write(sweep, then=follow_up)


def _wait_after_crash_s(attempts: int) -> float:
    """None at first. A run that may be what ends the process makes room for others more and more, but is not given up
    for a row of crashes that has another reason.
    """
    return min(2.0 ** (attempts - _QUICK_ATTEMPTS), _LONGEST_WAIT_S) if attempts > _QUICK_ATTEMPTS else 0.0


async def _take_up_queue(pipeline: Pipeline) -> None:
    """Begin queued runs that are due, as many as there is room for, whenever the queue or the room may have changed."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUEUE_ROUND_S):
                await pipeline.queue_changed.wait()
        pipeline.queue_changed.clear()
        await _attempt(pipeline, _begin_due)


async def _begin_due(pipeline: Pipeline) -> None:
    making = sum(active.run.mode == "async" for active in pipeline.active.values())
    room = pipeline.settings.async_concurrency - making
    pipeline.queue_waits = room <= 0
    if room <= 0 or pipeline.draining:
        return
    if not await pipeline.database.read(runs.is_any_due):
        return
    await (
        pipeline.chat_model.wait_ready()
    )  # a claim counts as an attempt, which a process that ends before makes none of
    if not pipeline.draining:
        claimed = await pipeline.database.write(
            lambda tx: runs.claim_due_runs(tx, owner=pipeline.owner, limit=room), then=pipeline.begin
        )
        pipeline.queue_waits = len(claimed) == room
