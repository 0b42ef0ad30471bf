"""How runs end in the database: the transactions that save a reply and give its run a terminal state, or put the run
back into the queue.

Whatever follows from an end (what is learned, what is paid for, which webhook is told) is written in the same
transaction, so that nothing of it is lost and none of it happens twice: the first terminal state wins.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from staffstream.domain import MessageStatus, Run, RunFailure, RunState
from staffstream.memory.learning import Learning
from staffstream.replies.active_runs import ActiveRun
from staffstream.replies.context import Context
from staffstream.storage import contexts, conversations, deliveries, runs, staff
from staffstream.storage.database import Connection
from staffstream.storage.spending import Ledger
from staffstream.support import sse
from staffstream.support.tokens import count_tokens

ASYNC_ATTEMPTS = 8

_STATUS: dict[str, MessageStatus] = {"done": "complete", "cancelled": "cancelled", "failed": "interrupted"}


@dataclass(frozen=True, slots=True)
class Ended:
    """What such a transaction left: the run's row, whether it was this one that ended it, the token ratios that it
    changed, and when Claude had been asked. `run` is None when the run went back to the queue.
    """

    run: Run | None
    by_us: bool = False
    ratios: dict[str, float] = field(default_factory=dict)
    asked_at: str | None = None


EndPlan = Callable[[Connection], Ended]


class Endings:
    """Plans the ends of runs."""

    def __init__(self, *, learning: Learning, ledger: Ledger) -> None:
        self._learning = learning
        self._ledger = ledger

    def plan_end(self, active: ActiveRun) -> EndPlan:
        """Save the reply, end the run as it was judged, and learn from Claude's count."""
        run, text, finished = active.run, active.log.text, active.finished
        state, failure = active.judge()
        usage = finished.usage if finished else None
        stop_reason = finished.stop_reason if finished else None
        said = bool(text) or state == "done"

        def end(tx: Connection) -> Ended:
            ended = runs.end_run(
                tx, run, state, message_id=run.id if said else None, error=failure, model=active.model, usage=usage,
                stop_reason=stop_reason, streaming_at=active.streaming_at, first_token_at=active.first_token_at,
            )  # fmt: skip
            if ended is None:
                return Ended(runs.get_run(tx, run.scope, run.id))
            member = staff.get_staff(tx, run.staff_id)
            if said:
                reply = conversations.append_reply(
                    tx, run, text, status=_STATUS[state], model=active.model, stop_reason=stop_reason, usage=usage
                )
                self._learning.index_reply(tx, member, run, reply, active.context.record if active.context else None)
            else:
                self._learning.schedule_learning(tx, run)
            deliveries.enqueue_delivery(tx, member, ended, text)
            self._ledger.record(tx, run.scope, active.model or "", usage or _estimate_usage(active, text))
            ratios = {}
            if active.context:
                contexts.save_record(tx, run.id, active.context.record)
                ratios = _learn_ratio(tx, active.context, usage)
            return Ended(ended, by_us=True, ratios=ratios, asked_at=active.asked_at)

        return end

    def plan_requeue(self, active: ActiveRun) -> EndPlan:
        """Put the run back into the queue, to be made anew after a wait that grows with its attempts; one that somebody
        was sent some of ends instead.
        """
        end = self.plan_end(active)
        asked_s = (active.failure and active.failure.retry_after_s) or 0.0
        wait_s = 0.0 if active.stop_cause else max(asked_s, random.uniform(0.8, 1.2) * 2**active.run.attempts)

        def requeue(tx: Connection) -> Ended:
            if active.log.cursor and runs.was_delivered(tx, active.run):
                return end(tx)
            runs.requeue_run(tx, active.run, wait_s=wait_s)
            return Ended(None)

        return requeue

    def end_from_row(self, tx: Connection, run: Run, state: RunState, failure: RunFailure | None = None) -> Ended:
        """End a run that this process is not making, from what its row holds, unless it was claimed meanwhile."""
        text = runs.get_run(tx, run.scope, run.id).partial_text
        ended = runs.end_run(tx, run, state, message_id=run.id if text else None, error=failure)
        if ended is None:
            return Ended(runs.get_run(tx, run.scope, run.id))
        member = staff.get_staff(tx, run.staff_id)
        if text:
            reply = conversations.append_reply(tx, run, text, status=_STATUS[state])
            self._learning.index_reply(tx, member, run, reply, None)
        else:
            self._learning.schedule_learning(tx, run)
        deliveries.enqueue_delivery(tx, member, ended, text)
        return Ended(ended, by_us=True)


def is_made_again(active: ActiveRun) -> bool:
    """Whether an asynchronous run goes back to the queue: at a shutdown, which is not to lose more than a crash would;
    after a failure if nothing has been said and another attempt may help.
    """
    if active.run.mode != "async" or active.finished:
        return False
    if active.stop_cause is not None:
        return active.stop_cause == "shutdown"
    if active.log.cursor or active.failure is None:
        return False
    return active.failure.retryable and active.run.attempts < ASYNC_ATTEMPTS


def _learn_ratio(tx: Connection, context: Context, usage: dict[str, int] | None) -> dict[str, float]:
    """Take what Claude counted for the prompt into the model's ratio; returns what changed."""
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    counted = sum((usage or {}).get(name, 0) for name in names)
    if not counted or not context.counted_tokens:
        return {}
    model, ratio = context.prompt.model, min(3.0, max(0.5, counted / context.counted_tokens))
    return {model: runs.learn_token_ratio(tx, model, ratio)}


def _estimate_usage(active: ActiveRun, text: str) -> dict[str, int]:
    """By our count, for a reply that broke off after Claude had begun it: that is paid for as well."""
    if active.streaming_at is None or active.context is None:
        return {}
    return {"input_tokens": active.context.record["total_tokens"], "output_tokens": count_tokens(text)}


def encode_terminal(run: Run) -> bytes:
    """The one terminal frame of a run that has ended."""
    if run.error:
        return sse.encode_error(run.error, run.message_id)
    return sse.encode_done(
        run.message_id, stop_reason=run.stop_reason, usage=run.usage, cancelled=run.state == "cancelled"
    )
