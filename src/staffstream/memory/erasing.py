"""Erasing a memory or a message with everything that was made from it, inside the caller's transaction. What is larger
is erased in steps: see background/purge.py.

Rows are erased by cascade. Words and vectors are taken out of their indexes first, because those are not rows.
"""

from collections.abc import Sequence

from staffstream.domain import Scope
from staffstream.errors import Conflict
from staffstream.storage import conversations, deliveries, graph, hidden_scopes, memories, messages, runs
from staffstream.storage.database import Connection
from staffstream.storage.memories import Memory


def erase_message(tx: Connection, scope: Scope, message_id: str) -> None:
    """Erase a message and its replies. Raises NotFound, or Conflict while a reply to it is being made."""
    message = messages.get_message(tx, scope, message_id)
    erased = [message.id, *messages.list_replies(tx, scope, message.id)]
    if runs.has_active_run(tx, scope, message.id):
        raise Conflict("A reply to this message is being made. Cancel the run first.")
    purged = memories.purge_memories(tx, scope, message_ids=erased)
    drop_summaries(tx, scope, [message.id])
    deliveries.drop_deliveries(tx, scope, message.id)
    messages.delete_message(tx, scope, message.id)
    _repair_graph(tx, scope, purged)


def erase_memory(tx: Connection, scope: Scope, memory_id: str, *, with_source: bool) -> None:
    """Erase a memory with all its forms for good, and the summaries that may repeat them; with `with_source` also the
    messages that they came from. Raises NotFound, or Conflict while a reply to such a message is being made.
    """
    forms = memories.load_history(tx, scope, memories.get_memory(tx, scope, memory_id))
    purged = memories.purge_memories(tx, scope, memory_ids=[form.id for form in forms])
    sources = list_sources(forms)
    drop_summaries(tx, scope, sources)
    _repair_graph(tx, scope, purged)
    for message_id in sources if with_source else ():
        if messages.has_message(tx, scope, message_id):  # a reply is erased with its question
            erase_message(tx, scope, message_id)


def forget_memory(tx: Connection, scope: Scope, memory_id: str, *, with_source: bool) -> list[str]:
    """Make a memory a tombstone, which can be restored, and drop the summaries that may repeat it. With `with_source`
    the messages that it came from are erased, and with them the memory. Returns the ids of the messages that it came
    from and that are still there. Raises NotFound, and Conflict as `erase_memory` does.
    """
    forms = memories.load_history(tx, scope, memories.delete_memory(tx, scope, memory_id))
    graph.forget_memory(tx, scope, memory_id)
    sources = list_sources(forms)
    drop_summaries(tx, scope, sources)
    for message_id in sources if with_source else ():
        if messages.has_message(tx, scope, message_id):
            erase_message(tx, scope, message_id)
    return [message_id for message_id in sources if messages.has_message(tx, scope, message_id)]


def list_sources(forms: Sequence[Memory]) -> list[str]:
    """The ids of the messages that the forms of a memory came from."""
    return list(dict.fromkeys(form.source_message_id for form in forms if form.source_message_id))


def drop_summaries(tx: Connection, scope: Scope, message_ids: Sequence[str]) -> None:
    """Drop the summaries that cover some messages, and take them out of the records of contexts. They are written anew,
    without the messages that a deleted memory came from.
    """
    for message_id in message_ids:
        message = messages.get_message(tx, scope, message_id)
        conversations.drop_summary(tx, scope, message.conversation_id, covering_turn=message.turn)
        runs.erase_summaries(tx, scope, message.conversation_id, after_turn=message.turn)


def _repair_graph(tx: Connection, scope: Scope, purged: memories.Purged) -> None:
    """Reopen the relations of facts that hold again, and drop the names that stood in the erased texts alone."""
    graph.reopen_relations(tx, scope, purged.revived)
    graph.drop_orphans(tx, scope)
    hidden_scopes.drop_names(tx, scope, {word for text in purged.texts for word in graph.fold_name(text).split()})
