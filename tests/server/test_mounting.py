"""Inside another app: mounted under a prefix by a Starlette and by a FastAPI host, lifespan and all."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import fastapi
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from staffstream import create_app
from staffstream.app import Staffstream
from tests.tools.provider import ScriptedProvider
from tests.tools.server import Api, make_settings, name_user, open_api, read_problem, serve_asgi_here, serve_here

pytestmark = pytest.mark.anyio

SAID = "Hello from the provider."


def _host_on_starlette(app: Staffstream) -> ASGIApp:
    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with app.running():
            yield

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("the host's own")

    return Starlette(routes=[Route("/", hello), Mount("/ai", app)], lifespan=lifespan)


def _host_on_fastapi(app: Staffstream) -> ASGIApp:
    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        async with app.running():
            yield

    host = fastapi.FastAPI(lifespan=lifespan)

    @host.get("/", response_class=fastapi.responses.PlainTextResponse)
    async def hello() -> str:
        return "the host's own"

    host.mount("/ai", app)
    return host


HOSTS = {"starlette": _host_on_starlette, "fastapi": _host_on_fastapi}


@pytest.fixture(params=HOSTS.values(), ids=HOSTS)
async def mounted(request: pytest.FixtureRequest, db: Path, provider: ScriptedProvider) -> AsyncIterator[Api]:
    """The product under /ai of a host on Hypercorn."""
    app = create_app(make_settings(db, provider))
    async with serve_asgi_here(request.param(app)) as url, open_api(f"{url}/ai", app) as api:
        yield api


async def test_a_reply_streams_from_under_a_prefix(mounted: Api, provider: ScriptedProvider) -> None:
    """Token by token, joined, listed; the host's own pages stay."""
    ada = await mounted.make_staff()
    gate = provider.hold(["one", " two"])
    async with mounted.stream(ada, "Hi") as stream_reader:
        gate.release(1)
        assert await stream_reader.token() == "one"
        gate.open()
        received = await stream_reader.rest()
    assert (await mounted.rejoin(ada, received.run_id)).text == "one two"
    assert await mounted.said(ada) == ["Hi", "one two"]
    assert (await mounted.http.get(mounted.url.removesuffix("ai"))).text == "the host's own"


async def test_location_and_link_carry_the_prefix(mounted: Api) -> None:
    """What the server names can be asked for as it stands."""
    made = await mounted.http.post("/staff", json={"name": "Ada"})
    ada = made.json()["id"]
    assert made.headers["location"] == f"/ai/api/v1/staff/{ada}"
    sent = await mounted.http.post(f"/staff/{ada}/messages", json={"content": "Hi"})
    conversation = await mounted.http.post(f"/staff/{ada}/conversations", json={})
    await mounted.ended_run(ada, sent.json()["run_id"])
    page = await mounted.http.get(f"/staff/{ada}/messages?limit=1")
    origin = mounted.url.removesuffix("/ai")
    for named in (
        made.headers["location"],
        sent.headers["location"],
        conversation.headers["location"],
        page.links["next"]["url"],
    ):
        assert named.startswith("/ai/api/v1/")
        assert (await mounted.http.get(origin + named)).status_code == 200


async def test_problems_are_the_products_own_under_a_prefix(mounted: Api) -> None:
    """404 and 405 within it are problem documents; outside of it the host answers as it does."""
    assert read_problem(await mounted.http.get("/nothing"))["code"] == "not_found"
    assert read_problem(await mounted.http.put("/staff"))["code"] == "method_not_allowed"
    outside = await mounted.http.get(mounted.url.removesuffix("ai") + "nothing")
    assert "x-request-id" not in outside.headers


@pytest.mark.parametrize("make_host", HOSTS.values(), ids=HOSTS)
async def test_the_hosts_lifespan_ends_what_is_being_made(
    db: Path, provider: ScriptedProvider, make_host: Callable[[Staffstream], ASGIApp]
) -> None:
    """With the partial text saved; a second host on the same file finds it, and the app can be entered again."""
    app = create_app(make_settings(db, provider))
    gate = provider.hold(["one", " two"])
    async with serve_asgi_here(make_host(app)) as url, open_api(f"{url}/ai") as api:
        ada = await api.make_staff()
        async with api.stream(ada, "Hi") as stream_reader:
            gate.release(1)
            await stream_reader.until("one")
    await provider.left(1)
    async with serve_asgi_here(make_host(app)) as url, open_api(f"{url}/ai") as api:
        run = await api.run(ada, stream_reader.run_id)
        assert (run["state"], run["error"]["retryable"], run["partial_text"]) == ("failed", True, "one")
        assert [m["status"] for m in await api.messages(ada)] == ["interrupted", "complete"]
        assert (await api.ask(ada, "Again")).text == SAID


async def test_without_its_lifespan_it_says_what_is_missing(db: Path) -> None:
    """A host that forgets to enter it gets a clear 500, on every path that needs it."""
    app = create_app(make_settings(db))
    transport = httpx.ASGITransport(Starlette(routes=[Mount("/ai", app)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/ai") as client:
        for method, path in [("GET", "/api/v1/staff"), ("POST", "/api/v1/staff/x/messages/stream"), ("GET", "/readyz")]:
            response = await client.request(method, path, json={"content": "Hi"})
            problem = read_problem(response)
            assert (response.status_code, problem["code"]) == (500, "not_started")
            assert "lifespan" in problem["detail"]


async def test_the_host_names_its_users(db: Path, provider: ScriptedProvider) -> None:
    """By a function of its own; each user has a conversation of their own with the same staff member."""
    app = create_app(make_settings(db, provider), identify=name_user)
    async with serve_asgi_here(_host_on_starlette(app)) as url, open_api(f"{url}/ai") as api:
        ada = await api.make_staff()
        await api.ask(ada, "I am Kim")
        api.http.headers["X-User"] = "eve"
        assert await api.messages(ada) == []
        await api.ask(ada, "I am Eve")
        assert await api.said(ada) == ["I am Eve", SAID]


async def test_two_apps_in_one_process_are_two(tmp_path: Path, provider: ScriptedProvider) -> None:
    """Nothing of one shows in the other."""
    one, two = (create_app(make_settings(tmp_path / f"{n}.db", provider)) for n in "12")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with one.running(), two.running():
            yield

    host = Starlette(routes=[Mount("/one", one), Mount("/two", two)], lifespan=lifespan)
    async with serve_asgi_here(host) as url, open_api(f"{url}/one") as first, open_api(f"{url}/two") as second:
        ada = await first.make_staff()
        await first.ask(ada, "Hi")
        assert await second.get("/staff") == []
        assert (await second.ask(ada, "Hi")).problem["code"] == "not_found"


async def test_an_app_without_settings_takes_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And reads nothing of the environment: a host's variables are not ours."""
    monkeypatch.setenv("STAFFSTREAM_DB", str(tmp_path / "no.db"))
    assert create_app().settings.db == Path("staffstream.db")


async def test_behind_a_proxy_that_strips_a_prefix(db: Path, provider: ScriptedProvider) -> None:
    """ROOT_PATH: what the server says of its own paths has the prefix that the client needs."""
    async with serve_here(db, provider, root_path="/assist") as api:
        made = await api.http.post("/staff", json={"name": "Ada"})
        ada = made.json()["id"]
        assert made.headers["location"] == f"/assist/api/v1/staff/{ada}"
        sent = await api.http.post(f"/staff/{ada}/messages", json={"content": "Hi"})
        assert sent.headers["location"].startswith(f"/assist/api/v1/staff/{ada}/runs/")
        mode = await api.get(f"/staff/{ada}/mode")
        assert mode["path"] == f"/assist/api/v1/staff/{ada}/messages/stream"
        await api.ask(ada, "Again", multitask_strategy="enqueue")
        page = await api.http.get(f"/staff/{ada}/messages", params={"limit": 1})
        assert page.headers["link"].startswith(f"</assist/api/v1/staff/{ada}/messages?limit=1&before=")
        assert (await api.http.get(f"{api.url}/openapi.json")).json()["servers"] == [{"url": "/assist"}]
        assert (await api.http.get(f"{api.url}/")).status_code == 200
        unstripped = await api.http.get(f"{api.url}/assist/api/v1/staff")
        assert [staff["id"] for staff in unstripped.json()] == [ada]
