"""The description of the API as OpenAPI 3.1, made from the code's own shapes.

`OPERATIONS` says of each endpoint what it takes and what it answers; words come from the docstrings, schemas from
`request_models.py` and `response_models.py`. An endpoint without an entry fails a test, and so does an answer that is
not as described.
"""

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from starlette.routing import Route

from staffstream.api import (
    chat_page,
    conversations,
    deliveries,
    docs,
    jobs,
    keys,
    memories,
    memory_models,
    messages,
    request_models,
    response_models,
    rollout,
    runs,
    staff,
    system,
)
from staffstream.api.routes import ROUTES

Json = dict[str, Any]
_JSON, _STREAM, _HTML, _TEXT = "application/json", "text/event-stream", "text/html", "text/plain"


@dataclass(frozen=True, slots=True)
class Operation:
    """What an endpoint takes and answers. `problems` are the statuses besides those that follow from the rest."""

    answer: Any = None
    status: int = 200
    media_type: str = _JSON
    body: Any = None
    body_required: bool = True
    query: Any = None
    headers: tuple[str, ...] = ()
    sends: tuple[str, ...] = ()
    problems: tuple[int, ...] = ()
    open: bool = False
    fresh: bool = False


_CREATED = ("Location",)
_ASKING = ("Idempotency-Key",)
_RUN_IDS = ("X-Run-Id", "X-User-Message-Id", "X-Conversation-Id")
_REPLYING: Json = {
    "media_type": _STREAM,
    "headers": _ASKING,
    "sends": _RUN_IDS,
    "problems": (400, 409, 413, 502, 503, 504),
}

OPERATIONS: dict[Callable[..., Any], Operation] = {
    staff.create: Operation(response_models.NewStaffResponse, 201, body=request_models.NewStaff, sends=_CREATED),
    staff.list_all: Operation(list[response_models.Staff]),
    staff.show: Operation(response_models.Staff),
    staff.update: Operation(response_models.Staff, body=request_models.StaffChanges),
    staff.delete: Operation(status=204),
    messages.stream: Operation(body=request_models.NewMessage, query=request_models.StreamQuery, **_REPLYING),
    messages.send: Operation(
        response_models.Accepted,
        202,
        body=request_models.NewAsyncMessage,
        headers=_ASKING,
        sends=("Location", "Retry-After"),
        problems=(409,),
    ),
    messages.list_some: Operation(
        list[response_models.Message], query=request_models.MessagePage, sends=("Link",), problems=(400,), fresh=True
    ),
    messages.show: Operation(response_models.Message, fresh=True),
    messages.delete: Operation(status=204, problems=(409,)),
    messages.show_context: Operation(response_models.Context),
    messages.give_feedback: Operation(response_models.Message, body=request_models.Feedback),
    messages.regenerate: Operation(body=request_models.Regeneration, body_required=False, **_REPLYING),
    messages.try_context: Operation(response_models.Context, body=request_models.NewMessage),
    runs.show: Operation(response_models.Run, sends=("Retry-After",), fresh=True),
    runs.join: Operation(
        media_type=_STREAM, query=request_models.JoinQuery, headers=("Last-Event-ID",), sends=_RUN_IDS, problems=(400,)
    ),
    runs.cancel: Operation(response_models.Run),
    conversations.create: Operation(
        response_models.NewConversationResponse, 201, body=request_models.NewConversation, sends=_CREATED
    ),
    conversations.list_some: Operation(
        list[response_models.Conversation], query=request_models.Page, sends=("Link",), fresh=True
    ),
    conversations.show: Operation(response_models.Conversation),
    conversations.update: Operation(response_models.Conversation, body=request_models.ConversationChanges),
    conversations.delete: Operation(status=204),
    memories.list_some: Operation(
        list[response_models.Memory], query=memory_models.MemoryPage, sends=("Link",), problems=(400,), fresh=True
    ),
    memories.create: Operation(
        response_models.Memory | list[response_models.Memory],
        201,
        body=memory_models.MemoryInputs,
        sends=_CREATED,
    ),
    memories.show: Operation(response_models.MemoryWhole),
    memories.update: Operation(response_models.Memory, body=memory_models.MemoryChanges, problems=(409,)),
    memories.delete: Operation(status=204),
    memories.restore: Operation(response_models.Memory, problems=(409,)),
    memories.show_graph: Operation(response_models.Graph, query=memory_models.GraphQuery),
    rollout.show: Operation(response_models.ModeResponse),
    deliveries.list_some: Operation(
        list[response_models.Delivery], query=request_models.Page, sends=("Link",), fresh=True
    ),
    deliveries.show: Operation(response_models.DeliveryWhole, fresh=True),
    deliveries.redeliver: Operation(response_models.Delivery, 202),
    jobs.list_some: Operation(list[response_models.Job], query=request_models.JobPage, sends=("Link",), fresh=True),
    jobs.show: Operation(response_models.Job),
    jobs.drop: Operation(status=204, problems=(409,)),
    jobs.retry: Operation(response_models.Job, 202, problems=(409,)),
    keys.create: Operation(response_models.NewKeyResponse, 201, body=request_models.NewKey, sends=_CREATED),
    keys.list_all: Operation(list[response_models.Key]),
    keys.revoke: Operation(response_models.Key),
    system.health: Operation(response_models.Health, open=True),
    system.ready: Operation(response_models.Readiness, open=True),
    system.export_metrics: Operation(media_type=_TEXT),
    docs.show_openapi: Operation(dict[str, Any], open=True),
    docs.show_page: Operation(media_type=_HTML, open=True),
    chat_page.show: Operation(media_type=_HTML, open=True),
    chat_page.show_icon: Operation(media_type="image/svg+xml", open=True),
}

_HEADERS = {
    "Idempotency-Key": "The same key and body join the same run, or replay its end, for 24 hours.",
    "Last-Event-ID": "The `id:` of the last frame that was received: the stream goes on after it.",
    "If-None-Match": "The ETag of what the client has: 304 if that is still the answer.",
    "ETag": "Of the answer's bytes.",
    "Location": "The path of what was made.",
    "Link": 'The next page, `rel="next"`, when there is one (RFC 8288).',
    "Retry-After": "Seconds to wait.",
    "X-Run-Id": "The run, and the id of the reply that it will save.",
    "X-User-Message-Id": "The question.",
    "X-Conversation-Id": "The conversation.",
}
_PROBLEMS = {
    400: "The request cannot be read.",
    401: "There is no valid key.",
    403: "The key may not do that, or the host or origin is not allowed.",
    404: "There is no such thing, or it is somebody else's.",
    408: "The body did not arrive in time.",
    409: "It does not fit the present state; `code` says how.",
    413: "The body is too large.",
    415: "The body says that it is no JSON.",
    422: "The body or query does not have the right shape; `errors` says where.",
    429: "A limit or a daily cap is reached.",
    500: "The server made a mistake.",
    502: "Claude refused, or broke off.",
    503: "The server or Claude cannot do it now.",
    504: "Claude did not answer in time.",
}
_EVENTS = (
    response_models.TokenEvent,
    response_models.DoneEvent,
    response_models.ErrorEvent,
    response_models.StatusEvent,
)
_FRAME = {  # one frame, taken apart, as OpenAPI 3.2 describes such streams
    "type": "object",
    "required": ["data"],
    "properties": {
        "id": {"type": "string", "description": "On tokens: <run_id>:<cursor>."},
        "data": {
            "type": "string",
            "contentMediaType": _JSON,
            "contentSchema": {"$ref": "#/components/schemas/Event"},
        },
    },
}
_STREAM_TEXT = (
    "Frames of one `data:` line each, with one of the events as JSON; after the last one, `done` or `error`, the stream"
    " ends. Comment lines (`: ping`) are sent in silence."
)


@functools.lru_cache(maxsize=8)
def describe_api(*, prefix: str, keyed: bool, version: str) -> Json:
    """The whole document, for an app mounted at the prefix."""
    schemas = _Schemas()
    paths: Json = {}
    for route in ROUTES:
        if isinstance(route, Route):
            for method in sorted((route.methods or set()) - {"HEAD"}):
                described = _describe_operation(route, OPERATIONS[route.endpoint], schemas, keyed)
                paths.setdefault(route.path, {})[method.lower()] = described
    webhook = schemas.add(response_models.WebhookEvent, "validation")
    events = [schemas.add(event, "validation") for event in _EVENTS]
    problem = schemas.add(response_models.Problem, "validation")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "staffstream",
            "version": version,
            "summary": "AI staff members that answer in real time and remember.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": prefix or "/"}],
        "paths": paths,
        "webhooks": {"runEnded": {"post": _describe_webhook(webhook)}},
        "components": {
            "schemas": schemas.collect() | {"Event": {"oneOf": events}},
            "responses": {str(status): _describe_problem(status, problem) for status in _PROBLEMS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


class _Schemas:
    """Collects the schemas of types, so that shared ones are described once."""

    def __init__(self) -> None:
        self._inputs: list[tuple[str, Any, TypeAdapter[Any]]] = []
        self._placed: list[Json] = []

    def add(self, kind: Any, mode: str) -> Json:
        """A place for a type's schema, filled in by `collect`."""
        self._inputs.append((str(len(self._inputs)), mode, TypeAdapter(kind)))
        self._placed.append({})
        return self._placed[-1]

    def collect(self) -> Json:
        """Fill the places, and return the schemas that they refer to."""
        template = "#/components/schemas/{model}"
        found, shared = TypeAdapter.json_schemas(self._inputs, ref_template=template)
        for (key, mode, _), place in zip(self._inputs, self._placed, strict=True):
            place.update(found[key, mode])
        defined: Json = shared.get("$defs", {})
        return defined


def _describe_operation(route: Route, operation: Operation, schemas: _Schemas, keyed: bool) -> Json:
    module = route.endpoint.__module__.rpartition(".")[2]
    summary, _, more = " ".join((inspect.getdoc(route.endpoint) or "").split()).partition(". ")
    described: Json = {
        "operationId": f"{module}.{route.endpoint.__name__}",
        "tags": [module],
        "summary": summary.rstrip("."),
        "responses": _describe_responses(route, operation, schemas),
    }
    if more:
        described["description"] = more
    if parameters := _describe_parameters(route, operation):
        described["parameters"] = parameters
    if operation.body is not None:
        content = {_JSON: {"schema": schemas.add(operation.body, "validation")}}
        described["requestBody"] = {"required": operation.body_required, "content": content}
    if keyed and not operation.open:
        described["security"] = [{"key": []}]
    return described


def _describe_parameters(route: Route, operation: Operation) -> list[Json]:
    names = re.findall(r"{(\w+)}", route.path)
    found = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    if operation.query:
        shape = operation.query.model_json_schema()
        schemas = {name: _drop_null(schema) for name, schema in shape["properties"].items()}
        found += [{"name": name, "in": "query", "schema": schema} for name, schema in schemas.items()]
    wanted = operation.headers + (("If-None-Match",) if operation.fresh else ())
    return found + [
        {"name": name, "in": "header", "description": _HEADERS[name], "schema": {"type": "string"}} for name in wanted
    ]


def _drop_null(schema: Json) -> Json:
    """The schema of a query parameter: what may be null in Python is absent in a query."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema


def _describe_responses(route: Route, operation: Operation, schemas: _Schemas) -> Json:
    success: Json = {"description": "It worked."}
    if operation.media_type == _STREAM:
        success["description"] = _STREAM_TEXT
        success["content"] = {_STREAM: {"schema": _FRAME}}
    elif operation.answer is not None:
        success["content"] = {_JSON: {"schema": schemas.add(operation.answer, "validation")}}
    elif operation.status != 204:
        success["content"] = {operation.media_type: {"schema": {"type": "string"}}}
    sends = operation.sends + (("ETag",) if operation.fresh else ())
    if sends:
        success["headers"] = {name: {"description": _HEADERS[name], "schema": {"type": "string"}} for name in sends}
    responses: Json = {str(operation.status): success}
    if operation.fresh:
        responses["304"] = {"description": "The client has the answer already."}
    if route.endpoint is system.ready:
        responses["503"] = success | {"description": "A check fails."}
    for status in _list_problems(route, operation):
        responses.setdefault(str(status), {"$ref": f"#/components/responses/{status}"})
    return responses


def _list_problems(route: Route, operation: Operation) -> list[int]:
    """What follows from the kind of endpoint, and what its entry adds."""
    found = {403, 500, 503, *operation.problems}
    if not operation.open:
        found |= {401, 429}
    if "{" in route.path:
        found |= {404}
    if operation.query:
        found |= {422, 404}
    if operation.body:
        found |= {400, 408, 413, 415, 422}
    return sorted(found)


def _describe_problem(status: int, schema: Json) -> Json:
    headers = {"Retry-After": {"description": _HEADERS["Retry-After"], "schema": {"type": "string"}}}
    described: Json = {
        "description": _PROBLEMS[status],
        "content": {"application/problem+json": {"schema": schema}},
    }
    return described | ({"headers": headers} if status in (429, 503) else {})


def _describe_webhook(schema: Json) -> Json:
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    return {
        "operationId": "webhooks.run_ended",
        "summary": "A run has ended",
        "description": "Signed as Standard Webhooks has it: https://www.standardwebhooks.com. Sent again until a 2xx.",
        "parameters": [
            {"name": name, "in": "header", "required": True, "schema": {"type": "string"}} for name in names
        ],
        "requestBody": {"required": True, "content": {_JSON: {"schema": schema}}},
        "responses": {
            "2XX": {"description": "Taken."},
            "410": {"description": "No more of these: deliveries to this URL stop."},
        },
    }
