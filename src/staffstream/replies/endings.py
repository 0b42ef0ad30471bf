"""How runs end: the transactions that save a reply and give its run a terminal state, or put the run back into the
queue, and what follows their commit.

Whatever follows from an end (what is learned, what is paid for, which webhook is sent, which queued run is next) is
written in the same transaction, so that nothing of it is lost and none of it happens twice: the first terminal state
wins. Only what is kept in memory (metrics, token ratios, tasks) changes after the commit: a transaction may be run
more than once.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from staffstream.domain import STATUS_BY_STATE, Message, Owner, Run, RunEnd, RunFailure, RunState
from staffstream.errors import InternalError, NotFound, StaffstreamError, Unavailable
from staffstream.memory.learning import Learning
from staffstream.replies.active_runs import ActiveRun, ActiveRuns, describe_failure
from staffstream.replies.report import count_run
from staffstream.replies.token_ratios import TokenRatios
from staffstream.storage import contexts, deliveries, messages, run_pieces, runs, staff
from staffstream.storage.database import Connection, Database
from staffstream.storage.spending import Ledger
from staffstream.support.metrics import Metrics
from staffstream.support.tokens import count_tokens

log = logging.getLogger(__name__)

ASYNC_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Ended:
    """What such a transaction left: the run's row, None if it went back to the queue; whether it was this one that
    ended it; the run that was claimed after it, or whether one is due in the queue; and what to call after the commit.
    """

    run: Run | None
    claimed: Run | None = None
    queue_changed: bool = False
    follow_up: Callable[[], None] | None = None


EndPlan = Callable[[Connection], Ended]


class Endings:
    """Ends runs."""

    def __init__(
        self,
        *,
        database: Database,
        owner: Owner,
        learning: Learning,
        ledger: Ledger,
        metrics: Metrics,
        active_runs: ActiveRuns,
        ratios: TokenRatios,
    ) -> None:
        self.unsaved: list[EndPlan] = []  # ends that the disk has not taken yet
        self._database = database
        self._owner = owner
        self._learning = learning
        self._ledger = ledger
        self._metrics = metrics
        self._active_runs = active_runs
        self._ratios = ratios

    # ── runs of this process ─────────────────────────────────────────────────────────────────────────────────────────

    async def end_reply(self, active: ActiveRun) -> RunEnd | None:
        """Save the reply and end its run, or put the run back into the queue; returns its end, None when the run
        goes on elsewhere. An end that the disk refuses is kept in `unsaved`, and an error is returned.
        """
        again = is_made_again(active)
        plan = self._plan_requeue(active) if again else self._plan_end(active)
        try:
            ended = await self.commit(plan)
            return ended.run.end if ended.run and ended.run.ended else None
        except NotFound as error:  # its conversation was deleted meanwhile
            active.failure = error
        except Exception as error:
            log.exception("run %s could not be ended yet", active.run.id)
            active.failure = error if isinstance(error, StaffstreamError) else InternalError()
            self.unsaved.append(plan if again else self._plan_end(active))
        return RunEnd(failure=describe_failure(active.failure))

    async def end_unsaved(self, active: ActiveRun) -> RunEnd:
        """Pay for a reply that is not stored; returns its end."""
        state, failure = active.get_outcome()
        finished = active.finished
        usage = (finished.usage if finished else None) or _estimate(active, active.log.text)
        try:
            count = await self._database.write(
                lambda tx: self._ledger.record(tx, active.run.scope, active.model or "", usage)
            )
            count()
        except Exception:
            log.exception("what run %s cost could not be recorded", active.run.id)
        stop_reason = finished.stop_reason if finished else None
        return RunEnd(None, stop_reason, usage, state == "cancelled", failure)

    async def save_unsaved(self) -> None:
        """Try again to save the ends that the disk refused. Raises Unavailable when it still does."""
        while self.unsaved:
            try:
                await self.commit(self.unsaved[0])
            except Unavailable:
                raise
            except NotFound:
                pass  # its conversation was deleted since
            except Exception:
                log.exception("the end of a run cannot be saved; the next start will end it")
            self.unsaved.pop(0)

    async def commit(self, plan: EndPlan) -> Ended:
        """Run a plan as one transaction, and what follows from it after the commit."""
        return await self._database.write(plan, then=self._follow_up)

    def _plan_end(self, active: ActiveRun) -> EndPlan:
        """Save the reply and end the run with its outcome."""
        run, text, finished = active.run, active.log.text, active.finished
        state, failure = active.get_outcome()
        usage = finished.usage if finished else None
        stop_reason = finished.stop_reason if finished else None
        has_reply = bool(text) or state == "done"
        record = active.context.record if active.context else None

        def end(tx: Connection) -> Ended:
            ended = runs.end_run(
                tx, run, state, message_id=run.id if has_reply else None, error=failure, model=active.model,
                usage=usage, stop_reason=stop_reason, streaming_at=active.streaming_at,
                first_token_at=active.first_token_at,
            )  # fmt: skip
            if ended is None:
                return self._claim_next(tx, Ended(runs.get_run(tx, run.scope, run.id)))
            self._save_text(
                tx, ended, text if has_reply else None, state, usage=usage, record=record, question=active.question
            )
            count_spending = self._ledger.record(tx, run.scope, active.model or "", usage or _estimate(active, text))
            if record:
                contexts.save_record(tx, run.id, record)

            def follow_up() -> None:
                count_run(self._metrics, ended, active.requested_at)
                count_spending()
                if active.context and usage:
                    self._ratios.learn(active.context.prompt.model, active.context.counted_tokens, usage)

            return self._claim_next(tx, Ended(ended, follow_up=follow_up))

        return end

    def _plan_requeue(self, active: ActiveRun) -> EndPlan:
        """Put the run back into the queue, to be made anew after a wait that grows with its attempts; one that somebody
        was sent some of ends instead.
        """
        end = self._plan_end(active)
        asked_s = (active.failure and active.failure.retry_after_s) or 0.0
        wait_s = 0.0 if active.stop_cause else max(asked_s, random.uniform(0.8, 1.2) * 2**active.run.attempts)

        def requeue(tx: Connection) -> Ended:
            if active.log.cursor and runs.was_delivered(tx, active.run):
                return end(tx)
            runs.requeue_run(tx, active.run, wait_s=wait_s)
            return Ended(None)

        return requeue

    # ── runs that this process is not making ─────────────────────────────────────────────────────────────────────────

    def end_from_row(self, tx: Connection, run: Run, state: RunState, failure: RunFailure | None = None) -> Ended:
        """End a run from what its row holds, unless it was claimed meanwhile, and claim the next one."""
        text = run_pieces.load_text(tx, run.id)
        ended = runs.end_run(tx, run, state, message_id=run.id if text else None, error=failure)
        if ended is None:
            return self._claim_next(tx, Ended(runs.get_run(tx, run.scope, run.id)))
        self._save_text(tx, ended, text or None, state)
        return self._claim_next(tx, Ended(ended, follow_up=lambda: count_run(self._metrics, ended, None)))

    # ── what belongs to every end ────────────────────────────────────────────────────────────────────────────────────

    def _save_text(
        self,
        tx: Connection,
        ended: Run,
        text: str | None,
        state: RunState,
        *,
        usage: dict[str, int] | None = None,
        record: dict[str, Any] | None = None,
        question: Message | None = None,
    ) -> None:
        """Save the reply if there is one, have it learned from, and enqueue its webhook. A `question` that is not given
        is read.
        """
        member = staff.get_staff(tx, ended.staff_id)  # as it is now: its webhook or memory may have been switched off
        if text is None:
            if member.memory_enabled:  # the question is learned from
                self._learning.schedule_extraction(tx, ended.scope, ended.conversation_id)
        else:
            reply = messages.append_reply(
                tx,
                ended,
                text,
                status=STATUS_BY_STATE[state],
                model=ended.model,
                stop_reason=ended.stop_reason,
                usage=usage,
            )
            question = question or messages.get_message(tx, ended.scope, ended.user_message_id)
            self._learning.index_reply(tx, member, ended, reply, record, question=question)
        deliveries.enqueue_delivery(tx, member, ended, text or "")

    def _claim_next(self, tx: Connection, ended: Ended) -> Ended:
        """Claim the run that waited for this one."""
        run = ended.run
        if self._active_runs.draining or run is None or not run.ended:
            return ended
        claimed, waits = runs.claim_next_run(tx, owner=self._owner, conversation_id=run.conversation_id)
        return replace(ended, claimed=claimed, queue_changed=waits)

    def _follow_up(self, ended: Ended) -> None:
        if ended.follow_up:
            ended.follow_up()
        if ended.claimed:
            self._active_runs.begin([ended.claimed])
        if ended.queue_changed:
            self._active_runs.queue_changed.set()
        self._learning.jobs_changed.set()

    def follow_up_all(self, ended: list[Ended]) -> None:
        """What follows the commit that ended several runs."""
        for each in ended:
            self._follow_up(each)


def is_made_again(active: ActiveRun) -> bool:
    """Whether an asynchronous run goes back to the queue: at a shutdown, which is not to lose more than a crash would;
    after a failure if it has no text yet and another attempt may help.
    """
    if active.run.mode != "async" or active.finished:
        return False
    if active.stop_cause is not None:
        return active.stop_cause == "shutdown"
    if active.log.cursor or active.failure is None:
        return False
    return active.failure.retryable and active.run.attempts < ASYNC_ATTEMPTS


def _estimate(active: ActiveRun, text: str) -> dict[str, int]:
    """The usage by our count, of a reply that broke off after the provider had begun it: that is paid for as well."""
    if active.streaming_at is None or active.context is None:
        return {}
    return {"input_tokens": active.context.record["total_tokens"], "output_tokens": count_tokens(text)}
