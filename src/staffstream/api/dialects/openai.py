"""OpenAI Chat Completions: `/v1/models` and `/v1/chat/completions`. A staff member is a model.

Clients of this dialect repeat all of a conversation with each request and hang up to stop; both are taken as they are
meant: the conversation that holds the repeated past goes on, and the run stops.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr
from starlette.responses import Response
from starlette.types import ASGIApp

from staffstream.api.dialects.asking import TEMPORARY, Asked, ask, ask_unsaved, find_staff, make_request
from staffstream.api.dialects.error_shapes import describe_openai_error
from staffstream.api.dialects.locating import History, Said, locate_by_history, locate_by_name
from staffstream.api.endpoints import Call, Endpoints
from staffstream.api.json_responses import respond_json
from staffstream.api.key_ring import speak_for
from staffstream.api.run_streams import RUN_ID_HEADERS
from staffstream.domain import Run, RunEnd, Staff, parse_time
from staffstream.errors import BadRequest
from staffstream.replies.encoders import Phase
from staffstream.storage import staff
from staffstream.support import sse

endpoints = Endpoints("openai", "/v1", is_described=False)

Json = dict[str, Any]

_STOP_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
DONE = b"data: [DONE]\n\n"


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Model(BaseModel):
    """A staff member, as a model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "staffstream"


class ModelList(BaseModel):
    """All staff members, as models."""

    object: Literal["list"] = "list"
    data: list[Model]


@endpoints.get("/models", response=ModelList)
async def list_models(call: Call) -> Json:
    """The staff members, each by its name and once more for answers that are not stored."""
    members = await call.services.database.read(staff.list_staff)
    names = [member.name for member in members]
    shown = [(member.name if names.count(member.name) == 1 else member.id, member) for member in members]
    models = [_show_model(name + suffix, member) for name, member in shown for suffix in ("", TEMPORARY)]
    return {"object": "list", "data": models}


@endpoints.get("/models/{model:path}", response=Model, problems=[409])
async def show_model(call: Call) -> Json:
    """One staff member, as a model."""
    model = call.param("model")
    return _show_model(model, await find_staff(call, model.removesuffix(TEMPORARY)))


def _show_model(name: str, member: Staff) -> Json:
    created = int(parse_time(member.created_at).timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": "staffstream"}


# ── the request ──────────────────────────────────────────────────────────────────────────────────────────────────────


class ContentPart(BaseModel):
    """A part of a message; only text can be read."""

    model_config = ConfigDict(extra="allow")

    type: StrictStr
    text: StrictStr | None = None


class ChatMessage(BaseModel):
    """A message as the client repeats it."""

    model_config = ConfigDict(extra="allow")

    role: StrictStr
    content: StrictStr | list[ContentPart] | None = None
    tool_calls: list[Any] | None = None


class StreamOptions(BaseModel):
    """What a stream tells besides the text."""

    model_config = ConfigDict(extra="allow")

    include_usage: StrictBool | None = None


class ChatCompletionRequest(BaseModel):
    """The request of a chat completion. What is not named here (sampling, storing, tiers) is accepted and ignored."""

    model_config = ConfigDict(extra="allow")

    model: StrictStr
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=5000)]
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    n: StrictInt | None = None
    user: StrictStr | None = None


_IMPOSSIBLE = {
    "tools": "Staff members call no tools.",
    "functions": "Staff members call no functions.",
    "stop": "Stop sequences are not supported.",
    "logit_bias": "Logit bias is not supported.",
    "web_search_options": "Staff members do not search the web.",
    "audio": "Staff members answer in text alone.",
}


def _refuse_impossible(body: ChatCompletionRequest) -> None:
    """Raises BadRequest for what a client can ask here and we cannot do, with the name of the parameter."""
    extra = body.model_extra or {}
    for name, reason in _IMPOSSIBLE.items():
        if extra.get(name):
            raise _refuse(name, reason)
    if body.n not in (None, 1):
        raise _refuse("n", "Only one answer is made: n must be 1.")
    if extra.get("logprobs") or extra.get("top_logprobs"):
        raise _refuse("logprobs", "Log probabilities are not given.")
    form = extra.get("response_format")
    if form and not (isinstance(form, dict) and form.get("type") == "text"):
        raise _refuse("response_format", "Only text can be answered: response_format is not supported.")
    if extra.get("modalities") not in (None, ["text"]):
        raise _refuse("modalities", "Staff members answer in text alone.")


def _refuse(param: str, reason: str) -> BadRequest:
    return BadRequest(reason, extra={"param": param})


def read_history(messages: list[ChatMessage]) -> tuple[History, str]:
    """The past, the new message and the client's system text. Raises BadRequest."""
    said: list[Said] = []
    system: list[str] = []
    for number, message in enumerate(messages):
        text = _read_text(message, number)
        if message.role in ("system", "developer"):
            system.append(text)
        elif message.role == "user":
            said.append(Said("user", text))
        elif message.role == "assistant" and text.strip():  # an answer that was stopped before its first word is none
            said.append(Said("assistant", text))
    if not said or said[-1].role != "user" or not said[-1].text.strip():
        raise _refuse("messages", "The last message must be the user's, and must have text.")
    return History(said[:-1], said[-1].text), "\n\n".join(text for text in system if text.strip())


def _read_text(message: ChatMessage, number: int) -> str:
    if message.role not in ("system", "developer", "user", "assistant") or message.tool_calls:
        raise _refuse(f"messages[{number}]", "Tool and function messages are not supported.")
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    if any(part.type not in ("text", "refusal") for part in message.content):
        raise _refuse(f"messages[{number}].content", "Only text can be read: no images, audio or files.")
    return "\n".join(part.text or "" for part in message.content)


# ── the answer ───────────────────────────────────────────────────────────────────────────────────────────────────────


@endpoints.post(
    "/chat/completions",
    media_type="text/event-stream",
    takes=["X-Conversation-Id"],
    sends=RUN_ID_HEADERS,
    problems=[400, 404, 409, 502, 503, 504],
)
async def complete(call: Call, body: ChatCompletionRequest) -> ASGIApp:
    """A reply to the last message, as it is made or whole."""
    _refuse_impossible(body)
    history, instructions = read_history(body.messages)
    member = await find_staff(call, body.model.removesuffix(TEMPORARY))
    caller = speak_for(call.caller, body.user) if call.caller.is_gateway else call.caller
    if body.model.endswith(TEMPORARY):
        asked = await ask_unsaved(call, member.id, history, instructions=instructions, user_id=caller.user_id)
    else:
        asked = await ask(call, _make_request(call, member, history, instructions, caller.user_id))
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return asked.stream(lambda run: ChunkEncoder(run, body.model, with_usage=usage), stops=True)
    return await _answer_whole(asked, body.model)


def _make_request(call: Call, member: Staff, history: History, instructions: str, user_id: str) -> Any:
    name = call.request.headers.get("x-conversation-id", "").strip()
    if len(name) > 255:
        raise BadRequest("X-Conversation-Id must have 1 to 255 characters.")
    learning = call.services.learning
    locate = locate_by_name(name, history, learning) if name else locate_by_history(history, learning)
    return make_request(call, member.id, history, locate, instructions=instructions, user_id=user_id)


async def _answer_whole(asked: Asked, model: str) -> Response:
    whole = await asked.collect()
    end, text, thought = whole.end, "".join(whole.texts), "".join(whole.thinking)
    reasoning = {"reasoning_content": thought} if thought else {}
    headers = {name.decode(): value.decode() for name, value in asked.list_headers()}
    if end.failure:
        status = 503 if end.failure.retryable else 502
        return respond_json(describe_openai_error(end.failure.code, end.failure.detail, status), status, headers)
    completion = _head(asked.run, model, "chat.completion") | {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None} | reasoning,
                "logprobs": None,
                "finish_reason": _name_reason(end),
            }
        ],
        "usage": count_usage(end.usage),
    }
    return respond_json(completion, 200, headers)


def _head(run: Run, model: str, kind: str) -> Json:
    created = int(parse_time(run.created_at).timestamp())
    return {"id": f"chatcmpl-{run.id}", "object": kind, "created": created, "model": model}


def _name_reason(end: RunEnd) -> str:
    return _STOP_REASONS.get(end.stop_reason or "", "stop")


def count_usage(usage: Json | None) -> Json:
    """Claude's count in OpenAI's words: its prompt tokens include those that came from the cache."""
    counts = usage or {}
    cached = counts.get("cache_read_input_tokens", 0)
    prompt = counts.get("input_tokens", 0) + counts.get("cache_creation_input_tokens", 0) + cached
    completion = counts.get("output_tokens", 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class ChunkEncoder:
    """A reply as chat completion chunks."""

    ping = sse.PING
    wants_status = False
    wants_thinking = True

    def __init__(self, run: Run, model: str, *, with_usage: bool) -> None:
        self._head = _head(run, model, "chat.completion.chunk")
        self._usage: Json = {"usage": None} if with_usage else {}
        whole = self._encode([_choice({"content": ""})])
        self._before, self._after = whole.split(b'"content":""', 1)
        self._before += b'"content":'

    def encode_start(self) -> bytes:
        """The chunk with the role."""
        return self._encode([_choice({"role": "assistant", "content": ""})])

    def encode_thinking(self, start: int, text: str) -> bytes:
        """A chunk of reasoning, by the name that chat servers read it under."""
        return self._encode([_choice({"reasoning_content": text})])

    def encode_text(self, start: int, text: str) -> bytes:
        """A chunk of the reply; everything around its text was written once."""
        return b"".join((self._before, sse.encode_json(text), self._after))

    def encode_status(self, phase: Phase, *, elapsed_ms: int, tokens: int) -> bytes:
        """This dialect has no words for it."""
        return b""

    def encode_end(self, end: RunEnd) -> bytes:
        """The reason, the usage if it was asked for, and the mark; or an error, which the clients raise."""
        if end.failure:
            error = describe_openai_error(end.failure.code, end.failure.detail, 500)
            return sse.encode_event(error)
        last = self._encode([_choice({}, _name_reason(end))])
        if self._usage:
            last += sse.encode_event(self._head | {"choices": [], "usage": count_usage(end.usage)})
        return last + DONE

    def _encode(self, choices: list[Json]) -> bytes:
        return sse.encode_event(self._head | {"choices": choices} | self._usage)


def _choice(delta: Json, reason: str | None = None) -> Json:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
