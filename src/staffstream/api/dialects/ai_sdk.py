"""The AI SDK's UI message stream: what `useChat` and DefaultChatTransport speak, with `…/chat` as their `api`.

A chat's id names a conversation. Hanging up stops nothing: the reply goes on, and `…/chat/{chat_id}/stream` replays it
from its start under the same message id, so that the client has one message and not two.
"""

import contextlib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictStr
from starlette.responses import Response
from starlette.types import ASGIApp

from staffstream.api.dialects.asking import Asked, ask, make_request
from staffstream.api.dialects.locating import History, Said, locate_by_name
from staffstream.api.endpoints import Call, Endpoints
from staffstream.api.response_models import RUN, show_run
from staffstream.api.run_streams import count_stream
from staffstream.domain import Conversation, Message, Run, RunEnd
from staffstream.errors import BadRequest, NotFound
from staffstream.replies.encoders import Phase
from staffstream.storage import conversations, messages, runs, staff
from staffstream.storage.database import Connection
from staffstream.support import sse

endpoints = Endpoints("ai-sdk", "/api/v1/staff/{staff_id}/chat", is_described=False)

Json = dict[str, Any]
ChatId = Annotated[StrictStr, Field(min_length=1, max_length=255)]

_HEADERS = [(b"x-vercel-ai-ui-message-stream", b"v1")]
_STOP_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content-filter",
}
_MAX_MESSAGES = 1000
DONE = b"data: [DONE]\n\n"


# ── the request ──────────────────────────────────────────────────────────────────────────────────────────────────────


class UIPart(BaseModel):
    """A part of a message; only text can be read."""

    model_config = ConfigDict(extra="allow")

    type: StrictStr
    text: StrictStr | None = None


class UIMessage(BaseModel):
    """A message as the client holds it."""

    model_config = ConfigDict(extra="allow")

    id: StrictStr | None = None
    role: StrictStr
    parts: list[UIPart] = []


class ChatRequest(BaseModel):
    """What `useChat` sends: all messages, or the last one alone where the client is set up so."""

    model_config = ConfigDict(extra="allow")

    id: ChatId
    messages: Annotated[list[UIMessage], Field(max_length=5000)] = []
    message: UIMessage | None = None
    trigger: StrictStr | None = None
    messageId: StrictStr | None = None


def read_history(body: ChatRequest) -> tuple[History, str]:
    """The past, the new message, and the client's system text. Raises BadRequest."""
    messages = body.messages or ([body.message] if body.message else [])
    if not messages or messages[-1].role != "user":
        raise BadRequest("The last message must be the user's. Tool results and approvals are not supported.")
    if any(part.type != "text" for part in messages[-1].parts if part.type != "step-start"):
        raise BadRequest("Only text can be read: no files or tool parts.")
    said = [(message.role, _join_text(message)) for message in messages]
    if not said[-1][1].strip():
        raise BadRequest("The last message must have text.")
    again = body.trigger == "regenerate-message"
    edits = body.messageId is not None and not again
    past = [Said(role, text) for role, text in said[:-1] if role in ("user", "assistant") and text.strip()]  # type: ignore[arg-type]
    system = "\n\n".join(text for role, text in said if role == "system" and text.strip())
    return History(past, said[-1][1], again=again or (None if edits else False), edits=edits), system


def _join_text(message: UIMessage) -> str:
    return "".join(part.text or "" for part in message.parts if part.type == "text")


# ── the calls ────────────────────────────────────────────────────────────────────────────────────────────────────────


@endpoints.post("")
async def chat(call: Call, body: ChatRequest) -> ASGIApp:
    """A reply to the chat's last message, as it is made."""
    history, instructions = read_history(body)
    locate = locate_by_name(body.id, history, call.services.learning, strategy="interrupt")
    asked = await ask(call, make_request(call, call.param("staff_id"), history, locate, instructions=instructions))
    return asked.stream(UIMessageEncoder, headers=_HEADERS)


@endpoints.get("/{chat_id:path}/stream")
async def resume(call: Call) -> ASGIApp:
    """The reply that is being made in the chat, from its start; 204 if there is none."""
    run = await _find_active_run(call)
    if run is None:
        return Response(status_code=204)
    held = contextlib.ExitStack()
    held.enter_context(count_stream(call))
    return Asked(call, run, None, held).stream(UIMessageEncoder, headers=_HEADERS)


@endpoints.post("/{chat_id:path}/stop", response=RUN.model)
async def stop(call: Call) -> Json | Response:
    """Stop the reply that is being made in the chat; it keeps its text. 204 if there is none."""
    run = await _find_active_run(call)
    if run is None:
        return Response(status_code=204)
    return show_run(*await call.services.pipeline.stopper.cancel(run.scope, run.id))


@endpoints.get("/{chat_id:path}/messages", response=list[UIMessage])
async def list_messages(call: Call) -> list[Json]:
    """The latest messages of the chat as UI messages, oldest first; of several answers to one question the last."""

    def read(conn: Connection) -> list[list[Message]]:
        scope = staff.find_scope(conn, call.param("staff_id"), call.user_id)
        if (found := conversations.find_named_conversation(conn, scope, call.param("chat_id"))) is None:
            return []
        return messages.load_turns(conn, scope, found.id, after_turn=0, before_turn=1 << 40, limit=_MAX_MESSAGES // 2)

    turns = await call.services.database.read(read)
    return [_show_message(message) for message in messages.flatten_turns(turns)]


def _show_message(message: Message) -> Json:
    text = {"type": "text", "text": message.content, "state": "done"}
    parts: list[Json] = [{"type": "step-start"}, text] if message.message_type == "assistant" else [text]
    return {"id": message.id, "role": message.message_type, "parts": parts}


async def _find_active_run(call: Call) -> Run | None:
    def find(conn: Connection) -> Run | None:
        scope = staff.find_scope(conn, call.param("staff_id"), call.user_id)
        found: Conversation | None = conversations.find_named_conversation(conn, scope, call.param("chat_id"))
        return runs.find_active_run(conn, scope, found.id) if found else None

    with contextlib.suppress(NotFound):  # nobody has talked here yet
        return await call.services.database.read(find)
    return None


# ── the answer ───────────────────────────────────────────────────────────────────────────────────────────────────────


def count_usage(usage: Json | None) -> Json:
    """Claude's count in the AI SDK's words: its input tokens include those that came from the cache."""
    counts = usage or {}
    read, written = counts.get("cache_read_input_tokens", 0), counts.get("cache_creation_input_tokens", 0)
    fresh, output = counts.get("input_tokens", 0), counts.get("output_tokens", 0)
    return {
        "inputTokens": fresh + read + written,
        "inputTokenDetails": {"noCacheTokens": fresh, "cacheReadTokens": read, "cacheWriteTokens": written},
        "outputTokens": output,
        "totalTokens": fresh + read + written + output,
    }


class UIMessageEncoder:
    """A reply as UI message chunks, under the id of the message that it will be saved as."""

    ping = sse.PING
    wants_status = False
    wants_thinking = True

    def __init__(self, run: Run) -> None:
        self._message_id = run.id
        self._has_text = False
        self._has_thinking = False

    def encode_start(self) -> bytes:
        """The message and its one step."""
        return _encode({"type": "start", "messageId": self._message_id}) + _encode({"type": "start-step"})

    def encode_thinking(self, start: int, text: str) -> bytes:
        """A piece of the reasoning part, which comes before the text."""
        self._has_thinking = True
        opening = _REASONING_START if start == 0 else b""
        return b"%sdata: %s%s}\n\n" % (opening, _REASONING_DELTA, sse.encode_json(text))

    def encode_text(self, start: int, text: str) -> bytes:
        """A piece of the text part; everything around it was written once."""
        self._has_text = True
        frame = b"data: %s%s}\n\n" % (_TEXT_DELTA, sse.encode_json(text))
        return frame if start else b"".join((self._end_thinking(), _TEXT_START, frame))

    def encode_status(self, phase: Phase, *, elapsed_ms: int, tokens: int) -> bytes:
        """This dialect has no words for it."""
        return b""

    def encode_end(self, end: RunEnd) -> bytes:
        """The end of the part, the step and the message; or an error, which the client throws."""
        closing = _TEXT_END if self._has_text else self._end_thinking()
        if end.failure:
            return closing + _encode({"type": "error", "errorText": end.failure.detail}) + DONE
        if end.cancelled:
            return closing + _encode({"type": "finish-step"}) + _encode({"type": "abort"}) + DONE
        finish = {
            "type": "finish",
            "finishReason": _STOP_REASONS.get(end.stop_reason or "", "stop"),
            "messageMetadata": {"usage": count_usage(end.usage)},
        }
        return closing + _encode({"type": "finish-step"}) + _encode(finish) + DONE

    def _end_thinking(self) -> bytes:
        return _REASONING_END if self._has_thinking else b""


def _encode(chunk: Json) -> bytes:
    return sse.encode_event(chunk)


_TEXT_START = _encode({"type": "text-start", "id": "text"})
_TEXT_DELTA = b'{"type":"text-delta","id":"text","delta":'
_TEXT_END = _encode({"type": "text-end", "id": "text"})
_REASONING_START = _encode({"type": "reasoning-start", "id": "reasoning"})
_REASONING_DELTA = b'{"type":"reasoning-delta","id":"reasoning","delta":'
_REASONING_END = _encode({"type": "reasoning-end", "id": "reasoning"})
