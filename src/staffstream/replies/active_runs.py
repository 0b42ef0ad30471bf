"""A run while this process is making it: its log, what it has reached, and the way to stop it."""

import asyncio
from typing import Literal

from staffstream.domain import Run, RunFailure, RunState, now_text
from staffstream.errors import ServerRestart, ServerShutdown, StaffstreamError
from staffstream.models.chat import Accepted, Event, Finished
from staffstream.replies.context import Context
from staffstream.replies.run_log import RunLog
from staffstream.storage.runs import Progress

StopCause = Literal["user", "shutdown", "taken_over"]


class ActiveRun:
    """What one run has reached. `started` is set when a response to it may start, `ended` when it is over here."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.log = RunLog(run.id)
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.failure: StaffstreamError | None = None
        self.stop_cause: StopCause | None = None
        self.context: Context | None = None
        self.model: str | None = None
        self.finished: Finished | None = None
        self.asked_at: str | None = None  # Claude, that is
        self.streaming_at: str | None = None
        self.first_token_at: str | None = None
        self._task: asyncio.Task[None] | None = None  # set only while a cancellation does no harm
        self._noted: tuple[RunState, int] = ("building", 0)

    @property
    def state(self) -> RunState:
        """How far it is, as the runs table says it."""
        return "streaming" if self.streaming_at else "building"

    def take(self, events: list[Event]) -> None:
        """Put what Claude sent where it belongs. Called once per network chunk of every reply: keep it lean."""
        texts = []
        for event in events:
            if type(event) is str:
                texts.append(event)
            elif type(event) is Accepted:
                self.model = event.model
                self.streaming_at = now_text()
                self.log.enter_phase("thinking")
                self.started.set()
            elif type(event) is Finished:
                self.finished = event
        if texts:
            if self.first_token_at is None:
                self.first_token_at = now_text()
                self.log.enter_phase("responding")
            self.log.append(*texts)

    def note_progress(self) -> Progress | None:
        """What has to be written down since the last time, if anything."""
        reached = (self.state, self.log.cursor)
        if reached == self._noted:
            return None
        self._noted = reached
        self.log.fold()
        return Progress(self.run.id, self.run.fence, self.state, self.log.text, self.streaming_at, self.first_token_at)

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
        """The making of it broke. That changes nothing about a reply that is whole already."""
        if self.finished is None:
            self.failure = error

    def close(self, terminal: bytes | None) -> None:
        """It is over here: with its terminal frame, or without one when it goes on elsewhere."""
        self.log.close(terminal)
        self.ended.set()
        self.started.set()

    def judge(self) -> tuple[RunState, RunFailure | None]:
        """How it ended, from what was reached: a whole reply is done even if a stop came with its last word."""
        if self.finished and self.failure is None:
            return "done", None
        if self.stop_cause == "user":
            return "cancelled", None
        failure = self.failure or (ServerShutdown() if self.stop_cause == "shutdown" else ServerRestart())
        return "failed", describe_failure(failure)


def describe_failure(error: StaffstreamError) -> RunFailure:
    """An error as a run, a frame and a webhook keep it."""
    return RunFailure(error.code, error.detail, error.retryable)
