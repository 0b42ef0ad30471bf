"""Saving what a batch taught: facts, entities, relations and the watermark, in one transaction.

A batch that is worked on twice adds nothing the second time, because the watermark moves with the facts.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from staffstream.domain import Message, Scope
from staffstream.memory.extraction import Batch
from staffstream.memory.extraction_answers import Extraction, Statement, read_text
from staffstream.memory.fact_changes import LearnedFact, learn_fact
from staffstream.storage import graph, learning_marks, memories, messages
from staffstream.storage.database import Connection
from staffstream.storage.memories import Memory, NewMemory
from staffstream.storage.vectors import EmbedNow

_NO_NAMES = frozenset({"he", "her", "him", "his", "i", "it", "me", "my", "she", "that", "the", "them", "they", "this"})


def save_extraction(tx: Connection, batch: Batch, extraction: Extraction, *, embed: EmbedNow | None) -> int | None:
    """Save what was learned and move the watermark past the batch; returns how many facts are new.

    A fact that is known already is reinforced. A fact that the user deleted is not saved again. Messages that were
    erased or forgotten while the model was asked are not learned from. None, and nothing saved, when the watermark
    has moved in the meantime.
    """
    scope = batch.scope
    if learning_marks.load_watermark(tx, scope, batch.conversation.id) != batch.after:
        return None
    present = [message for message in batch.messages if messages.has_message(tx, scope, message.id)]
    forgotten = memories.list_forgotten_messages(tx, scope, [message.id for message in present])
    sources = {message.id: message for message in present if message.id not in forgotten}
    writer = _FactWriter(tx, scope, batch.conversation.user_name, list(sources.values()), embed)
    for described in extraction.entities:
        writer.describe(described)
    for statement in extraction.facts:
        if statement.fact.source_message_id in sources:
            writer.learn(statement)
    for relation, source in extraction.relations:
        if source.id in sources:
            writer.relate(relation, source)
    graph.drop_orphans(tx, scope)
    learning_marks.set_learned(tx, scope, batch.conversation.id, batch.messages[-1])
    return sum(fact.is_new for fact in writer.saved)


class _FactWriter:
    """Saves the facts, entities and relations of one batch. A fact is saved under its subject's main name, whichever of
    its names the message used.
    """

    def __init__(
        self, tx: Connection, scope: Scope, user_name: str, sources: Sequence[Message], embed: EmbedNow | None
    ) -> None:
        self._tx, self._scope, self._user_name, self._embed = tx, scope, user_name, embed
        self._texts = " ".join(f" {graph.fold_name(message.content)} " for message in sources)
        self._described: set[str] = set()
        self.saved: list[LearnedFact] = []
        self._refused: list[NewMemory] = []

    def describe(self, described: dict[str, Any]) -> None:
        """Save an entity with its other names that stand in a message: one wrong name would merge two things."""
        name, aliases = read_text(described, "name"), described.get("aliases")
        if not graph.fold_name(name) or graph.fold_name(name) in _NO_NAMES:
            return
        names = [alias[:200] for alias in aliases if isinstance(alias, str)] if isinstance(aliases, list) else []
        self._ensure(
            name, read_text(described, "type")[:40], [alias for alias in names[:10] if self._was_called(alias)]
        )

    def learn(self, statement: Statement) -> None:
        """Save a fact and link it to its entities; the relation of a fact that it replaces ends too."""
        subject = self._find(statement.fact.subject)
        fact = replace(statement.fact, subject=subject.name) if subject else statement.fact
        saved = learn_fact(
            self._tx, self._scope, fact, replaces=statement.replaces, by_user=statement.by_user, embed=self._embed
        )
        if saved is None:
            self._refused.append(fact)
            return
        self.saved.append(saved)
        ends = [subject, self._find(fact.object, only_known=True)]
        graph.link_memory(self._tx, saved.memory.id, [entity for entity in ends if entity])
        for closed in saved.closed:
            graph.end_relations(self._tx, self._scope, closed.id, closed.valid_to or saved.memory.valid_from)

    def relate(self, statement: dict[str, Any], source: Message) -> None:
        """Save a relation and link it to the fact that states it; not when the user deleted that fact."""
        subject, object = self._find(read_text(statement, "subject")), self._find(read_text(statement, "object"))
        if subject is None or object is None or subject.id == object.id:
            return
        predicate = read_text(statement, "predicate").casefold().replace(" ", "_")[:100]
        ends = {subject.id, object.id}
        saying = [saved.memory for saved in self.saved if self._find_ends(saved.memory) == ends]
        if not saying and any(self._find_ends(fact) == ends for fact in self._refused):
            return
        origin = min(saying, key=lambda memory: memory.predicate != predicate, default=None)
        if origin:
            memories.note_relation(self._tx, self._scope, origin.id)
        graph.add_relation(
            self._tx, self._scope, subject, predicate, object,
            valid_from=source.created_at, memory_id=origin.id if origin else None, source_message_id=source.id,
        )  # fmt: skip
        if origin and origin.valid_to:
            graph.end_relations(self._tx, self._scope, origin.id, origin.valid_to)

    def _find_ends(self, fact: Memory | NewMemory) -> set[str]:
        ends = (graph.find_entities_named(self._tx, self._scope, name or "") for name in (fact.subject, fact.object))
        return {entity.id for end in ends for entity in end}

    def _was_called(self, alias: str) -> bool:
        """Whether a message has these words. The model writes "user's sister" for "my sister"."""
        fold = graph.fold_name(alias)
        return fold not in _NO_NAMES and f" {fold.removeprefix(f'{graph.USER_NAME} ')} " in self._texts

    def _find(self, name: str | None, *, only_known: bool = False) -> graph.Entity | None:
        fold = graph.fold_name(name or "")
        if not fold or fold in _NO_NAMES or (only_known and fold not in self._described):
            return None
        return self._ensure(name or "")

    def _ensure(self, name: str, type: str = "", aliases: Sequence[str] = ()) -> graph.Entity:
        own = {graph.USER_NAME, graph.fold_name(self._user_name)}
        if graph.fold_name(name) in own:
            name, aliases = graph.USER_NAME, [*aliases, *([self._user_name] if self._user_name else [])]
            type = type or "person"
        else:
            aliases = [alias for alias in aliases if graph.fold_name(alias) not in own]
        entity = graph.ensure_entity(self._tx, self._scope, name[:200], type=type, aliases=aliases)
        self._described.update(fold for each in (name, *aliases) if (fold := graph.fold_name(each)))
        return entity
