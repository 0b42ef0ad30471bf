"""`/staff/{staff_id}/memories` and `/graph`: seeing what is remembered, searching it, correcting it."""

from typing import Any

from staffstream.api.endpoints import Call, Endpoints, Result, make_page
from staffstream.api.request_models import Forgetting, GraphQuery, MemoryChanges, MemoryInputs, MemoryPage
from staffstream.api.response_models import (
    GRAPH,
    MEMORY,
    MEMORY_WHOLE,
    NODE,
    show_memory_whole,
    show_relation,
)
from staffstream.api.views import Json
from staffstream.domain import Scope
from staffstream.memory import erasing
from staffstream.storage import graph, memories, memory_lists, messages
from staffstream.storage.database import Connection
from staffstream.storage.memories import Memory, NewMemory
from staffstream.storage.memory_lists import MemoryFilter, MemoryOverview

endpoints = Endpoints("memories", "/api/v1/staff/{staff_id}")

_MAX_NODES = 500
_MAX_EVENTS = 20  # of one import: after the first ones a client has to load the list again anyway


@endpoints.get("/memories", response=MEMORY.models, sends=["Link"], etag=True)
async def list_some(call: Call, query: MemoryPage) -> Result:
    """With `query` what is recalled for it, scored, best first; without, all, newest first. Of tombstones, which cannot
    be recalled, a `query` finds those that have its words.
    """
    scope = await call.find_scope()
    if query.query is not None and not query.deleted:
        found = await call.services.pipeline.builder.search(scope, query.query, kind=query.kind, limit=query.limit)
        return Result([MEMORY.show(memory, score=round(score, 6)) for memory, score in found])
    fields = query.model_dump(exclude={"query", "limit", "before"})
    wanted = MemoryFilter(**fields, text=query.query)
    listed = await call.services.database.read(
        lambda conn: memory_lists.list_memories(conn, scope, wanted, limit=query.limit + 1, before=query.before)
    )
    return make_page(call, listed, query, MEMORY.show)


@endpoints.get("/memories/overview", response=MemoryOverview)
async def count(call: Call) -> MemoryOverview:
    """How much is remembered, and about whom and what."""
    scope = await call.find_scope()
    return await call.services.database.read(lambda conn: memory_lists.count_memories(conn, scope))


@endpoints.post("/memories", status=201, response=MEMORY.model | MEMORY.models, sends=["Location"], is_import=True)
async def create(call: Call, body: MemoryInputs) -> Result:
    """Tell one memory, or a list of them: learnt at once, in order."""
    staff_id = call.param("staff_id")
    inputs = body if isinstance(body, list) else [body]
    new = [NewMemory(text=m.text, kind=m.kind, occurred_at=m.occurred_at or "") for m in inputs]
    made = await call.services.importer.import_memories(staff_id, call.user_id, new)
    scope = await call.find_scope()
    for memory in made[:_MAX_EVENTS]:
        call.services.events.publish_memory(scope, memory.id, "memory.learned", memory)
    shown = [MEMORY.show(memory) for memory in made]
    if isinstance(body, list):
        return Result(shown)
    return Result(shown[0], {"Location": call.write_path("staff", staff_id, "memories", shown[0]["id"])})


@endpoints.get("/memories/{memory_id}", response=MEMORY_WHOLE.model)
async def show(call: Call) -> dict[str, Any]:
    """One memory with every form it has had and the message it came from."""
    scope, memory_id = await call.find_scope(), call.param("memory_id")

    def read(conn: Connection) -> dict[str, Any]:
        memory = memories.get_memory(conn, scope, memory_id)
        source = memory.source_message_id
        message = messages.get_message(conn, scope, source) if source else None
        return show_memory_whole(memory, memories.load_history(conn, scope, memory), message)

    return await call.services.database.read(read)


@endpoints.patch("/memories/{memory_id}", response=MEMORY.model, problems=[409])
async def update(call: Call, body: MemoryChanges) -> dict[str, Any]:
    """Another text or time makes a new memory that takes this one's place; pinned and importance change in place."""
    scope, memory_id, learning = await call.find_scope(), call.param("memory_id"), call.services.learning
    changes = body.model_dump(exclude_unset=True)

    def change(tx: Connection) -> Memory:
        changed = memories.change_memory(tx, scope, memory_id, changes, learning.embed_now)
        if changed.id != memory_id:
            graph.end_relations(tx, scope, memory_id, changed.valid_from)
            if changed.object and memories.get_memory(tx, scope, memory_id).states_relation:
                memories.note_relation(tx, scope, changed.id)
                _restate(tx, scope, changed)
        learning.request_vectors(tx, scope)
        return changed

    changed = await call.services.database.write(change)
    call.services.events.publish_memory(scope, memory_id, "memory.changed", changed)
    return MEMORY.show(changed)


@endpoints.delete("/memories/{memory_id}", sends=["Link"], problems=[409])
async def delete(call: Call, query: Forgetting) -> Result:
    """Forget a memory: it is out of every search and of the graph, and is not learned again. It can be restored.

    With `erase=true` it is erased for good instead, with every form it has had. With `with_source=true` the messages
    that it came from are erased too; else a Link with rel="source" leads to each of them.
    """
    scope, memory_id, database = await call.find_scope(), call.param("memory_id"), call.services.database

    def forget(tx: Connection) -> tuple[list[str], str | None]:
        memory = memories.get_memory(tx, scope, memory_id)
        return erase(tx, memory), memory.conversation_id

    def erase(tx: Connection, memory: Memory) -> list[str]:
        if query.erase:
            forms = memories.load_history(tx, scope, memory)
            erasing.erase_memory(tx, scope, memory_id, with_source=query.with_source)
            return [] if query.with_source else erasing.list_sources(forms)
        return erasing.forget_memory(tx, scope, memory_id, with_source=query.with_source)

    sources, conversation_id = await database.write(forget)
    call.services.events.publish_memory(scope, memory_id, "memory.forgotten")
    if query.with_source and conversation_id:
        call.services.events.publish(scope, "conversation.changed", conversation_id=conversation_id)
    if query.erase or query.with_source:
        await database.clear_log()
    paths = [call.write_path("staff", scope.staff_id, "messages", message_id) for message_id in sources]
    links = ", ".join(f'<{path}>; rel="source"' for path in paths)
    return Result(None, {"Link": links} if links else {})


@endpoints.post("/memories/{memory_id}/restore", response=MEMORY.model, problems=[409])
async def restore(call: Call) -> dict[str, Any]:
    """Bring back a deleted memory, or make a superseded one current again."""
    scope, memory_id, learning = await call.find_scope(), call.param("memory_id"), call.services.learning

    def bring_back(tx: Connection) -> Memory:
        restored = memories.restore_memory(tx, scope, memory_id, learning.embed_now)
        for form in memories.load_history(tx, scope, restored):
            if form.valid_to is not None:
                graph.end_relations(tx, scope, form.id, form.valid_to)
        if restored.states_relation and restored.valid_to is None:
            _restate(tx, scope, restored)
        learning.request_vectors(tx, scope)
        return restored

    restored = await call.services.database.write(bring_back)
    call.services.events.publish_memory(scope, memory_id, "memory.changed", restored)
    return MEMORY.show(restored)


def _restate(tx: Connection, scope: Scope, memory: Memory) -> None:
    graph.restate_memory(
        tx,
        scope,
        memory_id=memory.id,
        subject=memory.subject or "",
        predicate=memory.predicate or "",
        object=memory.object or "",
        valid_from=memory.valid_from,
        source_message_id=memory.source_message_id,
    )


@endpoints.get("/graph", response=GRAPH)
async def show_graph(call: Call, query: GraphQuery) -> Json:
    """Entities and relations: around one entity, or the newest ones."""
    scope = await call.find_scope()

    def read(conn: Connection) -> Json:
        if query.entity is not None:
            start = graph.find_entities_named(conn, scope, query.entity)
        else:
            start = graph.list_entities(conn, scope, limit=_MAX_NODES)
        depth = query.depth if query.entity is not None else 1
        edges = graph.find_neighbourhood(conn, scope, start, depth=depth, limit=_MAX_NODES, ended=query.ended)
        nodes = {entity.id: entity for entity in start}
        nodes |= {entity.id: entity for edge in edges for entity in (edge.subject, edge.object)}
        names = graph.list_names(conn, scope, list(nodes))
        return {
            "nodes": [NODE.show(entity, aliases=names[entity.id]) for entity in nodes.values()],
            "edges": [show_relation(edge) for edge in edges],
        }

    return await call.services.database.read(read)
