"""Answering with a run's stream: a new run's, or one that is joined."""

import contextlib
import functools
from collections.abc import Callable

from staffstream.api.auth import name_limited
from staffstream.api.endpoints import Call
from staffstream.api.event_stream import EventStream
from staffstream.domain import Run
from staffstream.errors import StaffstreamError
from staffstream.pipeline import RunRequest
from staffstream.replies.encoders import Encoder

RUN_ID_HEADERS = ["X-Run-Id", "X-User-Message-Id", "X-Conversation-Id"]


def count_stream(call: Call) -> contextlib.AbstractContextManager[None]:
    """One of the caller's open streams, for as long as the block lasts. Raises TooManyStreams on entry."""
    return call.services.limits.count_stream(name_limited(call.services, call.caller))


async def stream_new_run(call: Call, asked: RunRequest, make_encoder: Callable[[Run], Encoder]) -> EventStream:
    """Accept what is asked, and stream the reply as it is made. Raises what makes the run fail before its stream."""
    with contextlib.ExitStack() as held:
        held.enter_context(count_stream(call))
        run = (await call.services.pipeline.accept(asked)).run
        try:
            await call.services.subscriptions.wait_started(run)
        except StaffstreamError as error:
            error.extra |= list_run_ids(run)
            raise
        return stream_run(call, run, 0, make_encoder(run), held.pop_all())


def stream_run(call: Call, run: Run, after: int, encoder: Encoder, held: contextlib.ExitStack) -> EventStream:
    """The run's stream after a cursor. `held` is closed when the stream is over."""
    stream = EventStream(
        functools.partial(call.services.subscriptions.follow, run, after, encoder=encoder),
        slow_reader_s=call.services.settings.slow_reader_s,
        headers=[
            (b"x-" + name.replace("_", "-").encode(), value.encode()) for name, value in list_run_ids(run).items()
        ],
        held=held,
    )
    held.enter_context(call.services.open_streams.register(call.caller.key_id, stream))
    return stream


def list_run_ids(run: Run) -> dict[str, str]:
    """The ids that every answer about a new run carries."""
    return {"run_id": run.id, "user_message_id": run.user_message_id, "conversation_id": run.conversation_id}
