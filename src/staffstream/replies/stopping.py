"""Stopping runs, wherever they are: queued, made by this process, or begun by another."""

from staffstream.domain import Run, Scope
from staffstream.errors import StorageUnavailable
from staffstream.replies.active_runs import ActiveRuns
from staffstream.replies.endings import Ended, Endings
from staffstream.storage import runs
from staffstream.storage.database import Connection, Database


class RunStopper:
    """Stops runs for their user; the text that a run has so far is kept."""

    def __init__(self, *, database: Database, endings: Endings, active_runs: ActiveRuns) -> None:
        self._database = database
        self._endings = endings
        self._active_runs = active_runs

    async def cancel(self, scope: Scope, run_id: str) -> tuple[Run, str]:
        """Stop a run and return it with its text: cancelled, or however it had ended before. Raises NotFound;
        StorageUnavailable when it is stopped but the disk has not taken its end yet.
        """
        run = await self._database.read(lambda conn: runs.get_run(conn, scope, run_id))
        await self.stop(run)
        run, text = await self._database.read(lambda conn: runs.load_run_text(conn, scope, run_id))
        if not run.ended:
            raise StorageUnavailable
        return run, text

    async def stop(self, run: Run) -> None:
        """End a run with the text that it has so far."""
        while not run.ended:
            if active := self._active_runs.by_id.get(run.id):
                active.stop("user")
                await active.ended.wait()
                return
            waiting = run
            ended = await self._endings.commit(lambda tx: self._end_elsewhere(tx, waiting))  # noqa: B023 - awaited here
            run = ended.run or run  # not ended: it began meanwhile

    def _end_elsewhere(self, tx: Connection, run: Run) -> Ended:
        """End a run from its row, unless this process makes it: its claim can be read before what follows it is done,
        and ending it from here would lose what it goes on to say.
        """
        if run.id in self._active_runs.by_id:
            return Ended(runs.get_run(tx, run.scope, run.id))
        return self._endings.end_from_row(tx, run, "cancelled")

    async def stop_all(
        self, *, staff_id: str | None = None, conversation_id: str | None = None, user_id: str | None = None
    ) -> None:
        """End the runs being made here for a staff member, in a conversation or for a user, before it is erased."""
        for active in list(self._active_runs.by_id.values()):
            run = active.run
            if run.staff_id == staff_id or run.conversation_id == conversation_id or run.user_id == user_id:
                active.stop("user")
                await active.ended.wait()
