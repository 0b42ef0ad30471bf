"""Following runs: what subscribers are sent of a run, and what it is described as, wherever it is made.

A run that this process makes has its log; one that waits in the queue, or that another process makes, a log that
RemoteRuns feeds; one that is over, its message. Subscribers see no difference.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from staffstream.background.remote_runs import RemoteRuns
from staffstream.domain import Run, RunEnd, Scope
from staffstream.errors import BadCursor, Draining, InternalError, StaffstreamError
from staffstream.replies.active_runs import ActiveRun, ActiveRuns, describe_failure
from staffstream.replies.encoders import Encoder, RunEncoder
from staffstream.replies.run_log import Push, RunLog, encode_ended_run
from staffstream.settings import Settings
from staffstream.storage import runs
from staffstream.storage.database import Database

logger = logging.getLogger(__name__)

START_WAIT_S = 1.0  # a response starts after this even if the provider has not accepted yet


@dataclass(frozen=True, slots=True)
class EndedRun:
    """What a run left that is over."""

    text: str
    end: RunEnd


class Subscriptions:
    """Follows the active runs of this process, and those that other processes make."""

    def __init__(
        self, *, settings: Settings, database: Database, active_runs: ActiveRuns, remote_runs: RemoteRuns
    ) -> None:
        self._heartbeat_s = settings.heartbeat_s
        self._database = database
        self._active_runs = active_runs
        self._remote_runs = remote_runs

    async def wait_started(self, run: Run, active: ActiveRun | None = None) -> None:
        """Return when the response may start: the provider has accepted, or a second has passed.

        Raises what made the run fail, if it failed for good before that without any text.
        """
        active = active or self._active_runs.by_id.get(run.id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_WAIT_S):
                while active is None and run.state == "queued":
                    await self._active_runs.begun.wait()
                    active = self._active_runs.by_id.get(run.id)
                if active:
                    await active.started.wait()
        if active and active.log.end and active.failure and not active.log.cursor:
            raise active.failure

    async def follow(
        self, run: Run, after: int, *, encoder: Encoder | None = None, push: Push | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The frames of a run after a cursor, live while it is being made (then by `push` if it takes them), and one
        terminal frame: the run's own, or an error when this stream cannot go on though the run may. `encoder` writes
        them in other words than ours.
        """
        encoder = encoder or RunEncoder(run.id)
        try:
            if opening := encoder.encode_start():
                yield opening
            while True:
                async with contextlib.AsyncExitStack() as stack:
                    log = await self._open_log(run, stack)
                    if isinstance(log, EndedRun):
                        yield encode_ended_run(encoder, log.text, min(after, len(log.text)), log.end)
                        return
                    frames = log.follow(after, heartbeat_s=self._heartbeat_s, encoder=encoder, push=push)
                    async with contextlib.aclosing(frames):
                        async for data in frames:
                            yield data
                if log.end is not None:
                    return
                after = max(after, log.cursor)
        except StaffstreamError as error:
            yield encoder.encode_end(RunEnd(failure=describe_failure(error)))
        except Exception:
            logger.exception("run %s cannot be followed", run.id)
            yield encoder.encode_end(RunEnd(failure=describe_failure(InternalError())))

    async def follow_unsaved(
        self, active: ActiveRun, *, encoder: Encoder, push: Push | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The same for a run that is not stored, and that nobody else can follow."""
        yield encoder.encode_start()
        frames = active.log.follow(heartbeat_s=self._heartbeat_s, encoder=encoder, push=push)
        async with contextlib.aclosing(frames):
            async for data in frames:
                yield data

    async def _open_log(self, run: Run, stack: contextlib.AsyncExitStack) -> "RunLog | EndedRun":
        """The log to follow, or what an ended run left. Raises NotFound, Draining."""
        while active := self._active_runs.by_id.get(run.id):
            if await self._mark_delivered(active.run):
                return active.log
            active.stop("taken_over")
            await active.ended.wait()
        run, text = await self._database.read(lambda conn: runs.load_run_text(conn, run.scope, run.id))
        if run.ended:
            return EndedRun(text, run.end)
        if self._active_runs.draining and run.id not in self._active_runs.by_id:
            raise Draining
        return await stack.enter_async_context(self._remote_runs.open_log(run))

    async def _mark_delivered(self, run: Run) -> bool:
        """Before the text of an asynchronous run is sent: from here on it can no longer be made anew. False when it is
        being made anew already: then this text is not what its reply will be.
        """
        return run.mode != "async" or await self._database.write(lambda tx: runs.mark_delivered(tx, run))

    async def describe(self, scope: Scope, run_id: str) -> tuple[Run, str]:
        """A run and its text so far, to the last token if it is being made here. Raises NotFound."""
        active = self._active_runs.by_id.get(run_id)  # first: it may end while its row is read as it was before
        run, text = await self._database.read(lambda conn: runs.load_run_text(conn, scope, run_id))
        if active is None or run.ended:
            return run, text
        reached = {"state": active.state, "model": active.model, "streaming_at": active.streaming_at}
        return dataclasses.replace(run, first_token_at=active.first_token_at, **reached), active.log.text  # type: ignore[arg-type]

    async def check_cursor(self, scope: Scope, run_id: str, after: int) -> Run:
        """The run, if `after` is one of its cursors. Raises NotFound or BadCursor.

        What another process makes may be further than what it has saved: a cursor beyond that is taken.
        """
        run, text = await self.describe(scope, run_id)
        made_elsewhere = run.state in ("building", "streaming") and run_id not in self._active_runs.by_id
        if after < 0 or (after > len(text) and not made_elsewhere):
            raise BadCursor
        return run
