"""`/staff/{staff_id}/messages`: asking, by either mode, and looking back."""

import contextlib
import functools
import hashlib

import orjson
from starlette.requests import Request
from starlette.responses import Response

from staffstream.api.auth import get_caller, hold_stream, write_path
from staffstream.api.event_stream import EventStream
from staffstream.api.json_responses import respond_fresh, respond_json, respond_page
from staffstream.api.request_body import read_body, read_query
from staffstream.api.request_models import (
    Feedback,
    MessagePage,
    NewAsyncMessage,
    NewMessage,
    Regeneration,
    show_message,
)
from staffstream.domain import Conversation, Message, Mode
from staffstream.errors import BadRequest, StaffstreamError
from staffstream.pipeline import RunRequest
from staffstream.storage import contexts, conversations, staff
from staffstream.storage.database import Connection


async def stream(request: Request) -> EventStream:
    """Ask, and get the reply as it is made."""
    _, user_id = await get_caller(request)
    body = await read_body(request, NewMessage)
    key = _read_key(request)
    return await _answer_live(
        request,
        RunRequest(
            staff_id=request.path_params["staff_id"],
            user_id=user_id,
            content=body.content,
            mode="stream",
            strategy=body.multitask_strategy or "reject",
            conversation_id=body.conversation_id,
            idempotency_key=key,
            request_hash=_hash(body, key),
        ),
    )


async def regenerate(request: Request) -> EventStream:
    """Ask the question behind a message again, and get the new reply as it is made."""
    _, user_id = await get_caller(request)
    body = await read_body(request, Regeneration, empty=Regeneration())
    message_id = request.path_params["message_id"]
    return await _answer_live(
        request,
        RunRequest(
            staff_id=request.path_params["staff_id"],
            user_id=user_id,
            content="",
            mode="stream",
            strategy=body.multitask_strategy or "reject",
            idempotency_key=_read_key(request),
            request_hash=hashlib.sha256(b"regenerate " + message_id.encode()).digest(),
            regenerates=message_id,
        ),
    )


async def _answer_live(request: Request, question: RunRequest) -> EventStream:
    service, _ = await get_caller(request)
    with contextlib.ExitStack() as held:
        held.enter_context(hold_stream(request))
        acceptance = await service.pipeline.accept(question)
        run = acceptance.run
        ids = {"run_id": run.id, "user_message_id": run.user_message_id, "conversation_id": run.conversation_id}
        try:
            await service.subscriptions.wait_started(run)
        except StaffstreamError as error:
            error.extra |= ids
            raise
        return EventStream(
            functools.partial(service.subscriptions.follow, run, 0, status=_wants_status(request)),
            slow_reader_s=service.settings.slow_reader_s,
            headers=[(f"x-{name.replace('_', '-')}".encode(), value.encode()) for name, value in ids.items()],
            held=held.pop_all(),
        )


async def send(request: Request) -> Response:
    """Ask, and get the reply later: by webhook, or by asking for the run."""
    service, user_id = await get_caller(request)
    body = await read_body(request, NewAsyncMessage)
    key = _read_key(request)
    mode: Mode = "async"
    acceptance = await service.pipeline.accept(
        RunRequest(
            staff_id=request.path_params["staff_id"],
            user_id=user_id,
            content=body.content,
            mode=mode,
            strategy=body.multitask_strategy or "enqueue",
            conversation_id=body.conversation_id,
            webhook_url=body.webhook_url,
            idempotency_key=key,
            request_hash=_hash(body, key),
        )
    )
    run = acceptance.run
    return respond_json(
        {
            "message_id": run.user_message_id,
            "run_id": run.id,
            "conversation_id": run.conversation_id,
            "status": "queued",
        },
        202,
        {"Location": write_path(request, "staff", run.staff_id, "runs", run.id), "Retry-After": "1"},
    )


async def list_some(request: Request) -> Response:
    """The messages of a conversation (the default one if none is named), newest first."""
    service, user_id = await get_caller(request)
    staff_id = request.path_params["staff_id"]
    page = read_query(request, MessagePage)

    def read(conn: Connection) -> list[Message]:
        scope = staff.find_scope(conn, staff_id, user_id)
        conversation: Conversation | None
        if page.conversation_id is not None:
            conversation = conversations.get_conversation(conn, scope, page.conversation_id)
        else:
            conversation = conversations.find_default_conversation(conn, scope)
        if conversation is None:
            return []
        return conversations.list_messages(conn, scope, conversation.id, limit=page.limit + 1, before=page.before)

    found = await service.database.read(read)
    return respond_page(
        request,
        [show_message(message) for message in found[: page.limit]],
        limit=page.limit,
        more=len(found) > page.limit,
        path=("staff", staff_id, "messages"),
    )


async def show(request: Request) -> Response:
    """One message."""
    service, user_id = await get_caller(request)
    staff_id, message_id = request.path_params["staff_id"], request.path_params["message_id"]
    message = await service.database.read(
        lambda conn: conversations.get_message(conn, staff.find_scope(conn, staff_id, user_id), message_id)
    )
    return respond_fresh(request, show_message(message))


async def show_context(request: Request) -> Response:
    """What a reply was built from, and what was left out and why."""
    service, user_id = await get_caller(request)
    staff_id, message_id = request.path_params["staff_id"], request.path_params["message_id"]
    return respond_json(
        await service.database.read(
            lambda conn: contexts.load_record(conn, staff.find_scope(conn, staff_id, user_id), message_id)
        )
    )


async def try_context(request: Request) -> Response:
    """A dry run: what a reply to this would be built from. Nothing is stored."""
    service, user_id = await get_caller(request)
    body = await read_body(request, NewMessage)
    staff_id = request.path_params["staff_id"]
    return respond_json(
        await service.pipeline.builder.preview_context(staff_id, user_id, body.conversation_id, body.content)
    )


async def delete(request: Request) -> Response:
    """Erase a message, its replies, and what was learned from them."""
    service, user_id = await get_caller(request)
    staff_id, message_id = request.path_params["staff_id"], request.path_params["message_id"]

    def erase(tx: Connection) -> None:
        scope = staff.find_scope(tx, staff_id, user_id)
        service.learning.forget_message(tx, scope, message_id)

    await service.database.write(erase)
    return Response(status_code=204)


async def give_feedback(request: Request) -> Response:
    """Keep what the user thought of a reply; the last word counts."""
    service, user_id = await get_caller(request)
    staff_id, message_id = request.path_params["staff_id"], request.path_params["message_id"]
    body = await read_body(request, Feedback)
    message = await service.database.write(
        lambda tx: conversations.set_feedback(
            tx, staff.find_scope(tx, staff_id, user_id), message_id, rating=body.rating, comment=body.comment
        )
    )
    return respond_json(show_message(message))


# ── parts of a request ───────────────────────────────────────────────────────────────────────────────────────────────


def _read_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= 255:
        raise BadRequest("Idempotency-Key must have 1 to 255 characters.")
    return key


def _hash(body: NewMessage, key: str | None) -> bytes:
    """What must be equal for a key to join a run: all that says what is asked. The modes and strategies may differ."""
    if key is None:
        return b""
    asked = body.model_dump(include={"content", "conversation_id", "webhook_url"}, exclude_none=True)
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).digest()


def _wants_status(request: Request) -> bool:
    return "status" in request.query_params.get("events", "").split(",")
