"""The description of the API as OpenAPI 3.1, made from the declarations of the endpoints.

Words come from the handlers' docstrings, schemas from `request_models.py`, `response_models.py` and `event_models.py`.
"""

import inspect
import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import TypeAdapter

from staffstream.api.endpoints import Endpoint
from staffstream.api.event_models import EVENTS, WEBHOOK_EVENT, LiveEvent
from staffstream.api.response_models import Problem

Json = dict[str, Any]
_JSON, _STREAM = "application/json", "text/event-stream"


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
_STREAM_TEXT = (
    "Frames of one `data:` line each, with one of the events as JSON; after the last one, `done` or `error`, the stream"
    " ends. Comment lines (`: ping`) are sent in silence."
)
_LIVE_TEXT = (
    "Frames of an `id:` line and one `data:` line each, with an event as JSON. The stream does not end by itself."
    " Comment lines (`: ping`) are sent in silence."
)


def describe_api(endpoints: Iterable[Endpoint], *, prefix: str, keyed: bool, version: str) -> Json:
    """The whole document, for an app mounted at the prefix."""
    schemas = _Schemas()
    paths: Json = {}
    for endpoint in endpoints:
        described = _describe_operation(endpoint, schemas, keyed)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = described
    webhook = schemas.add(WEBHOOK_EVENT)
    events = [schemas.add(event) for event in EVENTS]
    schemas.add(LiveEvent)
    problem = schemas.add(Problem)
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
        self._adapters: list[TypeAdapter[Any]] = []
        self._placed: list[Json] = []

    def add(self, kind: Any) -> Json:
        """A place for the schema of a type or of a type adapter, filled in by `collect`."""
        self._adapters.append(kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind))
        self._placed.append({})
        return self._placed[-1]

    def collect(self) -> Json:
        """Fill the places, and return the schemas that they refer to."""
        mode: Literal["validation"] = "validation"
        inputs = [(number, mode, adapter) for number, adapter in enumerate(self._adapters)]
        found, shared = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
        for number, place in enumerate(self._placed):
            place.update(found[number, mode])
        defined: Json = shared.get("$defs", {})
        return defined


def _describe_operation(endpoint: Endpoint, schemas: _Schemas, keyed: bool) -> Json:
    summary, _, more = " ".join((inspect.getdoc(endpoint.handler) or "").split()).partition(". ")
    described: Json = {
        "operationId": f"{endpoint.tag}.{endpoint.handler.__name__}",
        "tags": [endpoint.tag],
        "summary": summary.rstrip("."),
        "responses": _describe_responses(endpoint, schemas),
    }
    if more:
        described["description"] = more
    if parameters := _describe_parameters(endpoint):
        described["parameters"] = parameters
    if endpoint.body is not None:
        content = {_JSON: {"schema": schemas.add(endpoint.body)}}
        described["requestBody"] = {"required": endpoint.body_required, "content": content}
    if keyed and endpoint.access != "open":
        described["security"] = [{"key": []}]
    return described


def _describe_parameters(endpoint: Endpoint) -> list[Json]:
    names = re.findall(r"{(\w+)}", endpoint.path)
    found = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    if endpoint.query:
        shape = endpoint.query.model_json_schema()
        schemas = {name: _drop_null(schema) for name, schema in shape["properties"].items()}
        found += [{"name": name, "in": "query", "schema": schema} for name, schema in schemas.items()]
    wanted = [*endpoint.takes, *(["If-None-Match"] if endpoint.etag else [])]
    return found + [
        {"name": name, "in": "header", "description": _HEADERS[name], "schema": {"type": "string"}} for name in wanted
    ]


def _drop_null(schema: Json) -> Json:
    """The schema of a query parameter: what may be null in Python is absent in a query."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema


def _describe_frame(event: str) -> Json:
    """One frame, taken apart, as OpenAPI 3.2 describes such streams."""
    data = {
        "type": "string",
        "contentMediaType": _JSON,
        "contentSchema": {"$ref": f"#/components/schemas/{event}"},
    }
    cursor = {"type": "string", "description": "Send it back as Last-Event-ID to go on after this frame."}
    return {"type": "object", "required": ["data"], "properties": {"id": cursor, "data": data}}


def _describe_responses(endpoint: Endpoint, schemas: _Schemas) -> Json:
    success: Json = {"description": "It worked."}
    if endpoint.media_type == _STREAM:
        is_run = endpoint.response is None
        success["description"] = _STREAM_TEXT if is_run else _LIVE_TEXT
        success["content"] = {_STREAM: {"schema": _describe_frame("Event" if is_run else "LiveEvent")}}
    elif endpoint.response is not None:
        success["content"] = {_JSON: {"schema": schemas.add(endpoint.response)}}
    elif endpoint.status != 204:
        success["content"] = {endpoint.media_type: {"schema": {"type": "string"}}}
    if sends := [*endpoint.sends, *(["ETag"] if endpoint.etag else [])]:
        success["headers"] = {name: {"description": _HEADERS[name], "schema": {"type": "string"}} for name in sends}
    responses: Json = {str(endpoint.status): success}
    responses |= {str(status): success | {"description": text} for status, text in endpoint.also.items()}
    if endpoint.etag:
        responses["304"] = {"description": "The client has the answer already."}
    for status in _list_problems(endpoint):
        responses.setdefault(str(status), {"$ref": f"#/components/responses/{status}"})
    return responses


def _list_problems(endpoint: Endpoint) -> list[int]:
    """The errors of this kind of endpoint, and those that it declares."""
    found = {403, 500, 503, *endpoint.problems}
    if endpoint.access != "open":
        found |= {401, 429}
    if "{" in endpoint.path:
        found |= {404}
    if endpoint.query:
        found |= {422}
    if endpoint.body:
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
