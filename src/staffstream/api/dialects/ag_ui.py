"""AG-UI: what HttpAgent, CopilotKit and others speak. A thread is a conversation, a run's message has the run's id.

Hanging up stops nothing. Whoever asks the same again while its reply is being made, or shows a part of that reply as
its last message, is given a snapshot of what there is and the message re-opened: nothing is asked of Claude twice.
"""

import contextlib
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictStr
from starlette.types import ASGIApp

from staffstream.api.dialects.ai_sdk import count_usage
from staffstream.api.dialects.asking import Asked, ask, make_request
from staffstream.api.dialects.locating import History, Said, locate_by_name
from staffstream.api.endpoints import Call, Endpoints
from staffstream.api.run_streams import count_stream
from staffstream.domain import Run, RunEnd
from staffstream.errors import BadRequest, NotFound
from staffstream.replies.encoders import Phase
from staffstream.storage import conversations, messages, runs, staff
from staffstream.storage.database import Connection
from staffstream.support import sse

endpoints = Endpoints("ag-ui", "/api/v1/staff/{staff_id}/ag-ui", is_described=False)

Json = dict[str, Any]
Name = Annotated[StrictStr, Field(min_length=1, max_length=255)]


# ── the request ──────────────────────────────────────────────────────────────────────────────────────────────────────


class AgentMessage(BaseModel):
    """A message as the client holds it."""

    model_config = ConfigDict(extra="allow")

    id: StrictStr
    role: StrictStr
    content: Any = None
    toolCalls: list[Any] | None = None


class RunAgentInput(BaseModel):
    """What a client sends to run an agent. State, context and forwarded properties are accepted and ignored."""

    model_config = ConfigDict(extra="allow")

    threadId: Name
    runId: Name
    messages: Annotated[list[AgentMessage], Field(max_length=5000)] = []
    tools: list[Any] = []
    resume: list[Any] | None = None


def read_history(messages: Sequence[AgentMessage]) -> tuple[History, str]:
    """The past, the new message, and the client's system text. Raises BadRequest."""
    said = [(message.role, _read_text(message)) for message in messages]
    talk = [(role, text) for role, text in said if role in ("user", "assistant") and text.strip()]
    if not talk or talk[-1][0] != "user" or messages[-1].role != "user":
        raise BadRequest("The last message must be the user's, and must have text.")
    past = [Said(role, text) for role, text in talk[:-1]]  # type: ignore[arg-type]
    system = [text for role, text in said if role in ("system", "developer") and text.strip()]
    return History(past, talk[-1][1]), "\n\n".join(system)


def _read_text(message: AgentMessage) -> str:
    if message.role in ("activity", "reasoning"):
        return ""
    if message.role == "tool" or message.toolCalls:
        raise BadRequest("Tool messages are not supported.")
    content = message.content
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        raise BadRequest("Only text can be read: no images, audio or files.")
    return "\n".join(str(part.get("text") or "") for part in parts)


# ── the call ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@endpoints.post("")
async def run_agent(call: Call, body: RunAgentInput) -> ASGIApp:
    """A reply to the thread's last message, as it is made; one that is being made already is joined."""
    if body.tools:
        raise BadRequest("Staff members call no tools.")
    if body.resume:
        raise BadRequest("Staff members ask for no approval, so there is nothing to resume.")
    if run := await _find_run_to_join(call, body):
        return await _join(call, body, run)
    history, instructions = read_history(body.messages)
    locate = locate_by_name(body.threadId, history, call.services.learning, strategy="interrupt")
    asked = await ask(call, make_request(call, call.param("staff_id"), history, locate, instructions=instructions))
    return asked.stream(lambda run: AgentEncoder(run, body))


async def _find_run_to_join(call: Call, body: RunAgentInput) -> Run | None:
    """The run whose reply the client shows a part of as its last message, or the active one that answers its last
    question.
    """

    def find(conn: Connection) -> Run | None:
        scope = staff.find_scope(conn, call.param("staff_id"), call.user_id)
        found = conversations.find_named_conversation(conn, scope, body.threadId)
        if found is None or not body.messages:
            return None
        last = body.messages[-1]
        if last.role == "assistant":
            run = runs.get_run(conn, scope, last.id)
            return run if run.conversation_id == found.id else None
        run_or_none = runs.find_active_run(conn, scope, found.id)
        if run_or_none and last.role == "user":
            question = messages.get_message(conn, scope, run_or_none.user_message_id)
            return run_or_none if question.content.strip() == _read_text(last).strip() else None
        return None

    with contextlib.suppress(NotFound):
        return await call.services.database.read(find)
    return None


async def _join(call: Call, body: RunAgentInput, run: Run) -> ASGIApp:
    run, text = await call.services.subscriptions.describe(run.scope, run.id)
    shown = [message.model_dump(exclude_unset=True) for message in body.messages if message.id != run.id]
    snapshot = [*shown, {"id": run.id, "role": "assistant", "content": text}]
    held = contextlib.ExitStack()
    held.enter_context(count_stream(call))
    joined = Asked(call, run, None, held, after=len(text))
    return joined.stream(lambda run: AgentEncoder(run, body, snapshot, len(text)))


# ── the answer ───────────────────────────────────────────────────────────────────────────────────────────────────────


class AgentEncoder:
    """A reply as AG-UI events. With a snapshot its message is re-opened, and goes on after that text."""

    ping = sse.PING
    wants_status = False
    wants_thinking = True

    def __init__(self, run: Run, body: RunAgentInput, snapshot: list[Json] | None = None, after: int = 0) -> None:
        self._ids = {"threadId": body.threadId, "runId": body.runId}
        self._run_id = run.id
        self._snapshot = snapshot
        self._after = after
        self._has_text = False
        self._has_thinking = False
        self._before = sse.encode_json({"type": "TEXT_MESSAGE_CONTENT", "messageId": run.id, "delta": ""})[:-3]

    def encode_start(self) -> bytes:
        """The run, and what there is already."""
        started = _encode({"type": "RUN_STARTED", **self._ids})
        if self._snapshot is None:
            return started
        return started + _encode({"type": "MESSAGES_SNAPSHOT", "messages": self._snapshot})

    def encode_thinking(self, start: int, text: str) -> bytes:
        """A piece of the reasoning message, which comes before the text."""
        self._has_thinking = True
        message_id = f"{self._run_id}-reasoning"
        opening = b""
        if start == 0:
            opening = _encode({"type": "REASONING_START", "messageId": message_id}) + _encode(
                {"type": "REASONING_MESSAGE_START", "messageId": message_id, "role": "reasoning"}
            )
        return opening + _encode({"type": "REASONING_MESSAGE_CONTENT", "messageId": message_id, "delta": text})

    def encode_text(self, start: int, text: str) -> bytes:
        """A piece of the message; everything around it was written once."""
        self._has_text = True
        frame = b"data: %s%s}\n\n" % (self._before, sse.encode_json(text))
        if start > self._after:
            return frame
        opening = _encode({"type": "TEXT_MESSAGE_START", "messageId": self._run_id, "role": "assistant"})
        return b"".join((self._end_thinking(), opening, frame))

    def encode_status(self, phase: Phase, *, elapsed_ms: int, tokens: int) -> bytes:
        """This dialect has no words for it."""
        return b""

    def encode_end(self, end: RunEnd) -> bytes:
        """The end of the message and of the run, with its usage; or an error."""
        closing = b"" if self._has_text else self._end_thinking()
        if self._has_text:
            closing = _encode({"type": "TEXT_MESSAGE_END", "messageId": self._run_id})
        if end.failure:
            error = {"type": "RUN_ERROR", "message": end.failure.detail, "code": end.failure.code}
            return closing + _encode(error)
        result = {"stopReason": "cancelled" if end.cancelled else end.stop_reason, "usage": count_usage(end.usage)}
        return closing + _encode({"type": "RUN_FINISHED", **self._ids, "result": result})

    def _end_thinking(self) -> bytes:
        if not self._has_thinking:
            return b""
        message_id = f"{self._run_id}-reasoning"
        return _encode({"type": "REASONING_MESSAGE_END", "messageId": message_id}) + _encode(
            {"type": "REASONING_END", "messageId": message_id}
        )


def _encode(event: Json) -> bytes:
    return sse.encode_event(event)
