"""The description of the API: complete, true of every answer, and readable without anything from elsewhere."""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks
from starlette.routing import Route

from staffstream.api.endpoints import Endpoint
from staffstream.api.openapi import describe_api
from staffstream.api.routes import DIALECTS, ENDPOINTS, ROUTES
from staffstream.app import create_app
from tests.tools.server import Api, make_settings, serve_asgi_here, start_server

DOCUMENT = describe_api(ENDPOINTS, prefix="", keyed=False, version="1")


def list_operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(method, path, operation) of everything that is described."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_route_is_declared_and_described() -> None:
    """A route that is no endpoint, or two declarations of one route, fail here."""
    routes = [route for route in ROUTES if isinstance(route, Route) and route not in DIALECTS]
    assert all(isinstance(route, Endpoint) for route in routes)
    described = [(method, path) for method, path, _ in list_operations()]
    assert sorted(described) == sorted((endpoint.method, endpoint.path) for endpoint in ENDPOINTS)
    assert len(described) == len(ENDPOINTS) == len(routes)


def test_names_and_references_are_sound() -> None:
    """Operation ids are unique and every reference leads somewhere."""
    names = [operation["operationId"] for _, _, operation in list_operations()]
    assert len(set(names)) == len(names)
    for reference in set(re.findall(r"'\$ref': '([^']+)'", str(DOCUMENT))):
        place: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    assert DOCUMENT["openapi"] == "3.1.0"


def test_every_operation_says_what_it_does() -> None:
    """In a summary of its own, taken from its docstring."""
    summaries = [operation["summary"] for _, _, operation in list_operations()]
    assert all(5 < len(summary) < 130 for summary in summaries), [s for s in summaries if not 5 < len(s) < 130]


def test_streams_and_webhooks_are_described() -> None:
    """Their events, with the schema of each."""
    stream = DOCUMENT["paths"]["/api/v1/staff/{staff_id}/messages/stream"]["post"]["responses"]["200"]
    data = stream["content"]["text/event-stream"]["schema"]["properties"]["data"]
    assert data["contentSchema"] == {"$ref": "#/components/schemas/Event"}
    assert len(DOCUMENT["components"]["schemas"]["Event"]["oneOf"]) == 5
    webhook = DOCUMENT["webhooks"]["runEnded"]["post"]
    assert {item["name"] for item in webhook["parameters"]} == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    assert webhook["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/WebhookEvent"
    }


def test_with_keys_every_operation_but_the_open_ones_asks_for_one() -> None:
    """And without keys none does."""
    keyed = describe_api(ENDPOINTS, prefix="", keyed=True, version="1")["paths"]
    assert keyed["/api/v1/staff"]["get"]["security"] == [{"key": []}]
    assert "security" not in keyed["/healthz"]["get"]
    assert "security" not in DOCUMENT["paths"]["/api/v1/staff"]["get"]


@pytest.mark.anyio
async def test_the_document_and_the_page_are_served_under_the_prefix(db: Path) -> None:
    """The page needs no script and nothing from elsewhere."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    app = create_app(make_settings(db))
    host = Starlette(routes=[Mount("/chat", app)], lifespan=lambda _: app.running())
    async with serve_asgi_here(host) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        document = (await client.get("/chat/openapi.json")).json()
        page = await client.get("/chat/docs")
    assert document["servers"] == [{"url": "/chat"}]
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src" in page.headers["content-security-policy"]
    assert page.headers["x-frame-options"] == "DENY"
    assert "<script" not in page.text
    assert not re.findall(r"(?:src|href)=['\"]?(?:https?:)?//", page.text)
    for _, path, _ in list_operations():
        assert path in page.text


# ── the live server ──────────────────────────────────────────────────────────────────────────────────────────────────

REAL_IDS: dict[str, str] = {}
"""Ids of things that exist, by parameter: random ones would only ever find 404."""


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server process with one of everything, as schemathesis sees it."""
    db = tmp_path_factory.mktemp("openapi") / "a.db"
    flags = ("--offline", "--offline-pace-s", "0", "--webhook-allow-private", "127.0.0.1")
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        server = runner.run(stack.enter_async_context(start_server(db, None, *flags)))
        REAL_IDS.update(runner.run(move_in(server.api)))
        try:
            yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")
            assert "Traceback" not in server.log
        finally:
            runner.run(stack.aclose())


async def move_in(api: Api) -> dict[str, str]:
    """Make one of everything, with the ids that the paths name."""
    staff = await api.make_staff(webhook_url="http://127.0.0.1:9/")
    received = await api.ask(staff, "I live in Bergen.")
    (delivery,) = await api.get(f"/staff/{staff}/deliveries")
    other = await api.make_staff(
        webhook_url="http://127.0.0.1:9/"
    )  # whose delivery nobody touches: it has a lasting job
    await api.ask(other, "I live in Oslo.")
    (lasting,) = await api.get(f"/staff/{other}/deliveries")
    (job,) = [job for job in await api.get("/jobs") if job["subject"] == lasting["id"]]
    (memory,) = (await api.post(f"/staff/{staff}/memories", [{"text": "Kim lives in Bergen."}], 201))[:1]
    key = await api.post("/keys", {"name": "kim"}, 201)
    return {
        "staff_id": staff, "run_id": received.run_id, "message_id": received.run_id, "key_id": key["id"],
        "conversation_id": received.headers["x-conversation-id"], "memory_id": memory["id"],
        "delivery_id": delivery["id"], "job_id": job["id"],
    }  # fmt: skip


CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


ENDLESS = "/api/v1/events"  # never ends by itself: tests/background/test_events.py reads it
LAST = ("DELETE", "/api/v1/me")  # erases what the others ask for
FINITE = [(method, path) for method, path, _ in list_operations() if path != ENDLESS and (method, path) != LAST]


@pytest.mark.parametrize(("method", "path"), [*FINITE, LAST])
def test_every_answer_is_as_described(described: Any, method: str, path: str) -> None:
    """Whatever is asked: no 5xx, no status, content type, header or body that the document does not have."""
    operation = described[path][method]
    seen = set()

    @given(case=operation.as_strategy())
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def ask(case: Any) -> None:
        if method != "DELETE":  # or there would soon be nothing left to ask for
            case.path_parameters = {name: REAL_IDS[name] for name in case.path_parameters or {}}
        seen.add(case.call_and_validate(checks=CHECKS, timeout=30).status_code)

    ask()
    if method != "DELETE":
        assert {200, 201, 202} & seen, f"nothing was ever answered but {seen}"
