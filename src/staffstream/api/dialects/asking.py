"""What the dialects share: the caller's staff member by name, asking, and answering with a stream or with the whole."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Sequence

from starlette.types import Receive

from staffstream.api.dialects.locating import History, Locate
from staffstream.api.endpoints import Call
from staffstream.api.event_stream import EventStream
from staffstream.api.run_streams import count_stream, list_run_ids
from staffstream.domain import Message, MultitaskStrategy, Run, RunEnd, Staff, now_text
from staffstream.errors import Conflict, NotFound, StaffstreamError
from staffstream.pipeline import RunRequest
from staffstream.replies.active_runs import ActiveRun
from staffstream.replies.encoders import Encoder, Phase
from staffstream.storage import staff

TEMPORARY = ":temporary"
"""After a staff member's name: answers that are neither stored nor learned from."""


async def find_staff(call: Call, name: str) -> Staff:
    """The staff member of this id, or the only one of this name. Raises NotFound, Conflict."""
    members = await call.services.database.read(staff.list_staff)
    found = [member for member in members if name in (member.id, member.name)]
    if not found:
        raise NotFound(f"There is no staff member called {name[:100]!r}.")
    if len(found) > 1:
        raise Conflict(f"{len(found)} staff members are called {name[:100]!r}. Use the id of one.")
    return found[0]


def make_request(
    call: Call,
    staff_id: str,
    history: History,
    locate: Locate,
    *,
    instructions: str = "",
    strategy: MultitaskStrategy = "enqueue",
    user_id: str | None = None,
) -> RunRequest:
    """The request of a client's new message."""
    return RunRequest(
        staff_id=staff_id,
        user_id=user_id or call.user_id,
        content=history.content,
        mode="stream",
        strategy=strategy,
        locate=locate,
        instructions=instructions,
    )


class Asked:
    """A reply that was asked for: a run, which is stored, or an active run that is not. Its place among the caller's
    open streams is held until the answer is over.
    """

    def __init__(
        self, call: Call, run: Run, active: ActiveRun | None, held: contextlib.ExitStack, *, after: int = 0
    ) -> None:
        self.run = run
        self._after = after
        self._call = call
        self._active = active
        self._held = held

    def stream(
        self,
        make_encoder: Callable[[Run], Encoder],
        *,
        stops: bool = False,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> EventStream:
        """The reply as it is made. With `stops`, the run ends when the client hangs up."""
        encoder = make_encoder(self.run)
        stream = EventStream(
            self._choose_follow(encoder),
            slow_reader_s=self._call.services.settings.slow_reader_s,
            headers=[*self.list_headers(), *headers],
            held=self._held,
            encode_end=encoder.encode_end,
            on_leave=self.stop if stops else None,
        )
        self._held.enter_context(self._call.services.open_streams.register(self._call.caller.key_id, stream))
        return stream

    async def collect(self) -> "WholeReply":
        """The whole reply. A client that hangs up stops the run."""
        whole = WholeReply()
        with self._held:
            follow = asyncio.create_task(self._collect(whole))
            leaving = asyncio.create_task(wait_disconnected(self._call.request.receive))
            try:
                await asyncio.wait([follow, leaving], return_when=asyncio.FIRST_COMPLETED)
                if not follow.done():
                    self.stop()
                await follow
            finally:
                leaving.cancel()
                follow.cancel()
        return whole

    async def _collect(self, whole: "WholeReply") -> None:
        async with contextlib.aclosing(self._choose_follow(whole)(push=None)) as frames:
            async for _ in frames:
                pass

    def _choose_follow(self, encoder: Encoder) -> functools.partial[AsyncGenerator[bytes, None]]:
        subscriptions = self._call.services.subscriptions
        if self._active:
            return functools.partial(subscriptions.follow_unsaved, self._active, encoder=encoder)
        return functools.partial(subscriptions.follow, self.run, self._after, encoder=encoder)

    def stop(self) -> None:
        """End the run soon."""
        if self._active:
            self._active.stop("user")
        else:
            self._call.services.pipeline.stop_soon(self.run)

    def list_headers(self) -> list[tuple[bytes, bytes]]:
        """The run's ids; none of a reply that is not stored."""
        ids = {} if self._active else list_run_ids(self.run)
        return [(b"x-" + name.replace("_", "-").encode(), value.encode()) for name, value in ids.items()]


async def ask(call: Call, request: RunRequest) -> Asked:
    """Accept a request and wait until its response may start. Raises what makes the run fail before that."""
    with contextlib.ExitStack() as held:
        held.enter_context(count_stream(call))
        run = (await call.services.pipeline.accept(request)).run
        try:
            await call.services.subscriptions.wait_started(run)
        except StaffstreamError as error:
            error.extra |= list_run_ids(run)
            raise
        return Asked(call, run, None, held.pop_all())


async def ask_unsaved(call: Call, staff_id: str, history: History, *, instructions: str, user_id: str) -> Asked:
    """The same for a reply of which nothing is stored."""
    now = now_text()
    said = [*((each.role, each.text) for each in history.past), ("user", history.content)]
    messages = [Message("", staff_id, "", n, role, text, "complete", now) for n, (role, text) in enumerate(said)]
    with contextlib.ExitStack() as held:
        held.enter_context(count_stream(call))
        active = await call.services.pipeline.answer_unsaved(staff_id, user_id, messages, instructions)
        await call.services.subscriptions.wait_started(active.run, active)
        return Asked(call, active.run, active, held.pop_all())


async def wait_disconnected(receive: Receive) -> None:
    """Return when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


class WholeReply:
    """An encoder that keeps what it is given."""

    ping = b""
    wants_status = False
    wants_thinking = True

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thinking: list[str] = []
        self.end = RunEnd()

    def encode_start(self) -> bytes:
        return b""

    def encode_thinking(self, start: int, text: str) -> bytes:
        self.thinking.append(text)
        return b""

    def encode_text(self, start: int, text: str) -> bytes:
        self.texts.append(text)
        return b""

    def encode_status(self, phase: Phase, *, elapsed_ms: int, tokens: int) -> bytes:
        return b""

    def encode_end(self, end: RunEnd) -> bytes:
        self.end = end
        return b""
