"""What an operator is told of each reply: a span in the trace, and one line in the log."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from staffstream.domain import now_text, parse_time
from staffstream.replies.active_runs import ActiveRun
from staffstream.support import traces

log = logging.getLogger(__name__)


@contextlib.contextmanager
def report_reply(active: ActiveRun) -> Iterator[None]:
    """The block makes the reply; at its end it is reported, however it ended."""
    run = active.run
    attributes = {
        "gen_ai.conversation.id": run.conversation_id,
        "staffstream.run.id": run.id,
        "staffstream.staff.id": run.staff_id,
        "staffstream.mode": run.mode,
    }
    with traces.trace_work("reply", attributes) as span:
        yield
        traces.add_event("first_token", active.first_token_at)
        state, failure = active.get_outcome()
        if failure:
            traces.mark_failed(span, failure.code)
        reported = state if active.log.end is not None else "queued"  # to be made again, here or elsewhere
        log.info("reply ended", extra=_describe_end(active, reported, failure.code if failure else None))


def _describe_end(active: ActiveRun, state: str, code: str | None) -> dict[str, Any]:
    """The line's values; none of them is anybody's text."""
    run, usage = active.run, active.finished.usage if active.finished else {}
    return {
        "run_id": run.id,
        "staff_id": run.staff_id,
        "conversation_id": run.conversation_id,
        "mode": run.mode,
        "state": state,
        "code": code,
        "attempt": run.attempts,
        "model": active.model,
        "prompt_tokens": active.context.record["total_tokens"] if active.context else None,
        "output_tokens": usage.get("output_tokens"),
        "characters": active.log.cursor,
        "first_token_ms": _measure_ms(run.created_at, active.first_token_at),
        "total_ms": _measure_ms(run.created_at, now_text()),
    }


def _measure_ms(start: str, end: str | None) -> int | None:
    return round((parse_time(end) - parse_time(start)).total_seconds() * 1000) if end else None
