"""The way of one reply: accept, build, stream, finish.

A run belongs to the app, never to the request that asked for it: a client that leaves does not stop it, others can
join it, and only `cancel` (or the server's end) stops it. What a client is told has been committed before: the
question before the first byte, the reply before the `done` frame.
"""

import asyncio
import contextvars
import functools
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from staffstream.domain import (
    Message,
    Mode,
    MultitaskStrategy,
    Owner,
    Run,
    RunFailure,
    RunState,
    Scope,
    make_id,
    now_text,
)
from staffstream.errors import (
    Busy,
    Conflict,
    Draining,
    InternalError,
    NotFound,
    RunTimeout,
    StaffstreamError,
    StorageUnavailable,
    UpstreamError,
)
from staffstream.memory.learning import Learning
from staffstream.models.chat import ChatModel
from staffstream.replies.active_runs import ActiveRun, describe_failure
from staffstream.replies.context import Context
from staffstream.replies.context_builder import ContextBuilder
from staffstream.replies.endings import Ended, Endings, EndPlan, encode_terminal, is_made_again
from staffstream.replies.report import report_reply
from staffstream.settings import Settings
from staffstream.storage import conversations, runs, staff
from staffstream.storage.database import Connection, Database
from staffstream.storage.spending import Ledger
from staffstream.support import sse, traces
from staffstream.support.metrics import Metrics
from staffstream.support.timers import BurstGate
from staffstream.support.tokens import count_tokens

log = logging.getLogger(__name__)

BURST_MESSAGES = 16  # when more than these wait to be saved, saving them goes before answering …
BURST_WAIT_S = 1.5  # … for no longer than this, as there may always be more


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a client asks for, validated. `regenerates` names an earlier message to be answered again instead of
    `content`.
    """

    staff_id: str
    user_id: str
    content: str
    mode: Mode
    strategy: MultitaskStrategy
    conversation_id: str | None = None
    webhook_url: str | None = None
    idempotency_key: str | None = None
    request_hash: bytes = b""
    regenerates: str | None = None


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The run that answers a question; `begins` if this process is to make it now. `interrupts` is the run that has to
    make way for it.
    """

    run: Run
    begins: bool = False
    interrupts: Run | None = None


@dataclass(frozen=True, slots=True)
class SettledRun:
    """What the transaction that ended a run left, and the run that was claimed after it."""

    ended: Ended
    claimed: list[Run]


class Pipeline:
    """Makes replies. Its upkeep (upkeep.py) writes progress down and takes up what waits."""

    def __init__(
        self, *, settings: Settings, database: Database, chat_model: ChatModel, learning: Learning, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self._ledger = Ledger(settings, metrics)
        self.builder = ContextBuilder(settings=settings, database=database, learning=learning, ledger=self._ledger)
        self._endings = Endings(learning=learning, ledger=self._ledger)
        self.database = database
        self.owner = Owner(make_id(), settings.lease_s)
        self.active: dict[str, ActiveRun] = {}
        self.unsettled: list[Callable[[Connection], SettledRun]] = []  # ends that the disk has not taken yet
        self.draining = False
        self.queue_changed = asyncio.Event()
        self.queue_waits = False  # there was no room for all of it at the last look
        self.run_begun = asyncio.Event()  # set and replaced whenever a run begins
        self.chat_model = chat_model
        self._learning = learning
        self._burst_gate = BurstGate(BURST_MESSAGES, BURST_WAIT_S)
        self._tasks: set[asyncio.Task[None]] = set()

    # ── 1: accept ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def accept(self, question: RunRequest) -> Acceptance:
        """Save the question and its run in one transaction; once this returns, both survive anything.

        A stream's run begins at once if the conversation is free. Raises NotFound, Busy, Conflict, MessageTooLong,
        IdempotencyMismatch, Draining; nothing was saved then.
        """
        tokens = await _count_question(question.content)
        context = contextvars.copy_context()  # the request's id and trace go on with its run
        with self.metrics.time_stage("accept", question.mode), self._burst_gate:
            return await self.database.write(
                lambda tx: self._accept(tx, question, tokens),
                then=lambda acceptance: self._begin_accepted(acceptance, context),
            )

    def _accept(self, tx: Connection, question: RunRequest, tokens: int) -> Acceptance:
        if self.draining:
            raise Draining
        member, scope = staff.get_or_create_scope(tx, question.staff_id, question.user_id)
        key = question.idempotency_key
        if key and (known := runs.find_run_by_key(tx, scope, key, question.request_hash)):
            return Acceptance(known)
        (self._ledger.check_caps if question.mode == "stream" else self._ledger.check_spent)(tx, scope)
        asked = _find_asked(tx, scope, question.regenerates) if question.regenerates else None
        conversation = conversations.ensure_conversation(
            tx, scope, asked.conversation_id if asked else question.conversation_id
        )
        other = runs.find_active_run(tx, scope, conversation.id)
        if other and question.strategy == "reject":
            raise Busy(extra={"run_id": other.id})
        if asked is None:
            self.builder.check_length(member, tokens)
            asked = conversations.append_user_message(tx, scope, conversation, question.content)
            self._learning.index_user_message(tx, member, scope, conversation, asked)
        begins = question.mode == "stream" and other is None
        run = runs.insert_run(
            tx, scope, conversation, asked,
            mode=question.mode, webhook_url=question.webhook_url, owner=self.owner if begins else None,
        )  # fmt: skip
        if key:
            runs.save_idempotency_key(tx, scope, key, question.request_hash, run)
        return Acceptance(run, begins, other if question.strategy == "interrupt" else None)

    def _begin_accepted(self, acceptance: Acceptance, context: contextvars.Context) -> None:
        if acceptance.begins:
            self.begin([acceptance.run], context)
        elif acceptance.run.state == "queued":
            self.queue_changed.set()
        if acceptance.interrupts:
            self._spawn_stop(acceptance.interrupts)

    def begin(self, claimed: Iterable[Run], context: contextvars.Context | None = None) -> None:
        """Make runs that this process has claimed, in the context of the request that asked for them."""
        for run in claimed:
            active = self.active[run.id] = ActiveRun(run)
            if self.draining:  # it was claimed just before
                active.stop("shutdown")
            task = asyncio.create_task(self._make_reply(active), name=f"run {run.id}", context=context)
            self._keep(task)
        self.run_begun.set()
        self.run_begun = asyncio.Event()

    async def _make_reply(self, active: ActiveRun) -> None:
        """Steps 2 to 4. Whatever happens in 2 and 3, 4 gives the run one terminal state and one terminal frame."""
        with report_reply(active):
            with active:
                try:
                    async with asyncio.timeout(self.settings.run_timeout_s):
                        await self._burst_gate.wait_until_calm()
                        context = await self._build(active)
                        await self._stream(active, context)
                except TimeoutError:
                    active.fail(RunTimeout())
                except StaffstreamError as error:
                    active.fail(error)
                except Exception:
                    log.exception("run %s failed", active.run.id)
                    active.fail(InternalError("The server made a mistake while making this reply."))
            await self._finish(active)

    # ── 2: build ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _build(self, active: ActiveRun) -> Context:
        """The prompt, from one snapshot of the database; no model call is on this path."""
        with self.metrics.time_stage("build", active.run.mode), traces.trace_work("build"):
            context, stages = await self.builder.build_context(active.run)
            traces.add_stages(stages)
        self.metrics.note_context(context.record, stages)
        active.context, active.asked_at = context, now_text()
        return context

    # ── 3: stream ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _stream(self, active: ActiveRun, context: Context) -> None:
        """Relay Claude's stream into the run's log, with further attempts only while nothing has been said."""
        for attempt in range(self.settings.upstream_retries + 1):
            try:
                await self.chat_model.stream_reply(context.prompt, active.take)
                return
            except UpstreamError as error:
                wait_s = max(error.retry_after_s or 0.0, random.uniform(0.5, 1.0) * 2**attempt)
                last = attempt == self.settings.upstream_retries or wait_s > self.settings.upstream_retry_cap_s
                if last or active.log.cursor or not error.retryable:
                    raise
                log.info("run %s: %s, trying again in %.1f s", active.run.id, error.code, wait_s)
                await asyncio.sleep(wait_s)

    async def cancel(self, scope: Scope, run_id: str) -> tuple[Run, str]:
        """Stop a run for its user and return how it ended: cancelled, or however it had ended before. Raises
        NotFound; StorageUnavailable when it is stopped but the disk has not taken its end yet.
        """
        run = await self.database.read(lambda conn: runs.get_run(conn, scope, run_id))
        await self.stop(run)
        run, text = await self.database.read(lambda conn: runs.load_run_text(conn, scope, run_id))
        if not run.ended:
            raise StorageUnavailable
        return run, text

    async def stop(self, run: Run) -> None:
        """End a run, wherever it is, with what it has said so far."""
        while not run.ended:
            if active := self.active.get(run.id):
                active.stop("user")
                await active.ended.wait()
                return
            settled = await self.database.write(functools.partial(self._end_elsewhere, run=run), then=self.after_end)
            run = settled.ended.run or run  # not ended: it began meanwhile

    def _end_elsewhere(self, tx: Connection, run: Run) -> SettledRun:
        """End a run from its row, unless this process makes it: its claim can be read before what follows it is done,
        and ending it from here would lose what it goes on to say.
        """
        if run.id in self.active:
            return SettledRun(Ended(runs.get_run(tx, run.scope, run.id)), [])
        return self.end_from_row(tx, run, "cancelled")

    async def stop_all(self, *, staff_id: str | None = None, conversation_id: str | None = None) -> None:
        """End the runs being made here for a staff member or in a conversation, before it is erased."""
        for active in list(self.active.values()):
            if active.run.staff_id == staff_id or active.run.conversation_id == conversation_id:
                active.stop("user")
                await active.ended.wait()

    def _spawn_stop(self, run: Run) -> None:
        async def stop() -> None:
            try:
                await self.stop(run)
            except StaffstreamError as error:  # erased meanwhile, or no disk: then the new run waits for its end
                log.warning("run %s could not be interrupted: %s", run.id, error.code)

        self._keep(asyncio.create_task(stop(), name=f"stop {run.id}"))

    # ── 4: finish ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _finish(self, active: ActiveRun) -> None:
        """Commit the reply and the run's end together, then tell the readers."""
        again = is_made_again(active)
        settle = self._plan(self._endings.plan_requeue(active) if again else self._endings.plan_end(active))
        try:
            with traces.trace_work("commit"):
                settled = await self.database.write(settle, then=self.after_end)
            run = settled.ended.run
            terminal = encode_terminal(run) if run and run.ended else None
        except NotFound as error:  # its conversation was deleted under it
            active.failure = error
            terminal = sse.encode_error(describe_failure(error), None)
        except Exception as error:
            # The disk refuses the end. The readers are told so; the end itself is tried again until it is taken.
            log.exception("run %s could not be ended yet", active.run.id)
            active.failure = error if isinstance(error, StaffstreamError) else InternalError()
            self.unsettled.append(settle if again else self._plan(self._endings.plan_end(active)))
            terminal = sse.encode_error(describe_failure(active.failure), None)
        self.active.pop(active.run.id, None)
        active.close(terminal)
        if self.queue_waits:  # for room, and there is some now
            self.queue_changed.set()

    def _plan(self, end: EndPlan) -> Callable[[Connection], SettledRun]:
        return lambda tx: self._claim_next(tx, end(tx))

    def end_from_row(self, tx: Connection, run: Run, state: RunState, failure: RunFailure | None = None) -> SettledRun:
        """End a run that this process is not making, from what its row holds."""
        return self._claim_next(tx, self._endings.end_from_row(tx, run, state, failure))

    def _claim_next(self, tx: Connection, ended: Ended) -> SettledRun:
        """Begin the run that waited for this one."""
        run = ended.run
        if self.draining or run is None or not run.ended:
            return SettledRun(ended, [])
        return SettledRun(
            ended, runs.claim_due_runs(tx, owner=self.owner, limit=1, conversation_id=run.conversation_id)
        )

    def after_end(self, settled: SettledRun) -> None:
        """What follows the commit that ended a run."""
        ended = settled.ended
        if ended.run and ended.by_us:
            self.metrics.note_run(ended.run, ended.asked_at)
        self.builder.ratios |= ended.ratios
        self.begin(settled.claimed)
        self._learning.jobs_changed.set()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait_idle(self) -> None:
        """Return when no task of this pipeline is left; a bug in one is raised."""
        while self._tasks:
            await asyncio.gather(*self._tasks)


# ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _count_question(content: str) -> int:
    """Tokens of a question; a long one is counted in a thread, as nothing may hold the loop for over 10 ms."""
    if len(content) < 20_000:
        return count_tokens(content)
    return await asyncio.to_thread(count_tokens, content)


def _find_asked(tx: Connection, scope: Scope, message_id: str) -> Message:
    """The question to be answered again: the message itself, or the one it replies to."""
    message = conversations.get_message(tx, scope, message_id)
    if message.reply_to:
        message = conversations.get_message(tx, scope, message.reply_to)
    if message.message_type != "user":
        raise Conflict("This message answers no question, so there is nothing to answer again.")
    return message
