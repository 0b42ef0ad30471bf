"""`/staff/{staff_id}/messages`: asking, by either mode, and looking back."""

import hashlib
from typing import Any

import orjson

from staffstream.api.endpoints import Call, Endpoints, Result, make_page
from staffstream.api.event_stream import EventStream
from staffstream.api.request_models import (
    Feedback,
    MessagePage,
    NewAsyncMessage,
    NewMessage,
    Regeneration,
    StreamQuery,
)
from staffstream.api.response_models import MESSAGE, Accepted, Context
from staffstream.api.run_streams import RUN_ID_HEADERS, stream_new_run
from staffstream.domain import Conversation, Message
from staffstream.errors import BadRequest
from staffstream.memory.erasing import erase_message
from staffstream.pipeline import RunRequest
from staffstream.storage import contexts, conversations, messages, staff
from staffstream.storage.database import Connection

endpoints = Endpoints("messages", "/api/v1/staff/{staff_id}")

_ASKS: dict[str, Any] = {
    "media_type": "text/event-stream",
    "takes": ["Idempotency-Key"],
    "sends": RUN_ID_HEADERS,
    "problems": [409, 502, 503, 504],
}
_REGENERATION = Regeneration()  # for a request without a body


@endpoints.post("/messages/stream", **_ASKS)
async def stream(call: Call, body: NewMessage, query: StreamQuery) -> EventStream:
    """Ask, and get the reply as it is made."""
    key = _read_key(call)
    asked = RunRequest(
        staff_id=call.param("staff_id"),
        user_id=call.user_id,
        content=body.content,
        mode="stream",
        strategy=body.multitask_strategy or "reject",
        conversation_id=body.conversation_id,
        idempotency_key=key,
        request_hash=_hash(body, key),
    )
    return await stream_new_run(call, asked, query.make_encoder)


@endpoints.post("/messages/{message_id}/regenerate", **_ASKS)
async def regenerate(call: Call, query: StreamQuery, body: Regeneration = _REGENERATION) -> EventStream:
    """Ask the question behind a message again, and get the new reply as it is made."""
    message_id = call.param("message_id")
    asked = RunRequest(
        staff_id=call.param("staff_id"),
        user_id=call.user_id,
        content="",
        mode="stream",
        strategy=body.multitask_strategy or "reject",
        idempotency_key=_read_key(call),
        request_hash=hashlib.sha256(b"regenerate " + message_id.encode()).digest(),
        regenerates=message_id,
    )
    return await stream_new_run(call, asked, query.make_encoder)


@endpoints.post(
    "/messages",
    status=202,
    response=Accepted,
    takes=["Idempotency-Key"],
    sends=["Location", "Retry-After"],
    problems=[409],
)
async def send(call: Call, body: NewAsyncMessage) -> Result:
    """Ask, and get the reply later: by webhook, or by asking for the run."""
    key = _read_key(call)
    acceptance = await call.services.pipeline.accept(
        RunRequest(
            staff_id=call.param("staff_id"),
            user_id=call.user_id,
            content=body.content,
            mode="async",
            strategy=body.multitask_strategy or "enqueue",
            conversation_id=body.conversation_id,
            webhook_url=body.webhook_url,
            idempotency_key=key,
            request_hash=_hash(body, key),
        )
    )
    run = acceptance.run
    accepted: Accepted = {
        "message_id": run.user_message_id,
        "run_id": run.id,
        "conversation_id": run.conversation_id,
        "status": "queued",
    }
    return Result(accepted, {"Location": call.write_path("staff", run.staff_id, "runs", run.id), "Retry-After": "1"})


@endpoints.get("/messages", response=MESSAGE.models, sends=["Link"], etag=True)
async def list_some(call: Call, query: MessagePage) -> Result:
    """The messages of a conversation (the default one if none is named), newest first."""
    staff_id, user_id = call.param("staff_id"), call.user_id

    def read(conn: Connection) -> list[Message]:
        scope = staff.find_scope(conn, staff_id, user_id)
        conversation: Conversation | None
        if query.conversation_id is not None:
            conversation = conversations.get_conversation(conn, scope, query.conversation_id)
        else:
            conversation = conversations.find_default_conversation(conn, scope)
        if conversation is None:
            return []
        return messages.list_messages(conn, scope, conversation.id, limit=query.limit + 1, before=query.before)

    return make_page(call, await call.services.database.read(read), query, MESSAGE.show)


@endpoints.get("/messages/{message_id}", response=MESSAGE.model, etag=True)
async def show(call: Call) -> dict[str, Any]:
    """One message."""
    staff_id, user_id, message_id = call.param("staff_id"), call.user_id, call.param("message_id")
    message = await call.services.database.read(
        lambda conn: messages.get_message(conn, staff.find_scope(conn, staff_id, user_id), message_id)
    )
    return MESSAGE.show(message)


@endpoints.get("/messages/{message_id}/context", response=Context)
async def show_context(call: Call) -> dict[str, Any]:
    """What a reply was built from, and what was left out and why."""
    staff_id, user_id, message_id = call.param("staff_id"), call.user_id, call.param("message_id")
    return await call.services.database.read(
        lambda conn: contexts.load_record(conn, staff.find_scope(conn, staff_id, user_id), message_id)
    )


@endpoints.post("/context", response=Context)
async def try_context(call: Call, body: NewMessage) -> dict[str, Any]:
    """A dry run: what a reply to this would be built from. Nothing is stored."""
    return await call.services.pipeline.builder.preview_context(
        call.param("staff_id"), call.user_id, body.conversation_id, body.content
    )


@endpoints.delete("/messages/{message_id}", problems=[409])
async def delete(call: Call) -> None:
    """Erase a message, its replies, and what was learned from them."""
    scope, message_id = await call.find_scope(), call.param("message_id")

    def erase(tx: Connection) -> str:
        conversation_id = messages.get_message(tx, scope, message_id).conversation_id
        erase_message(tx, scope, message_id)
        return conversation_id

    conversation_id = await call.services.database.write(erase)
    await call.services.database.clear_log()
    call.services.events.publish(scope, "conversation.changed", conversation_id=conversation_id)
    call.services.events.publish(scope, "memory.forgotten", source_message_id=message_id)


@endpoints.post("/messages/{message_id}/feedback", response=MESSAGE.model)
async def give_feedback(call: Call, body: Feedback) -> dict[str, Any]:
    """Keep what the user thought of a reply; a later rating replaces it."""
    staff_id, user_id, message_id = call.param("staff_id"), call.user_id, call.param("message_id")
    message = await call.services.database.write(
        lambda tx: messages.set_feedback(
            tx, staff.find_scope(tx, staff_id, user_id), message_id, rating=body.rating, comment=body.comment
        )
    )
    return MESSAGE.show(message)


# ── parts of a request ───────────────────────────────────────────────────────────────────────────────────────────────


def _read_key(call: Call) -> str | None:
    key = call.request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= 255:
        raise BadRequest("Idempotency-Key must have 1 to 255 characters.")
    return key


def _hash(body: NewMessage, key: str | None) -> bytes:
    """What must be equal for a key to join a run: all that says what is asked. The modes and strategies may differ."""
    if key is None:
        return b""
    asked = body.model_dump(include={"content", "conversation_id", "webhook_url"}, exclude_none=True)
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).digest()
