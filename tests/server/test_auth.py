"""Who may do what: keys over HTTP, on every route there is."""

import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.routing import Mount, Route

from staffstream.api.routes import DIALECTS, ROUTES
from staffstream.app import create_app
from staffstream.domain import Caller, make_id
from staffstream.errors import SetupError
from staffstream.storage import keys
from tests.tools.databases import connect, prepare, transact
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Reply
from tests.tools.server import Api, make_settings, open_api, read_problem, serve_asgi_here, serve_here, start_server

pytestmark = pytest.mark.anyio

OPEN = {"/healthz", "/readyz", "/openapi.json", "/docs", "/", "/icon.svg"}
"""What needs no key. A new route belongs here only if everybody may see it."""
ADMIN = {
    ("POST", "/api/v1/staff"),
    ("PATCH", "/api/v1/staff/{staff_id}"),
    ("DELETE", "/api/v1/staff/{staff_id}"),
    ("POST", "/api/v1/keys"),
    ("GET", "/api/v1/keys"),
    ("DELETE", "/api/v1/keys/{key_id}"),
    ("GET", "/metrics"),
    ("GET", "/api/v1/jobs"),
    ("GET", "/api/v1/jobs/{job_id}"),
    ("DELETE", "/api/v1/jobs/{job_id}"),
    ("POST", "/api/v1/jobs/{job_id}/retry"),
}
ENDLESS = "/api/v1/events"
"""Never ends by itself: of its answer, the first event counts."""
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/api/v1/staff/{staff_id}/messages"): {"content": "hi"},
    ("POST", "/api/v1/staff/{staff_id}/messages/stream"): {"content": "hi", "multitask_strategy": "enqueue"},
    ("POST", "/api/v1/staff/{staff_id}/context"): {"content": "hi"},
    ("POST", "/api/v1/staff/{staff_id}/memories"): {"text": "hi"},
    ("PATCH", "/api/v1/staff/{staff_id}/memories/{memory_id}"): {"text": "hi"},
    ("POST", "/api/v1/staff/{staff_id}/messages/{message_id}/feedback"): {"rating": 1},
}
"""What a call needs to get past the check of its body."""
SECRET = "canary-e5b7"


def list_calls() -> Iterator[tuple[str, str]]:
    """(method, path) of every route of our API, HEAD aside; tests/dialects/test_auth.py has the others."""
    for route in ROUTES:
        if isinstance(route, Route) and route not in DIALECTS:
            yield from ((method, route.path) for method in sorted((route.methods or set()) - {"HEAD"}))


CALLS = sorted(set(list_calls()))


async def look_around(house: "House") -> dict[str, Any]:
    """All that Ada's own calls show her, but for what changes by itself: counts, times of use, background work."""
    moving = OPEN | {"/metrics", "/api/v1/keys"}
    paths = [path for method, path in CALLS if method == "GET" and path not in moving]
    paths = [path for path in paths if "/jobs" not in path and "/deliveries" not in path and path != ENDLESS]
    return {path: (await house.call("GET", house.fill(path), "ada")).text for path in paths}


class House:
    """A server with keys: Ada, an admin, has talked to a staff member; Bob, a member, has not."""

    def __init__(self, api: Api, texts: dict[str, str]) -> None:
        self.api = api
        self.texts = texts
        self.ids: dict[str, str] = {}

    async def call(self, method: str, path: str, who: str | None = None, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.texts[who]}"} if who else {}
        if path != ENDLESS:
            return await self.api.http.request(method, f"{self.api.url}{path}", headers=headers, **options)
        async with self.api.http.stream(method, f"{self.api.url}{path}", headers=headers, **options) as answer:
            content = await anext(answer.aiter_bytes()) if answer.is_success else await answer.aread()
        return httpx.Response(answer.status_code, headers=answer.headers, content=content)

    async def move_in(self) -> None:
        """Give Ada one of everything that has an id."""
        body = {"name": "Grace", "webhook_url": "http://127.0.0.1:9/"}
        made = await self.call("POST", "/api/v1/staff", "ada", json=body)
        self.ids["staff_id"] = made.json()["id"]
        staff = f"/api/v1/staff/{self.ids['staff_id']}"
        asked = await self.call("POST", f"{staff}/messages/stream", "ada", json={"content": SECRET})
        self.ids["run_id"] = self.ids["message_id"] = asked.headers["x-run-id"]
        self.ids["conversation_id"] = asked.headers["x-conversation-id"]
        remembered = await self.call("GET", f"{staff}/memories", "ada")
        self.ids["memory_id"] = remembered.json()[0]["id"]
        self.ids["delivery_id"] = (await self.call("GET", f"{staff}/deliveries", "ada")).json()[0]["id"]
        self.ids["job_id"] = (await self.call("GET", "/api/v1/jobs", "ada")).json()[0]["id"]
        self.ids["key_id"] = (await self.call("GET", "/api/v1/keys", "ada")).json()[0]["id"]

    def fill(self, path: str) -> str:
        """A route's path with Ada's ids. Fails for a parameter nobody has thought of."""
        return re.sub(r"\{(\w+)(:\w+)?\}", lambda found: self.ids[found[1]], path)


@pytest.fixture
async def house(db: Path, provider: ScriptedProvider) -> AsyncIterator[House]:
    provider.default = Reply([SECRET, " it is"])
    prepare(db)
    with contextlib.closing(connect(db)) as connection, transact(connection):
        texts = {
            "ada": keys.create_key(connection, "ada", role="admin")[1],
            "ada2": keys.create_key(connection, "ada's phone", user_id="ada", role="member")[1],
            "bob": keys.create_key(connection, "bob", role="member")[1],
        }
    async with serve_here(db, provider, auth="keys") as api:
        house = House(api, texts)
        await house.move_in()
        yield house


async def test_every_route_asks_for_a_key(house: House) -> None:
    """But for the open ones. A route without scope fails here."""
    for method, path in CALLS:
        answer = await house.call(method, house.fill(path))
        assert SECRET not in answer.text
        if path in OPEN:
            assert answer.status_code == 200, path
        else:
            assert (answer.status_code, answer.headers.get("www-authenticate")) == (401, "Bearer"), (method, path)
            assert read_problem(answer)["code"] == "unauthorized"


async def test_every_route_keeps_users_apart(house: House) -> None:
    """Somebody else's anything is a 404, lists hold one's own, and what only an admin may do is a 403."""
    before = await look_around(house)
    for method, path in CALLS:
        answer = await house.call(method, house.fill(path), "bob", json=BODIES.get((method, path), {}))
        if (method, path) in ADMIN:
            assert (answer.status_code, read_problem(answer)["code"]) == (403, "forbidden"), (method, path)
        elif set(re.findall(r"{(\w+)", path)) - {"staff_id"}:
            assert answer.status_code == 404, (method, path, answer.text)
        else:
            assert answer.status_code < 300, (method, path, answer.text)
        if not path.endswith("/stream"):  # where Bob hears the answer to his own question
            assert SECRET not in answer.text, (method, path)
        assert house.ids["conversation_id"] not in answer.text, (method, path)
    assert await look_around(house) == before  # nothing of hers was changed, by a call that names no id of hers either


async def test_ids_in_bodies_and_queries_keep_users_apart(house: House) -> None:
    """Somebody else's conversation, message or memory is as one that does not exist, wherever it can be named."""
    staff, ids = house.fill("/api/v1/staff/{staff_id}"), house.ids
    body = {"content": "hi", "conversation_id": ids["conversation_id"]}
    for path in ("/messages", "/messages/stream", "/context"):
        assert (await house.call("POST", staff + path, "bob", json=body)).status_code == 404, path
    query = f"/messages?conversation_id={ids['conversation_id']}"
    assert (await house.call("GET", staff + query, "bob")).status_code == 404
    for query in (f"/conversations?before={ids['conversation_id']}", f"/memories?before={ids['memory_id']}"):
        theirs = await house.call("GET", staff + query, "bob")
        nobodys = await house.call("GET", staff + query.partition("=")[0] + f"={make_id()}", "bob")
        assert theirs.status_code == nobodys.status_code == 422, query
        assert read_problem(theirs)["errors"] == read_problem(nobodys)["errors"]


def test_nothing_but_routes_is_reachable() -> None:
    """The walks see routes; what else there is must be open to everybody."""
    others = [route for route in ROUTES if not isinstance(route, Route)]
    assert [(type(route), getattr(route, "path", "")) for route in others] == [(Mount, "/assets")]


async def test_the_lists_above_name_routes_that_exist() -> None:
    """Or they would excuse nothing."""
    assert set(CALLS) >= ADMIN | BODIES.keys()
    assert {path for _, path in CALLS} >= OPEN


async def test_two_keys_of_one_user_see_the_same(house: House) -> None:
    """A key names a user; what was said belongs to the user."""
    path = house.fill("/api/v1/staff/{staff_id}/messages")
    assert SECRET in (await house.call("GET", path, "ada2")).text
    assert (await house.call("GET", path, "bob")).json() == []


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Basic {key}", "{key}", "Bearer {key}x", "Bearer x{key}", "Bearer {key} {key}"]
)
async def test_only_a_whole_bearer_key_is_taken(house: House, header: str) -> None:
    """Everything else is a 401 that does not repeat what was sent."""
    sent = header.replace("{key}", house.texts["ada"])
    answer = await house.api.http.get("/staff", headers={"Authorization": sent})
    assert answer.status_code == 401
    assert house.texts["ada"] not in answer.text


async def test_the_scheme_is_not_case_sensitive(house: House) -> None:
    """RFC 9110, section 11.1."""
    answer = await house.api.http.get("/staff", headers={"Authorization": f"bearer {house.texts['bob']}"})
    assert answer.status_code == 200


async def test_a_key_made_by_call_works_until_it_is_revoked(house: House) -> None:
    """Its text is shown once; revoking it takes effect with the next request."""
    made = await house.call("POST", "/api/v1/keys", "ada", json={"name": "carol"})
    assert made.status_code == 201
    key = made.json()
    house.texts["carol"] = key["key"]
    assert (key["user_id"], key["role"]) == ("carol", "member")
    assert (await house.call("GET", "/api/v1/staff", "carol")).status_code == 200
    assert key["key"] not in (await house.call("GET", "/api/v1/keys", "ada")).text
    revoked = await house.call("DELETE", f"/api/v1/keys/{key['id']}", "ada")
    assert revoked.json()["revoked_at"] is not None
    assert (await house.call("GET", "/api/v1/staff", "carol")).status_code == 401


async def test_a_key_revoked_on_the_file_is_refused_at_once(house: House, db: Path) -> None:
    """`staffstream keys revoke` is another process; the server asks the file each time."""
    with contextlib.closing(connect(db)) as connection, transact(connection):
        bob = next(key for key in keys.list_keys(connection) if key.name == "bob")
        keys.revoke_key(connection, bob.id)
    assert (await house.call("GET", "/api/v1/staff", "bob")).status_code == 401


async def test_the_last_use_is_recorded_without_a_write_a_request(db: Path, provider: ScriptedProvider) -> None:
    """It is in the file when the server has stopped, and only then or after a while."""
    prepare(db)
    with contextlib.closing(connect(db)) as connection, transact(connection):
        used, text = keys.create_key(connection, "ada")
        keys.create_key(connection, "bob")
    async with serve_here(db, provider, auth="keys") as api:
        commits = itertools.count()
        api.app.state.services.database.on_commit = lambda *_: next(commits)
        for _ in range(5):
            await api.get("/staff", headers={"Authorization": f"Bearer {text}"})
        assert next(commits) < 5  # a round of background work may commit meanwhile
    with contextlib.closing(connect(db)) as connection:
        last_used = {key.id: key.last_used_at for key in keys.list_keys(connection)}
    assert last_used.pop(used.id) is not None
    assert list(last_used.values()) == [None]


async def test_without_a_key_nobody_else_can_reach_the_server(db: Path) -> None:
    """On an address that is no loopback the server refuses to start, and says how to make a key."""
    app = create_app(make_settings(db, host="0.0.0.0"))
    with pytest.raises(SetupError, match="staffstream keys create NAME"):
        async with app.running():
            pass


async def test_keys_off_is_refused_where_others_can_reach_the_server(db: Path) -> None:
    """Even when asked."""
    with pytest.raises(AssertionError, match="loopback"):
        async with start_server(db, None, "--host", "0.0.0.0", "--auth", "off"):
            pass


async def test_the_server_starts_for_others_once_there_is_a_key(db: Path) -> None:
    """`staffstream keys create` works before the first start."""
    prepare(db)
    with contextlib.closing(connect(db)) as connection, transact(connection):
        _, text = keys.create_key(connection, "ada")
    async with start_server(db, None, "--host", "0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1") + "/api/v1/staff"
        assert (await server.api.http.get(url)).status_code == 401
        assert (await server.api.http.get(url, headers={"Authorization": f"Bearer {text}"})).status_code == 200
        assert text not in server.log


async def test_a_host_names_its_users_itself(db: Path) -> None:
    """A bare name may do everything, a Caller what its role may, and None is refused; users are kept apart."""

    async def identify(request: Request) -> Caller | str | None:
        name = request.headers.get("x-user")
        return Caller(name, "member") if name == "mia" else name

    app = create_app(make_settings(db, auth="keys"), identify=identify)
    async with serve_asgi_here(app) as url, open_api(url, app) as api:
        try:
            made = await api.post("/staff", {"name": "Grace"}, 201, headers={"X-User": "leo"})
            asked = await api.post(f"/staff/{made['id']}/messages", {"content": "hi"}, 202, headers={"X-User": "leo"})
            run = f"/staff/{made['id']}/runs/{asked['run_id']}"
            await api.get(run, headers={"X-User": "leo"})
            await api.get(run, 404, headers={"X-User": "mia"})
            await api.post("/staff", {"name": "Grace"}, 403, headers={"X-User": "mia"})
            await api.get(run, 401)
            await api.get(run, 401, headers={"X-User": ""})
        finally:
            await app.drain(0)
