"""What an operator is told of each reply: a span in the trace, one line in the log, and what it adds to the metrics."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import Histogram

from staffstream.domain import Run, now_text, parse_time
from staffstream.replies.active_runs import ActiveRun
from staffstream.support import traces
from staffstream.support.metrics import Metrics
from staffstream.support.timers import Stage

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


def count_run(metrics: Metrics, run: Run, requested_at: str | None) -> None:
    """Count a run that has ended, from its row and the moment when the provider was asked."""
    metrics.runs.labels(run.mode, run.state, run.error.code if run.error else "").inc()
    texts = (run.created_at, run.building_at, requested_at, run.streaming_at, run.first_token_at, run.finished_at)
    created, building, requested, streaming, first, finished = (parse_time(text) if text else None for text in texts)
    _observe_span(metrics.replies.labels(run.mode), created, finished)
    _observe_span(metrics.stages.labels("queue", run.mode), created, building)
    _observe_span(metrics.stages.labels("claude", run.mode), requested, streaming)
    _observe_span(metrics.stages.labels("think", run.mode), streaming, first)
    _observe_span(metrics.first_token.labels(run.mode), created, first)
    tokens = (run.usage or {}).get("output_tokens", 0)
    if first and finished and run.state == "done" and tokens > 1:
        metrics.token_gap.observe((finished - first).total_seconds() / (tokens - 1))


def _observe_span(histogram: Histogram, start: datetime | None, end: datetime | None) -> None:
    if start and end:
        histogram.observe(max(0.0, (end - start).total_seconds()))


def observe_context(metrics: Metrics, record: Mapping[str, Any], stages: Iterable[Stage]) -> None:
    """Observe the sizes of a prompt from its record, and how long the search of its memories took."""
    metrics.context.labels("all").observe(record["total_tokens"])
    for section in record["sections"]:
        metrics.context.labels(section["name"]).observe(section["tokens"])
        if section["name"] == "memories":
            metrics.recalled.observe(len(section["items"]))
    metrics.recall.observe(sum(stage.seconds for stage in stages if stage.name in ("memories", "graph")))
