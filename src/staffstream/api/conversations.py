"""`/staff/{staff_id}/conversations`: threads, and the import of past ones."""

from typing import Any

from staffstream.api.endpoints import Call, Endpoints, Result, make_page
from staffstream.api.request_models import ConversationChanges, NewConversation, Page
from staffstream.api.response_models import CONVERSATION, NEW_CONVERSATION
from staffstream.storage import conversations, staff
from staffstream.storage.messages import ImportedMessage

endpoints = Endpoints("conversations", "/api/v1/staff/{staff_id}/conversations")


@endpoints.post("", status=201, response=NEW_CONVERSATION.model, sends=["Location"], is_import=True)
async def create(call: Call, body: NewConversation) -> Result:
    """Make a conversation, with the messages of a past one if the body has any."""
    staff_id = call.param("staff_id")
    made, imported = await call.services.importer.import_conversation(
        staff_id,
        call.user_id,
        [ImportedMessage(m.message_type, m.content, m.created_at) for m in body.messages],
        title=body.title or "",
        user_name=body.user_name or "",
        time_zone=body.time_zone or "",
    )
    call.services.events.publish(await call.find_scope(), "conversation.changed", conversation_id=made.id)
    return Result(
        NEW_CONVERSATION.show(made, message_ids=[message.id for message in imported]),
        {"Location": call.write_path("staff", staff_id, "conversations", made.id)},
    )


@endpoints.get("", response=CONVERSATION.models, sends=["Link"], etag=True)
async def list_some(call: Call, query: Page) -> Result:
    """The caller's conversations with this staff member, most recently used first."""
    staff_id, user_id = call.param("staff_id"), call.user_id
    found = await call.services.database.read(
        lambda conn: conversations.list_conversations(
            conn, staff.find_scope(conn, staff_id, user_id), limit=query.limit + 1, before=query.before
        )
    )
    return make_page(call, found, query, CONVERSATION.show)


@endpoints.get("/{conversation_id}", response=CONVERSATION.model)
async def show(call: Call) -> dict[str, Any]:
    """One conversation."""
    staff_id, user_id, conversation_id = call.param("staff_id"), call.user_id, call.param("conversation_id")
    conversation = await call.services.database.read(
        lambda conn: conversations.get_conversation(conn, staff.find_scope(conn, staff_id, user_id), conversation_id)
    )
    return CONVERSATION.show(conversation)


@endpoints.patch("/{conversation_id}", response=CONVERSATION.model)
async def update(call: Call, body: ConversationChanges) -> dict[str, Any]:
    """Change the title, or what the user is called in it."""
    scope, conversation_id = await call.find_scope(), call.param("conversation_id")
    changes = body.model_dump(exclude_unset=True)
    changed = await call.services.database.write(
        lambda tx: conversations.update_conversation(tx, scope, conversation_id, changes)
    )
    call.services.events.publish(scope, "conversation.changed", conversation_id=conversation_id)
    return CONVERSATION.show(changed)


@endpoints.delete("/{conversation_id}")
async def delete(call: Call) -> None:
    """Erase a conversation with its messages; a run that is being made in it is stopped first."""
    services, conversation_id = call.services, call.param("conversation_id")
    scope = await call.find_scope()
    await services.database.read(lambda conn: conversations.get_conversation(conn, scope, conversation_id))
    await services.pipeline.stopper.stop_all(conversation_id=conversation_id)
    await services.purger.erase_conversation(scope, conversation_id)
    await services.database.clear_log()
    await services.pipeline.stopper.stop_all(conversation_id=conversation_id)  # the queued one may have begun
    services.events.publish(scope, "conversation.changed", conversation_id=conversation_id)
    services.events.publish(scope, "memory.forgotten", conversation_id=conversation_id)
