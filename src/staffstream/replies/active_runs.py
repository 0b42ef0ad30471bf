"""Runs while this process is making them: what each has reached, how it is stopped, and the registry of them all."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Literal

from staffstream.domain import Message, Run, RunEnd, RunFailure, RunState, Staff, now_text
from staffstream.errors import ServerRestart, ServerShutdown, StaffstreamError
from staffstream.models.chat import Event, Finished, Started, Thinking
from staffstream.replies.context import Context
from staffstream.replies.run_log import RunLog
from staffstream.storage.run_pieces import Progress
from staffstream.support.timers import SilenceWatch

StopCause = Literal["user", "shutdown", "taken_over"]


class ActiveRun:
    """What one run has reached. `started` is set when a response to it may start, `ended` when it is over here.

    `member` and `question` are known for a run that begins as soon as it is accepted; else the build reads them. `past`
    holds the earlier messages, for a run that is not stored: it is built from them alone.
    """

    def __init__(
        self,
        run: Run,
        member: Staff | None = None,
        question: Message | None = None,
        past: Sequence[Message] | None = None,
    ) -> None:
        self.run = run
        self.member = member
        self.question = question
        self.past = past
        self.log = RunLog(run.id)
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.failure: StaffstreamError | None = None
        self.stop_cause: StopCause | None = None
        self.context: Context | None = None
        self.model: str | None = None
        self.finished: Finished | None = None
        self.requested_at: str | None = None  # when the provider was asked
        self.streaming_at: str | None = None
        self.first_token_at: str | None = None
        self.first_token_watch: SilenceWatch | None = None  # limits the wait for the first token
        self._task: asyncio.Task[None] | None = None  # set only while a cancellation does no harm
        self._saved: tuple[RunState, int] = ("building", 0)  # its state and cursor as they were last written down

    @property
    def state(self) -> RunState:
        """How far it is, as the runs table says it."""
        return "streaming" if self.streaming_at else "building"

    def on_events(self, events: list[Event]) -> None:
        """Put what the provider sent where it belongs. Called once per network chunk of every reply: keep it lean."""
        texts = []
        for event in events:
            if type(event) is str:
                texts.append(event)
            elif type(event) is Started:
                self.model = event.model
                self.streaming_at = now_text()
                self.log.enter_phase("thinking")
                self.started.set()
            elif type(event) is Finished:
                self.finished = event
            elif type(event) is Thinking:
                self._take_thinking(event)
        if texts:
            if self.first_token_at is None:
                self._reach_first_token()
            self.log.append(*texts)

    def _take_thinking(self, event: Thinking) -> None:
        """It is shown to who wants it, and never saved; of what comes after the first token nothing is."""
        if self.first_token_watch:
            self.first_token_watch.note()
        if event.text and self.first_token_at is None:
            self.log.add_thinking(event.text)

    def _reach_first_token(self) -> None:
        self.first_token_at = now_text()
        self.log.enter_phase("responding")
        if self.first_token_watch:
            self.first_token_watch.close()

    def get_progress(self) -> Progress | None:
        """What has to be written down, if anything is new since `mark_saved`."""
        state, cursor = self._saved
        if (self.state, self.log.cursor) == self._saved:
            return None
        return Progress(
            self.run.id, self.run.fence, cursor, self.log.read_after(cursor), self.state != state, self.state,
            self.streaming_at, self.first_token_at,
        )  # fmt: skip

    def mark_saved(self, progress: Progress) -> None:
        """That was committed."""
        self._saved = (progress.state, progress.start + len(progress.text))
        self.log.fold(self._saved[1])

    def __enter__(self) -> None:
        """Within the block `stop` may cancel the current task; the cancellation ends with the block."""
        self._task = asyncio.current_task()
        if self.stop_cause is not None and self._task is not None:
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        task, self._task = self._task, None
        if self.stop_cause is None or task is None:
            return False
        task.uncancel()
        return kind is asyncio.CancelledError

    def stop(self, cause: StopCause) -> None:
        """End the run soon, unless its reply is whole already; the first cause counts."""
        if self.stop_cause is None and self.finished is None and not self.ended.is_set():
            self.stop_cause = cause
            if self._task is not None:
                self._task.cancel()

    def fail(self, error: StaffstreamError) -> None:
        """Record the failure. It changes nothing about a reply that is whole already."""
        if self.finished is None:
            self.failure = error

    def close(self, end: RunEnd | None) -> None:
        """End it here: with its end, or without one when it goes on elsewhere."""
        self.log.close(end)
        self.ended.set()
        self.started.set()

    def get_outcome(self) -> tuple[RunState, RunFailure | None]:
        """Its terminal state, from what was reached: a whole reply is done even if a stop came with its last token."""
        if self.finished and self.failure is None:
            return "done", None
        if self.stop_cause == "user":
            return "cancelled", None
        failure = self.failure or (ServerShutdown() if self.stop_cause == "shutdown" else ServerRestart())
        return "failed", describe_failure(failure)


class ActiveRuns:
    """The runs that this process is making, and the events that tell of them and of the queue.

    `make_reply` makes one reply, from its build to its end.
    """

    def __init__(self, make_reply: Callable[[ActiveRun], Coroutine[Any, Any, None]]) -> None:
        self.by_id: dict[str, ActiveRun] = {}
        self.draining = False
        self.queue_changed = asyncio.Event()
        self.queue_waits_for_room = False  # there was no room for all of it at the last look
        self.begun = asyncio.Event()  # set and replaced whenever a run begins
        self._make_reply = make_reply
        self._tasks: set[asyncio.Task[None]] = set()

    def list_saved(self) -> list[Run]:
        """The runs that this process is making, but for those of which nothing is stored."""
        return [active.run for active in self.by_id.values() if active.past is None]

    def begin(self, claimed: Iterable[Run]) -> None:
        """Make runs that this process has claimed."""
        for run in claimed:
            self.begin_one(ActiveRun(run))

    def begin_one(self, active: ActiveRun, context: contextvars.Context | None = None) -> None:
        """Make one run, in the context of the request that asked for it if there is one."""
        self.by_id[active.run.id] = active
        if self.draining:  # it was claimed just before
            active.stop("shutdown")
        self.spawn(self._make_reply(active), f"run {active.run.id}", context)
        self.begun.set()
        self.begun = asyncio.Event()

    def close(self, active: ActiveRun, end: RunEnd | None) -> None:
        """Take a run out of the registry and end its log."""
        self.by_id.pop(active.run.id, None)
        active.close(end)
        if self.queue_waits_for_room:
            self.queue_changed.set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str, context: contextvars.Context | None = None) -> None:
        """Run some work of a run in a task that `wait_idle` waits for."""
        task = asyncio.create_task(work, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self, grace_s: float) -> None:
        """Take no new runs, give the running ones `grace_s` seconds, then end them with their partial text saved."""
        self.draining = True
        if self.by_id and grace_s > 0:
            waiting = [asyncio.create_task(active.ended.wait()) for active in self.by_id.values()]
            await asyncio.wait(waiting, timeout=grace_s)
            for task in waiting:
                task.cancel()
        for active in list(self.by_id.values()):
            active.stop("shutdown")
        for active in list(self.by_id.values()):
            await active.ended.wait()

    async def wait_idle(self) -> None:
        """Return when no task is left; a bug in one is raised."""
        while self._tasks:
            await asyncio.gather(*self._tasks)


def describe_failure(error: StaffstreamError) -> RunFailure:
    """An error as a run, a frame and a webhook keep it."""
    return RunFailure(error.code, error.detail, error.retryable)
