"""Erasing a message, a conversation or a staff member with everything that was made from it.

Rows are erased by cascade. Words and vectors are taken out of their indexes first, because those are not rows. Each
function runs inside the caller's transaction.
"""

from staffstream.domain import Scope
from staffstream.errors import Conflict
from staffstream.storage import conversations, deliveries, graph, memories, runs, staff
from staffstream.storage.database import Connection


def erase_message(tx: Connection, scope: Scope, message_id: str) -> None:
    """Erase a message and its replies. Raises NotFound, or Conflict while a reply to it is being made."""
    message = conversations.get_message(tx, scope, message_id)
    erased = [message.id, *conversations.list_replies(tx, scope, message.id)]
    if runs.has_active_run(tx, scope, message.id):
        raise Conflict("A reply to this message is being made. Cancel the run first.")
    purged = memories.purge_memories(tx, scope, message_ids=erased)
    conversations.drop_summary(tx, scope, message.conversation_id, covering_turn=message.turn)
    runs.erase_summaries(tx, scope, message.conversation_id, after_turn=message.turn)
    deliveries.drop_deliveries(tx, scope, message.id)
    conversations.delete_message(tx, scope, message.id)
    _repair_graph(tx, scope, purged)


def erase_conversation(tx: Connection, scope: Scope, conversation_id: str) -> None:
    """Erase a conversation with its messages, runs, memories and summary. Raises NotFound."""
    conversations.get_conversation(tx, scope, conversation_id)
    purged = memories.purge_memories(tx, scope, conversation_id=conversation_id)
    conversations.delete_conversation(tx, scope, conversation_id)
    _repair_graph(tx, scope, purged)


def erase_staff(tx: Connection, staff_id: str) -> None:
    """Erase a staff member with everything that it holds of every user. Raises NotFound."""
    for scope in staff.list_scopes(tx, staff_id):
        memories.purge_memories(tx, scope)
    staff.delete_staff(tx, staff_id)


def _repair_graph(tx: Connection, scope: Scope, purged: memories.Purged) -> None:
    """Reopen the relations of facts that hold again, and drop the names that stood in the erased texts alone."""
    graph.reopen_relations(tx, scope, purged.revived)
    graph.drop_orphans(tx, scope)
    words = {word for text in purged.texts for word in graph.fold_name(text).split()}
    known = {graph.fold_name(name) for name in conversations.load_names(tx, scope)[0]}
    for name in graph.list_all_names(tx, scope):
        if name not in known and words.issuperset(name.split()) and not memories.is_mentioned(tx, scope, name):
            graph.drop_name(tx, scope, name)
