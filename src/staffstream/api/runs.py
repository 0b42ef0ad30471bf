"""`/staff/{staff_id}/runs/{run_id}`: looking at a run, joining its stream, stopping it."""

import contextlib
import functools
import math
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from staffstream.api.auth import Service, get_caller, hold_stream
from staffstream.api.event_stream import EventStream
from staffstream.api.json_responses import respond_fresh, respond_json
from staffstream.api.request_models import show_run
from staffstream.domain import Run, Scope, parse_time
from staffstream.errors import BadCursor
from staffstream.storage import staff


async def show(request: Request) -> Response:
    """The run's state and what it has said so far."""
    service, scope = await _find_scope(request)
    run, text = await service.subscriptions.describe(scope, request.path_params["run_id"])
    headers = {} if run.ended else {"Retry-After": str(_hint_wait_s(run))}
    return respond_fresh(request, show_run(run, text), headers)


async def join(request: Request) -> EventStream:
    """All the text after a cursor, then live, then the terminal frame."""
    service, scope = await _find_scope(request)
    run_id = request.path_params["run_id"]
    after = _read_cursor(request, run_id)
    run = await service.subscriptions.check_cursor(scope, run_id, after)
    held = contextlib.ExitStack()
    held.enter_context(hold_stream(request))
    status = "status" in request.query_params.get("events", "").split(",")
    return EventStream(
        functools.partial(service.subscriptions.follow, run, after, status=status),
        slow_reader_s=service.settings.slow_reader_s,
        headers=[
            (b"x-run-id", run.id.encode()),
            (b"x-user-message-id", run.user_message_id.encode()),
            (b"x-conversation-id", run.conversation_id.encode()),
        ],
        held=held,
    )


async def cancel(request: Request) -> Response:
    """Stop the run; it keeps what it has said. Idempotent."""
    service, scope = await _find_scope(request)
    run, text = await service.pipeline.cancel(scope, request.path_params["run_id"])
    return respond_json(show_run(run, text))


async def _find_scope(request: Request) -> tuple[Service, Scope]:
    service, user_id = await get_caller(request)
    staff_id = request.path_params["staff_id"]
    return service, await service.database.read(lambda conn: staff.find_scope(conn, staff_id, user_id))


def _hint_wait_s(run: Run) -> int:
    """When it is worth asking again: soon, but for a run that itself waits for another attempt."""
    if run.state != "queued" or run.not_before is None:
        return 1
    return max(1, math.ceil((parse_time(run.not_before) - datetime.now(UTC)).total_seconds()))


def _read_cursor(request: Request, run_id: str) -> int:
    """The cursor of Last-Event-ID or else of `?after=`, bare or as a frame's whole id; 0 without one. Raises BadCursor.

    The header goes first: an EventSource that lost its connection asks for its first URL again, `?after=` and all, and
    says by the header what it has heard since.
    """
    value = request.headers.get("last-event-id") or request.query_params.get("after") or ""
    if not value:
        return 0
    owner, _, cursor = value.rpartition(":")
    if owner not in ("", run_id) or not (cursor.isascii() and cursor.isdigit()) or len(cursor) > 15:
        raise BadCursor
    return int(cursor)
