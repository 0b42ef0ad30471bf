"""`/staff/{staff_id}/runs/{run_id}`: looking at a run, joining its stream, stopping it."""

import contextlib
import math
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request

from staffstream.api.endpoints import Call, Endpoints, Result
from staffstream.api.event_stream import EventStream
from staffstream.api.request_models import JoinQuery
from staffstream.api.response_models import RUN, show_run
from staffstream.api.run_streams import RUN_ID_HEADERS, count_stream, stream_run
from staffstream.domain import Run, parse_time
from staffstream.errors import BadCursor

endpoints = Endpoints("runs", "/api/v1/staff/{staff_id}/runs/{run_id}")


@endpoints.get("", response=RUN.model, sends=["Retry-After"], etag=True)
async def show(call: Call) -> Result:
    """The run's state and its text so far."""
    run, text = await call.services.subscriptions.describe(await call.find_scope(), call.param("run_id"))
    return Result(_show(call, run, text), {} if run.ended else {"Retry-After": str(_hint_wait_s(run))})


@endpoints.get(
    "/stream",
    media_type="text/event-stream",
    takes=["Last-Event-ID"],
    sends=RUN_ID_HEADERS,
    problems=[400],
    takes_join_token=True,
)
async def join(call: Call, query: JoinQuery) -> EventStream:
    """All the text after a cursor, then live, then the terminal frame."""
    run_id = call.param("run_id")
    after = _read_cursor(call.request, query, run_id)
    run = await call.services.subscriptions.check_cursor(await call.find_scope(), run_id, after)
    held = contextlib.ExitStack()
    held.enter_context(count_stream(call))
    return stream_run(call, run, after, query.make_encoder(run), held)


@endpoints.post("/cancel", response=RUN.model)
async def cancel(call: Call) -> dict[str, Any]:
    """Stop the run; its text so far is kept. Idempotent."""
    run, text = await call.services.pipeline.stopper.cancel(await call.find_scope(), call.param("run_id"))
    return _show(call, run, text)


def _show(call: Call, run: Run, text: str) -> dict[str, Any]:
    """The run; with keys also a token by which an EventSource, which sends no headers, may join it."""
    key_id = call.caller.key_id
    shown = show_run(run, text)
    return shown if key_id is None else shown | {"join_token": call.services.join_tokens.make(run.id, key_id)}


def _hint_wait_s(run: Run) -> int:
    """When it is worth asking again: soon, but for a run that itself waits for another attempt."""
    if run.state != "queued" or run.not_before is None:
        return 1
    return max(1, math.ceil((parse_time(run.not_before) - datetime.now(UTC)).total_seconds()))


def _read_cursor(request: Request, query: JoinQuery, run_id: str) -> int:
    """The cursor of Last-Event-ID or else of `?after=`, bare or as a frame's whole id; 0 without one. Raises BadCursor.

    The header goes first: an EventSource that lost its connection asks for its first URL again, `?after=` and all, and
    says by the header what it has received since.
    """
    value = request.headers.get("last-event-id") or query.after
    if not value:
        return 0
    owner, _, cursor = value.rpartition(":")
    if owner not in ("", run_id) or not (cursor.isascii() and cursor.isdigit()) or len(cursor) > 15:
        raise BadCursor
    return int(cursor)
