"""The way of one reply: accept, build, stream, finish.

A run belongs to the app, never to the request that asked for it: a client that leaves does not stop it, others can
join it, and only `cancel` (or the server's end) stops it. What a client is told has been committed before: the
question before the first byte, the reply before the `done` frame.
"""

import asyncio
import contextvars
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from staffstream.domain import (
    Conversation,
    Message,
    Mode,
    MultitaskStrategy,
    Owner,
    Run,
    Scope,
    Staff,
    draft_run,
    now_text,
)
from staffstream.errors import (
    Busy,
    Conflict,
    Draining,
    InternalError,
    RunTimeout,
    StaffstreamError,
    UpstreamError,
    UpstreamTimeout,
)
from staffstream.memory.learning import Learning
from staffstream.models.chat import ChatModel
from staffstream.replies.active_runs import ActiveRun, ActiveRuns
from staffstream.replies.context import Context
from staffstream.replies.context_builder import ContextBuilder
from staffstream.replies.endings import Endings
from staffstream.replies.report import observe_context, report_reply
from staffstream.replies.stopping import RunStopper
from staffstream.replies.token_ratios import TokenRatios
from staffstream.settings import Settings
from staffstream.storage import conversations, idempotency, messages, runs, staff
from staffstream.storage.database import Connection, Database
from staffstream.storage.spending import Ledger
from staffstream.support import traces
from staffstream.support.metrics import Metrics
from staffstream.support.timers import BurstGate, limit_silence
from staffstream.support.tokens import count_tokens

log = logging.getLogger(__name__)

BURST_MESSAGES = 16  # when more than these wait to be saved, saving them goes before answering …
BURST_WAIT_S = 1.5  # … for no longer than this, as there may always be more


@dataclass(frozen=True, slots=True)
class Located:
    """Where a request belongs: in a conversation, as a new question or as `regenerates` again. `path` is the
    fingerprint of the history that the client repeats; `strategy` goes before the request's own.
    """

    conversation: Conversation
    regenerates: Message | None = None
    path: int | None = None
    strategy: MultitaskStrategy | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a client asks for, validated. `regenerates` names an earlier message to be answered again instead of
    `content`. `locate` finds where it belongs, in the transaction that accepts it, for a client that names neither.
    `instructions` are the client's own system text: they go into this one prompt, and are stored until it is answered.
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
    locate: Callable[[Connection, Scope], Located] | None = None
    instructions: str = ""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The run that answers a request. With `begins` this process is to make it now, for that staff member and question;
    `interrupts` is the run that has to make way for it.
    """

    run: Run
    begins: tuple[Staff, Message] | None = None
    interrupts: Run | None = None


class Pipeline:
    """Makes replies. Recovery (background/recovery.py) writes their progress down and takes up what waits."""

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        owner: Owner,
        chat_model: ChatModel,
        learning: Learning,
        ledger: Ledger,
        ratios: TokenRatios,
        metrics: Metrics,
    ) -> None:
        self.metrics = metrics
        self.active_runs = ActiveRuns(self._make_reply)
        self.builder = ContextBuilder(
            settings=settings, database=database, learning=learning, ledger=ledger, ratios=ratios
        )
        self.endings = Endings(
            database=database,
            owner=owner,
            learning=learning,
            ledger=ledger,
            metrics=metrics,
            active_runs=self.active_runs,
            ratios=ratios,
        )
        self.stopper = RunStopper(database=database, endings=self.endings, active_runs=self.active_runs)
        self._settings = settings
        self._database = database
        self._owner = owner
        self._chat_model = chat_model
        self._learning = learning
        self._ledger = ledger
        self._burst_gate = BurstGate(BURST_MESSAGES, BURST_WAIT_S)
        self.on_run: Callable[[Run, Literal["run.started", "run.ended"]], None] = lambda run, kind: None

    # ── 1: accept ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def accept(self, request: RunRequest) -> Acceptance:
        """Save the question and its run in one transaction; once this returns, both survive anything.

        A stream's run begins at once if the conversation is free. Raises NotFound, Busy, Conflict, MessageTooLong,
        IdempotencyMismatch, Draining; nothing was saved then.
        """
        tokens = await self._count_question(request)
        context = contextvars.copy_context()  # the request's id and trace go on with its run
        with self.metrics.time_stage("accept", request.mode), self._burst_gate:
            return await self._database.write(
                lambda tx: self._accept(tx, request, tokens),
                then=lambda acceptance: self._begin_accepted(acceptance, context),
            )

    async def _count_question(self, request: RunRequest) -> int:
        """Tokens of the question; a long one is counted in a thread, as nothing may hold the loop for over 10 ms."""
        content, message_id = request.content, request.regenerates
        if message_id:

            def read(conn: Connection) -> Message:
                scope = staff.find_scope(conn, request.staff_id, request.user_id)
                return find_question(conn, scope, message_id)

            content = (await self._database.read(read)).content
        return count_tokens(content) if len(content) < 20_000 else await asyncio.to_thread(count_tokens, content)

    def _accept(self, tx: Connection, request: RunRequest, tokens: int) -> Acceptance:
        if self.active_runs.draining:
            raise Draining
        member, scope = staff.get_or_create_scope(tx, request.staff_id, request.user_id)
        key = request.idempotency_key
        if key and (known := idempotency.find_run_by_key(tx, scope, key, request.request_hash)):
            return Acceptance(known)
        (self._ledger.check_caps if request.mode == "stream" else self._ledger.check_spent)(tx, scope)
        located = _locate(tx, scope, request)
        conversation, strategy = located.conversation, located.strategy or request.strategy
        other = runs.find_active_run(tx, scope, conversation.id)
        if other and strategy == "reject":
            raise Busy(extra={"run_id": other.id})
        self.builder.check_length(member, tokens)
        question = located.regenerates or self._append_question(tx, member, scope, located, request.content)
        begins = request.mode == "stream" and other is None
        run = runs.insert_run(
            tx, scope, conversation, question,
            mode=request.mode, webhook_url=request.webhook_url, instructions=request.instructions,
            owner=self._owner if begins else None,
        )  # fmt: skip
        if key:
            idempotency.save_idempotency_key(tx, scope, key, request.request_hash, run)
        interrupts = other if strategy == "interrupt" else None
        return Acceptance(run, (member, question) if begins else None, interrupts)

    def _append_question(self, tx: Connection, member: Staff, scope: Scope, located: Located, content: str) -> Message:
        question = messages.append_user_message(tx, scope, located.conversation, content, path=located.path)
        self._learning.index_user_message(tx, member, scope, located.conversation, question)
        return question

    def _begin_accepted(self, acceptance: Acceptance, context: contextvars.Context) -> None:
        if acceptance.begins:
            self.active_runs.begin_one(ActiveRun(acceptance.run, *acceptance.begins), context)
        elif acceptance.run.state == "queued":
            self.active_runs.queue_changed.set()
        if other := acceptance.interrupts:
            self.active_runs.spawn(self._interrupt(other), f"interrupt run {other.id}")

    def stop_soon(self, run: Run) -> None:
        """Stop a run that nobody waits for any more."""
        self.active_runs.spawn(self._interrupt(run), f"stop run {run.id}")

    async def _interrupt(self, run: Run) -> None:
        try:
            await self.stopper.stop(run)
        except StaffstreamError as error:  # erased meanwhile, or no disk: then the new run waits for its end
            log.warning("run %s could not be interrupted: %s", run.id, error.code)

    async def answer_unsaved(
        self, staff_id: str, user_id: str, messages: Sequence[Message], instructions: str
    ) -> ActiveRun:
        """Begin a reply of which nothing is stored or learned but what it costs: to the last of the messages, in the
        light of those before it and of no memory. Raises NotFound, MessageTooLong, Draining and what the caps raise.
        """
        if self.active_runs.draining:
            raise Draining

        def check(tx: Connection) -> tuple[Staff, Scope]:
            member, scope = staff.get_or_create_scope(tx, staff_id, user_id)
            self._ledger.check_caps(tx, scope)
            return member, scope

        tokens = await asyncio.to_thread(count_tokens, messages[-1].content)
        member, scope = await self._database.write(check)
        self.builder.check_length(member, tokens)
        active = ActiveRun(draft_run(scope, instructions), member, messages[-1], past=messages[:-1])
        self.active_runs.begin_one(active, contextvars.copy_context())
        return active

    async def _make_reply(self, active: ActiveRun) -> None:
        """Steps 2 to 4. Whatever happens in 2 and 3, 4 gives the run one terminal state and one terminal frame."""
        is_saved = active.past is None
        if is_saved:
            self.on_run(active.run, "run.started")
        with report_reply(active):
            with active:
                try:
                    async with limit_silence(self._settings.run_timeout_s):  # nothing is noted: the whole
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
        if is_saved:
            self.on_run(active.run, "run.ended")

    # ── 2: build ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _build(self, active: ActiveRun) -> Context:
        """The prompt, from one snapshot of the database; no model call is on this path."""
        with self.metrics.time_stage("build", active.run.mode), traces.trace_work("build"):
            context, stages = await self.builder.build_context(active)
            traces.add_stages(stages)
        observe_context(self.metrics, context.record, stages)
        active.context, active.requested_at = context, now_text()
        return context

    # ── 3: stream ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _stream(self, active: ActiveRun, context: Context) -> None:
        """Relay the provider's stream into the run's log. Further attempts are made only while there is no text, and
        all of them together may be silent no longer than one may.
        """
        loop, limit_s = asyncio.get_running_loop(), self._settings.stream_timeout_s
        try:
            async with limit_silence(limit_s) as active.first_token_watch:
                await self._attempt_stream(active, context, give_up_at=loop.time() + limit_s)
        except TimeoutError as error:
            raise UpstreamTimeout from error

    async def _attempt_stream(self, active: ActiveRun, context: Context, *, give_up_at: float) -> None:
        for attempt in range(self._settings.upstream_retries + 1):
            try:
                await self._chat_model.stream_reply(context.prompt, active.on_events)
                return
            except UpstreamError as error:
                wait_s = self._choose_wait_s(error, attempt)
                ends_at = asyncio.get_running_loop().time() + (wait_s or 0)
                if wait_s is None or active.log.cursor or ends_at >= give_up_at:
                    raise
                log.info("run %s: %s, trying again in %.1f s", active.run.id, error.code, wait_s)
                await asyncio.sleep(wait_s)

    def _choose_wait_s(self, error: UpstreamError, attempt: int) -> float | None:
        """How long to wait before the next attempt; None when there is to be none. The cap is for waits that the
        provider asks for: a longer one is given up. Our own wait is only shortened to it.
        """
        cap_s, asked_s = self._settings.upstream_retry_cap_s, error.retry_after_s or 0.0
        if not error.retryable or attempt == self._settings.upstream_retries or asked_s > cap_s:
            return None
        own_s: float = random.uniform(0.5, 1.0) * 2**attempt
        return max(asked_s, min(cap_s, own_s))

    # ── 4: finish ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _finish(self, active: ActiveRun) -> None:
        """Commit the reply and the run's end together, then send the terminal frame to its subscribers."""
        with traces.trace_work("commit"):
            end = await (self.endings.end_reply(active) if active.past is None else self.endings.end_unsaved(active))
        self.active_runs.close(active, end)


def _locate(tx: Connection, scope: Scope, request: RunRequest) -> Located:
    """The conversation of a request, made if need be. Raises NotFound, Conflict."""
    if request.locate:
        return request.locate(tx, scope)
    asked = find_question(tx, scope, request.regenerates) if request.regenerates else None
    conversation_id = asked.conversation_id if asked else request.conversation_id
    return Located(conversations.ensure_conversation(tx, scope, conversation_id), asked)


def find_question(conn: Connection, scope: Scope, message_id: str) -> Message:
    """The question to be answered again: the message itself, or the one it replies to. Raises NotFound, Conflict."""
    message = messages.get_message(conn, scope, message_id)
    if message.reply_to:
        message = messages.get_message(conn, scope, message.reply_to)
    if message.message_type != "user":
        raise Conflict("This message answers no question, so there is nothing to answer again.")
    return message
