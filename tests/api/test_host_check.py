"""By which names the server answers, and whose pages may call it."""

from pathlib import Path

import httpx
import pytest

from staffstream.app import create_app
from staffstream.errors import SetupError
from staffstream.settings import read_settings
from tests.tools.server import Api, make_keys, make_settings, read_problem, serve_here

pytestmark = pytest.mark.anyio


async def knock(api: Api, method: str = "POST", **headers: str) -> httpx.Response:
    """A request with these headers; names have _ for -."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.http.request(method, "/staff", json={"name": "x"}, headers=sent)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8001",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[::2]:1",
        "*",
        "localhost.",
        "127.0.0.1@evil.example",
    ],
)
async def test_a_rebound_name_reaches_nothing(api: Api, host: str) -> None:
    """A page whose own name points at a loopback address may not read from a server without keys."""
    for method in ("GET", "POST"):
        answer = await knock(api, method, Host=host)
        assert (answer.status_code, read_problem(answer)["code"]) == (403, "host_not_allowed")
    assert await api.get("/staff") == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]", "[::1]:80"])
async def test_the_servers_own_names_are_known(api: Api, host: str) -> None:
    """With any port: a proxy or a tunnel may stand between."""
    assert (await knock(api, "GET", Host=host)).status_code == 200


async def test_further_names_can_be_allowed(db: Path) -> None:
    """For a proxy in front that passes the outer name on."""
    async with serve_here(db, allowed_hosts=("chat.example", "b.example")) as api:
        assert (await knock(api, "GET", Host="Chat.Example:443")).status_code == 200
        assert (await knock(api, "GET", Host="127.0.0.1")).status_code == 200
        assert (await knock(api, "GET", Host="c.example")).status_code == 403
    async with serve_here(db, allowed_hosts=("*",)) as api:
        assert (await knock(api, "GET", Host="c.example")).status_code == 200


async def test_with_keys_any_name_will_do(db: Path) -> None:
    """No browser adds a key by itself, so there is nothing to gain; a list of names is still kept to."""
    ada = make_keys(db, ada="admin")["ada"]
    async with serve_here(db, auth="keys") as api:
        assert (await knock(api, "GET", Host="chat.example", **ada)).status_code == 200
    async with serve_here(db, auth="keys", allowed_hosts=("chat.example",)) as api:
        assert (await knock(api, "GET", Host="chat.example", **ada)).status_code == 200
        assert (await knock(api, "GET", Host="127.0.0.1", **ada)).status_code == 200  # a health check's
        assert (await knock(api, "GET", Host="10.0.0.1", **ada)).status_code == 403


async def test_inside_another_app_the_address_itself_is_known(db: Path) -> None:
    """A host's own tests call it `testserver`, which is what the ASGI server says it is."""
    app = create_app(make_settings(db))
    async with app.running():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            assert (await client.get("/api/v1/staff")).status_code == 200
            assert (await client.get("/api/v1/staff", headers={"Host": "evil.example"})).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"},
        {"Origin": "https://a.localhost", "Sec_Fetch_Site": "same-site"},
        {"Origin": "http://[::1"},
        {"Origin": "http://[::1]]"},
        {"Origin": "//127.0.0.1:99999"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Origin": "https://evil.example", "Authorization": "Bearer x"},
    ],
)
async def test_a_page_of_another_site_changes_nothing(api: Api, headers: dict[str, str]) -> None:
    """Though its browser would send the request: a body of text/plain needs no preflight."""
    answer = await knock(api, **headers)
    assert (answer.status_code, read_problem(answer)["code"]) == (403, "origin_not_allowed")
    assert await api.get("/staff") == []


async def test_ones_own_page_may_call(api: Api) -> None:
    """By its origin, or by what the browser says of it when a proxy has changed Host; programs send neither."""
    own = api.url.removeprefix("http://")
    assert (await knock(api, Origin=f"http://{own}")).status_code == 201
    assert (await knock(api, Origin="https://chat.example", Sec_Fetch_Site="same-origin")).status_code == 201
    assert (await knock(api)).status_code == 201


async def test_a_key_does_not_replace_the_origin(db: Path) -> None:
    """A page of another site that knows a key may call once its origin is named; programs send none."""
    ada = make_keys(db, ada="admin")["ada"]
    async with serve_here(db, auth="keys") as api:
        assert (await knock(api, Origin="https://elsewhere.example", **ada)).status_code == 403
        assert (await knock(api, **ada)).status_code == 201
    async with serve_here(db, auth="keys", cors_origins=("https://elsewhere.example",)) as api:
        assert (await knock(api, Origin="https://elsewhere.example", **ada)).status_code == 201


async def test_all_origins_without_keys_are_refused_at_the_start(db: Path) -> None:
    """Any page that anybody on this machine looks at could read and change everything."""
    with pytest.raises(SetupError, match="STAFFSTREAM_CORS_ORIGINS"):
        async with create_app(make_settings(db, cors_origins=("*",))).running():
            pass
    make_keys(db, ada="admin")
    async with create_app(make_settings(db, cors_origins=("*",), auth="keys")).running():
        pass


async def test_cors_is_off_unless_origins_are_named(api: Api) -> None:
    """A browser is told nothing that would let a page read an answer."""
    preflight = {"Origin": "https://app.example", "Access_Control_Request_Method": "POST"}
    for answer in (await knock(api, "OPTIONS", **preflight), await knock(api, "GET", Origin="https://app.example")):
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_pages_of_a_named_origin_may_call_and_read(db: Path) -> None:
    """The preflight allows our methods and the key's header; the answer shows our headers; others get nothing."""
    ada = make_keys(db, ada="admin")["ada"]
    async with serve_here(db, auth="keys", cors_origins=("https://app.example",)) as api:
        asked = await knock(
            api, "OPTIONS", Origin="https://app.example", Access_Control_Request_Method="PATCH",
            Access_Control_Request_Headers="authorization,content-type,idempotency-key,last-event-id",
        )  # fmt: skip
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == "https://app.example"
        assert "PATCH" in asked.headers["access-control-allow-methods"]
        assert "authorization" in asked.headers["access-control-allow-headers"]
        made = await knock(api, Origin="https://app.example", **ada)
        assert made.status_code == 201
        assert made.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-expose-headers" in made.headers
        other = await knock(api, "GET", Origin="https://evil.example", **ada)
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cors_origins", "app.example"), ("cors_origins", "https://app.example/page"), ("cors_origins", "null"),
        ("allowed_hosts", "chat.example:8001"), ("allowed_hosts", "https://chat.example"),
    ],
)  # fmt: skip
def test_a_name_that_could_match_nothing_is_refused(name: str, value: str) -> None:
    """At the start, with an example: it would look set and let nobody in."""
    with pytest.raises(SetupError, match="write it like"):
        read_settings({f"STAFFSTREAM_{name.upper()}": value})


async def test_names_are_taken_as_people_write_them(db: Path) -> None:
    """With capitals, a final slash, or the brackets of an IPv6 address."""
    settings = read_settings(
        {"STAFFSTREAM_CORS_ORIGINS": "https://App.example/", "STAFFSTREAM_ALLOWED_HOSTS": "[FD00::1],Chat.example"}
    )
    async with serve_here(db, cors_origins=settings.cors_origins, allowed_hosts=settings.allowed_hosts) as api:
        answer = await knock(api, Origin="https://app.example", Host="[fd00::1]:8001")
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (201, "https://app.example")


async def test_answers_are_never_guessed_to_be_something_else(api: Api) -> None:
    """What a user wrote must not run as a page."""
    assert (await knock(api, "GET")).headers["x-content-type-options"] == "nosniff"
    assert (await knock(api, Host="evil.example")).headers["x-content-type-options"] == "nosniff"
