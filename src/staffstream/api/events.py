"""`/events`: what changes for the caller, as it happens."""

import contextlib
import functools
from typing import Any

from staffstream.api.endpoints import Call, Endpoints
from staffstream.api.event_models import LiveEvent
from staffstream.api.event_stream import EventStream
from staffstream.api.run_streams import count_stream

endpoints = Endpoints("events", "/api/v1")


@endpoints.get("/events", response=LiveEvent, media_type="text/event-stream", takes=["Last-Event-ID"])
async def follow(call: Call) -> EventStream:
    """What changes for the caller, with every staff member, as it happens.

    Each event names its kind and the ids of what it is about. A client that comes back with Last-Event-ID goes on after
    that event; where the server cannot go on, `reset` comes first, and the client has to ask for everything again.
    """
    held = contextlib.ExitStack()
    held.enter_context(count_stream(call))
    follow_events: Any = functools.partial(
        call.services.events.follow,
        call.user_id,
        call.request.headers.get("last-event-id"),
        heartbeat_s=call.services.settings.heartbeat_s,
    )
    return EventStream(follow_events, slow_reader_s=call.services.settings.slow_reader_s, held=held)
