"""Following runs: what subscribers are sent of a run, and what it is described as, wherever it is made.

A run that this process makes is read from its log, any other from its row: it waits in the queue, another process
makes it, or it is over. Its subscribers see no difference.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
from collections.abc import AsyncGenerator

from staffstream.domain import Run, RunEnd, Scope
from staffstream.errors import BadCursor, Draining, InternalError, StaffstreamError
from staffstream.replies.active_runs import ActiveRuns, describe_failure
from staffstream.replies.encoders import Encoder, RunEncoder
from staffstream.replies.run_log import Push, encode_ended_run
from staffstream.settings import Settings
from staffstream.storage import runs
from staffstream.storage.database import Database

log = logging.getLogger(__name__)

START_WAIT_S = 1.0  # a response starts after this even if Claude has not accepted yet
LOOK_AGAIN_S = 0.25  # how often a run is looked at that waits, or that another process makes


class Subscriptions:
    """Follows the active runs of this process, and those that other processes make."""

    def __init__(self, *, settings: Settings, database: Database, active_runs: ActiveRuns) -> None:
        self._heartbeat_s = settings.heartbeat_s
        self._database = database
        self._active_runs = active_runs

    async def wait_started(self, run: Run) -> None:
        """Return when the response may start: Claude has accepted, or a second has passed.

        Raises what made the run fail, if it failed for good before that with nothing said.
        """
        active = self._active_runs.by_id.get(run.id)
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
                active = self._active_runs.by_id.get(run.id)
                if active is None:
                    frames = self._watch_row(run, after, encoder)
                elif await self._mark_delivered(active.run):
                    frames = active.log.follow(after, heartbeat_s=self._heartbeat_s, encoder=encoder, push=push)
                else:
                    active.stop("taken_over")
                    await active.ended.wait()
                    continue
                async with contextlib.aclosing(frames):
                    async for data in frames:
                        yield data
                if active.log.end is not None if active else run.id not in self._active_runs.by_id:
                    return
                after = active.log.cursor if active else after
        except StaffstreamError as error:
            yield encoder.encode_end(RunEnd(failure=describe_failure(error)))
        except Exception:
            log.exception("run %s cannot be followed", run.id)
            yield encoder.encode_end(RunEnd(failure=describe_failure(InternalError())))

    async def _watch_row(self, run: Run, after: int, encoder: Encoder) -> AsyncGenerator[bytes, None]:
        """The frames of a run that waits in the queue or that another process makes, until it ends or begins here."""
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        while run.id not in self._active_runs.by_id:
            begun = self._active_runs.begun
            run, text = await self._database.read(functools.partial(runs.load_run_text, scope=run.scope, run_id=run.id))
            if run.ended:
                yield encode_ended_run(encoder, text, min(after, len(text)), run.end)
                return
            if self._active_runs.draining and run.id not in self._active_runs.by_id:
                raise Draining
            if len(text) > after and await self._mark_delivered(run):
                yield encoder.encode_text(after, text[after:])
                after, sent_at = len(text), loop.time()
            elif loop.time() - sent_at >= self._heartbeat_s:
                yield encoder.ping
                sent_at = loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await begun.wait()

    async def _mark_delivered(self, run: Run) -> bool:
        """Before the text of an asynchronous run is sent: from here on it can no longer be made anew. False when it is
        already being made anew: then this text is not what its reply will say.
        """
        return run.mode != "async" or await self._database.write(functools.partial(runs.mark_delivered, run=run))

    async def describe(self, scope: Scope, run_id: str) -> tuple[Run, str]:
        """A run and what it has said so far, to the last token if it is being made here. Raises NotFound."""
        active = self._active_runs.by_id.get(run_id)  # first: it may end while its row is read as it was before
        run, text = await self._database.read(lambda conn: runs.load_run_text(conn, scope, run_id))
        if active is None or run.ended:
            return run, text
        reached = {"state": active.state, "model": active.model, "streaming_at": active.streaming_at}
        return dataclasses.replace(run, first_token_at=active.first_token_at, **reached), active.log.text  # type: ignore[arg-type]

    async def check_cursor(self, scope: Scope, run_id: str, after: int) -> Run:
        """The run, if `after` is one of its cursors. Raises NotFound or BadCursor."""
        run, text = await self.describe(scope, run_id)
        if not 0 <= after <= len(text):
            raise BadCursor
        return run
