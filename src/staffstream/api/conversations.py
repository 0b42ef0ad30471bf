"""`/staff/{staff_id}/conversations`: threads, and the import of past ones."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from staffstream.api.auth import get_caller, write_path
from staffstream.api.json_responses import respond_json, respond_page
from staffstream.api.request_body import read_body, read_query
from staffstream.api.request_models import ConversationChanges, NewConversation, Page, show_conversation
from staffstream.domain import Conversation, Message
from staffstream.errors import Invalid
from staffstream.storage import conversations, staff
from staffstream.storage.conversations import ImportedMessage
from staffstream.storage.database import Connection


async def create(request: Request) -> Response:
    """Make a conversation, with the messages of a past one if the body has any."""
    service, user_id = await get_caller(request)
    staff_id = request.path_params["staff_id"]
    body = await read_body(request, NewConversation, limit_bytes=service.settings.max_import_bytes)
    past = [ImportedMessage(m.message_type, m.content, m.created_at) for m in body.messages]

    def make(tx: Connection) -> tuple[Conversation, list[Message]]:
        scope = staff.ensure_scope(tx, staff_id, user_id)
        made = conversations.create_conversation(tx, scope, title=body.title or "", user_name=body.user_name or "")
        imported = conversations.import_messages(tx, scope, made, past)
        service.learning.index_import(tx, scope, made, imported)
        return made, imported

    made, imported = await service.database.write(make)
    return respond_json(
        show_conversation(made) | {"message_ids": [message.id for message in imported]},
        201,
        {"Location": write_path(request, "staff", staff_id, "conversations", made.id)},
    )


async def list_some(request: Request) -> Response:
    """The caller's conversations with this staff member, most recently used first."""
    service, user_id = await get_caller(request)
    staff_id = request.path_params["staff_id"]
    page = read_query(request, Page)
    found = await service.database.read(
        lambda conn: conversations.list_conversations(
            conn, staff.find_scope(conn, staff_id, user_id), limit=page.limit + 1, before=page.before
        )
    )
    return respond_page(
        request,
        [show_conversation(conversation) for conversation in found[: page.limit]],
        limit=page.limit,
        more=len(found) > page.limit,
        path=("staff", staff_id, "conversations"),
    )


async def show(request: Request) -> Response:
    """One conversation."""
    service, user_id = await get_caller(request)
    staff_id, conversation_id = request.path_params["staff_id"], request.path_params["conversation_id"]
    conversation = await service.database.read(
        lambda conn: conversations.get_conversation(conn, staff.find_scope(conn, staff_id, user_id), conversation_id)
    )
    return respond_json(show_conversation(conversation))


async def update(request: Request) -> Response:
    """Change the title, or what the user is called in it."""
    service, user_id = await get_caller(request)
    staff_id, conversation_id = request.path_params["staff_id"], request.path_params["conversation_id"]
    changes: dict[str, Any] = (await read_body(request, ConversationChanges)).model_dump(exclude_unset=True)
    if wrong := [name for name, value in changes.items() if value is None]:
        raise Invalid(f"/{wrong[0]}: must not be null")
    changed = await service.database.write(
        lambda tx: conversations.update_conversation(
            tx, staff.find_scope(tx, staff_id, user_id), conversation_id, changes
        )
    )
    return respond_json(show_conversation(changed))


async def delete(request: Request) -> Response:
    """Erase a conversation with its messages; a run that is being made in it is stopped first."""
    service, user_id = await get_caller(request)
    staff_id, conversation_id = request.path_params["staff_id"], request.path_params["conversation_id"]
    scope = await service.database.read(lambda conn: staff.find_scope(conn, staff_id, user_id))
    await service.database.read(lambda conn: conversations.get_conversation(conn, scope, conversation_id))
    await service.pipeline.stop_all(conversation_id=conversation_id)
    await service.database.write(lambda tx: service.learning.forget_conversation(tx, scope, conversation_id))
    await service.pipeline.stop_all(conversation_id=conversation_id)  # what was queued may have begun meanwhile
    return Response(status_code=204)
