"""The JSON of memories and of the graph."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictBool, StrictStr

from staffstream.api import response_models
from staffstream.api.request_models import Body, Json, Text, Time, show_message, show_value
from staffstream.domain import Message
from staffstream.storage.graph import Entity, Relation
from staffstream.storage.memories import Memory

Kind = Literal["fact", "episode"]
MemoryText = Annotated[Text, Field(max_length=20_000)]


class MemoryInput(Body):
    """A memory that a client tells: learnt at once."""

    text: MemoryText
    kind: Kind = "fact"
    occurred_at: Time | None = None


MemoryInputs = MemoryInput | Annotated[list[MemoryInput], Field(min_length=1, max_length=1000)]


class MemoryChanges(Body):
    """What PATCH may change: text and occurred_at make a new memory in this one's place."""

    text: MemoryText | None = None
    occurred_at: Time | None = None
    pinned: StrictBool | None = None
    importance: Annotated[float, Field(ge=0, le=1)] | None = None


class MemoryPage(BaseModel):
    """The query of a list of memories; `deleted=true` lists the tombstones."""

    query: Annotated[StrictStr, Field(max_length=20_000)] | None = None
    kind: Kind | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    before: str | None = None
    deleted: bool = False


class GraphQuery(BaseModel):
    """What part of the graph to show; `ended=true` adds what was true once."""

    entity: Annotated[StrictStr, Field(max_length=500)] | None = None
    depth: Annotated[int, Field(ge=1, le=3)] = 1
    ended: bool = False


def show_memory(memory: Memory) -> Json:
    """A memory; what it does not have is null."""
    return show_value(memory, response_models.Memory)


def show_memory_whole(memory: Memory, history: list[Memory], source: Message | None) -> Json:
    """A memory with every form it has had, oldest first, and the message it came from."""
    return show_memory(memory) | {
        "history": [show_memory(form) for form in history],
        "source_message": show_message(source) if source else None,
    }


def show_entity(entity: Entity, names: list[str]) -> Json:
    """An entity with all its names, folded."""
    return {"id": entity.id, "name": entity.name, "type": entity.type, "aliases": names}


def show_relation(relation: Relation) -> Json:
    """A relation as an edge between two nodes' ids."""
    return {
        "id": relation.id,
        "source": relation.subject.id,
        "target": relation.object.id,
        "predicate": relation.predicate,
        "text": relation.line,
        "valid_from": relation.valid_from,
        "valid_to": relation.valid_to,
        "memory_id": relation.memory_id,
        "source_message_id": relation.source_message_id,
    }
