"""`/staff/{staff_id}/memories` and `/graph`: seeing what is remembered, searching it, correcting it."""

from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from staffstream.api.auth import Service, get_caller, write_path
from staffstream.api.json_responses import respond_json, respond_page
from staffstream.api.memory_models import (
    GraphQuery,
    MemoryChanges,
    MemoryInput,
    MemoryInputs,
    MemoryPage,
    show_entity,
    show_memory,
    show_memory_whole,
    show_relation,
)
from staffstream.api.request_body import read_body, read_query
from staffstream.domain import Scope
from staffstream.errors import Invalid
from staffstream.storage import conversations, graph, memories, staff
from staffstream.storage.database import Connection
from staffstream.storage.memories import Memory, NewMemory

_MOST_NODES = 500
_TELLING: TypeAdapter[MemoryInput | list[MemoryInput]] = TypeAdapter(MemoryInputs)


async def list_some(request: Request) -> Response:
    """With `query` what is recalled for it, scored, best first; without, all, newest first."""
    service, scope = await _find_scope(request)
    page = read_query(request, MemoryPage)
    if page.query is not None:
        found = await service.pipeline.builder.search(scope, page.query, kind=page.kind, limit=page.limit)
        return respond_json([show_memory(memory) | {"score": round(score, 6)} for memory, score in found])
    listed = await service.database.read(
        lambda conn: memories.list_memories(
            conn, scope, limit=page.limit + 1, kind=page.kind, before=page.before, deleted=page.deleted
        )
    )
    return respond_page(
        request,
        [show_memory(memory) for memory in listed[: page.limit]],
        limit=page.limit,
        more=len(listed) > page.limit,
        path=("staff", scope.staff_id, "memories"),
    )


async def create(request: Request) -> Response:
    """Tell one memory, or a list of them: learnt at once, in order."""
    service, user_id = await get_caller(request)
    staff_id = request.path_params["staff_id"]
    body = await read_body(request, _TELLING, limit_bytes=service.settings.max_import_bytes)
    told = body if isinstance(body, list) else [body]

    def tell(tx: Connection) -> list[Memory]:
        scope = staff.ensure_scope(tx, staff_id, user_id)
        made = [
            memories.add_memory(
                tx,
                scope,
                NewMemory(text=m.text, kind=m.kind, occurred_at=m.occurred_at or ""),
                service.learning.embed_now,
            )
            for m in told
        ]
        service.learning.request_vectors(tx, scope)
        return made

    shown = [show_memory(memory) for memory in await service.database.write(tell)]
    if isinstance(body, list):
        return respond_json(shown, 201)
    return respond_json(shown[0], 201, {"Location": write_path(request, "staff", staff_id, "memories", shown[0]["id"])})


async def show(request: Request) -> Response:
    """One memory with every form it has had and the message it came from."""
    service, scope = await _find_scope(request)
    memory_id = request.path_params["memory_id"]

    def read(conn: Connection) -> dict[str, Any]:
        memory = memories.get_memory(conn, scope, memory_id)
        source = memory.source_message_id
        message = conversations.get_message(conn, scope, source) if source else None
        return show_memory_whole(memory, memories.load_history(conn, scope, memory), message)

    return respond_json(await service.database.read(read))


async def update(request: Request) -> Response:
    """Another text or time makes a new memory that takes this one's place; pinned and importance change in place."""
    service, scope = await _find_scope(request)
    memory_id = request.path_params["memory_id"]
    changes: dict[str, Any] = (await read_body(request, MemoryChanges)).model_dump(exclude_unset=True)
    if wrong := [name for name, value in changes.items() if value is None]:
        raise Invalid(f"/{wrong[0]}: must not be null")

    def change(tx: Connection) -> Memory:
        changed = memories.change_memory(tx, scope, memory_id, changes, service.learning.embed_now)
        if changed.id != memory_id:
            graph.end_relations(tx, scope, memory_id, changed.valid_from)
        service.learning.request_vectors(tx, scope)
        return changed

    return respond_json(show_memory(await service.database.write(change)))


async def delete(request: Request) -> Response:
    """Forget a memory: it is out of every search and of the graph, and is not learned again. It can be restored."""
    service, scope = await _find_scope(request)
    memory_id = request.path_params["memory_id"]

    def forget(tx: Connection) -> None:
        memories.delete_memory(tx, scope, memory_id)
        graph.forget_memory(tx, scope, memory_id)

    await service.database.write(forget)
    return Response(status_code=204)


async def restore(request: Request) -> Response:
    """Bring back a deleted memory, or make a superseded one current again."""
    service, scope = await _find_scope(request)
    memory_id = request.path_params["memory_id"]

    def bring_back(tx: Connection) -> Memory:
        restored = memories.restore_memory(tx, scope, memory_id, service.learning.embed_now)
        for form in memories.load_history(tx, scope, restored):
            if form.valid_to is not None:
                graph.end_relations(tx, scope, form.id, form.valid_to)
        if restored.states_relation and restored.valid_to is None:
            graph.restate_memory(
                tx,
                scope,
                memory_id=restored.id,
                subject=restored.subject or "",
                predicate=restored.predicate or "",
                object=restored.object or "",
                valid_from=restored.valid_from,
                source_message_id=restored.source_message_id,
            )
        service.learning.request_vectors(tx, scope)
        return restored

    return respond_json(show_memory(await service.database.write(bring_back)))


async def show_graph(request: Request) -> Response:
    """Entities and relations: around one entity, or the newest ones."""
    service, scope = await _find_scope(request)
    query = read_query(request, GraphQuery)

    def read(conn: Connection) -> dict[str, Any]:
        if query.entity is not None:
            start = graph.find_entities_named(conn, scope, query.entity)
        else:
            start = graph.list_entities(conn, scope, limit=_MOST_NODES)
        depth = query.depth if query.entity is not None else 1
        edges = graph.find_neighbourhood(conn, scope, start, depth=depth, limit=_MOST_NODES, ended=query.ended)
        nodes = {entity.id: entity for entity in start}
        nodes |= {entity.id: entity for edge in edges for entity in (edge.subject, edge.object)}
        names = graph.list_names(conn, scope, list(nodes))
        return {
            "nodes": [show_entity(entity, names[entity.id]) for entity in nodes.values()],
            "edges": [show_relation(edge) for edge in edges],
        }

    return respond_json(await service.database.read(read))


async def _find_scope(request: Request) -> tuple[Service, Scope]:
    service, user_id = await get_caller(request)
    staff_id = request.path_params["staff_id"]
    return service, await service.database.read(lambda conn: staff.find_scope(conn, staff_id, user_id))
