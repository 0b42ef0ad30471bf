"""Staff members over HTTP: made, listed, changed, erased."""

import asyncio
import re
from typing import Any

import pytest

from tests.tools.provider import ScriptedProvider
from tests.tools.server import Api

pytestmark = pytest.mark.anyio

SHOWN = {
    "id", "name", "role", "persona", "model", "context_budget_tokens", "max_output_tokens", "webhook_url",
    "memory_enabled", "created_at", "updated_at",
}  # fmt: skip
UNKNOWN = "019a0000-0000-7000-8000-000000000000"


async def test_a_name_is_enough(api: Api) -> None:
    """Everything else has a default, and Location names the new one."""
    response = await api.http.post("/staff", json={"name": "Ada"})
    made = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/api/v1/staff/{made['id']}"
    assert made.keys() >= SHOWN | {"webhook_secret"}
    assert (made["name"], made["role"], made["persona"], made["model"]) == ("Ada", "", "", None)
    assert made["memory_enabled"] is True
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made["created_at"])


async def test_all_fields_are_kept(api: Api) -> None:
    """What was sent is what is shown, Unicode included."""
    fields: dict[str, Any] = {
        "name": "Åse 👩‍🚀", "role": "pilot", "persona": "Line\u2028one\nline two\0", "model": "claude-x",
        "context_budget_tokens": 1000, "max_output_tokens": 50, "webhook_url": "https://example.com/hook?a=1",
        "memory_enabled": False,
    }  # fmt: skip
    made = await api.post("/staff", fields, 201)
    shown = await api.get(f"/staff/{made['id']}")
    assert {name: shown[name] for name in fields} == fields


async def test_the_webhook_secret_is_shown_once(api: Api) -> None:
    """Made if absent, in the form of Standard Webhooks, and in no later answer."""
    made = await api.post("/staff", {"name": "Ada"}, 201)
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{32,}={0,2}", made["webhook_secret"])
    own = "whsec_" + "QUJD" * 8
    assert (await api.post("/staff", {"name": "Bo", "webhook_secret": own}, 201))["webhook_secret"] == own
    later = [
        await api.get("/staff"),
        await api.get(f"/staff/{made['id']}"),
        await api.patch(f"/staff/{made['id']}", {"role": "x"}),
    ]
    assert "secret" not in str(later)


async def test_the_list_is_oldest_first(api: Api) -> None:
    """All of them."""
    ids = [await api.make_staff(name) for name in ("One", "Two", "Three")]
    assert [member["id"] for member in await api.get("/staff")] == ids


async def test_a_change_touches_what_it_names(api: Api, ada: str) -> None:
    """Absent fields stay, null is the server's own where there is one."""
    await api.patch(f"/staff/{ada}", {"model": "claude-x", "persona": "Warm."})
    before = await api.get(f"/staff/{ada}")
    after = await api.patch(f"/staff/{ada}", {"model": None, "name": "Eva"})
    assert after["updated_at"] >= before["updated_at"]
    assert before | {"model": None, "name": "Eva", "updated_at": after["updated_at"]} == after
    assert await api.patch(f"/staff/{ada}", {}) | {"updated_at": ""} == after | {"updated_at": ""}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/name"),
        ({"name": ""}, "/name"),
        ({"name": " \n"}, "/name"),
        ({"name": 7}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"name": None}, "/name"),
        ({"name": "A", "nmae": "B"}, "/nmae"),
        ({"name": "A", "context_budget_tokens": 10}, "/context_budget_tokens"),
        ({"name": "A", "context_budget_tokens": "1000"}, "/context_budget_tokens"),
        ({"name": "A", "context_budget_tokens": 1e300}, "/context_budget_tokens"),
        ({"name": "A", "context_budget_tokens": True}, "/context_budget_tokens"),
        ({"name": "A", "max_output_tokens": 2**70}, "/max_output_tokens"),
        ({"name": "A", "memory_enabled": "yes"}, "/memory_enabled"),
        ({"name": "A", "memory_enabled": None}, "/memory_enabled"),
        ({"name": "A", "webhook_url": "ftp://example.com"}, "/webhook_url"),
        ({"name": "A", "webhook_url": "https://user:word@example.com"}, "/webhook_url"),
        ({"name": "A", "webhook_url": "https://"}, "/webhook_url"),
        ({"name": "A", "webhook_url": "https://example.com:99999/"}, "/webhook_url"),
        ({"name": "A", "webhook_secret": "short"}, "/webhook_secret"),
        ({"name": "A", "persona": ["x"]}, "/persona"),
        ([{"name": "A"}], ""),
        ("Ada", ""),
    ],
)
async def test_a_wrong_body_is_told_where(api: Api, body: Any, pointer: str) -> None:
    """422 with a pointer to the place, and nothing is made."""
    problem = await api.post("/staff", body, 422)
    assert problem["code"] == "invalid"
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert await api.get("/staff") == []


async def test_every_mistake_of_a_body_is_told(api: Api) -> None:
    """Not only the first."""
    problem = await api.post("/staff", {"role": 1, "persona": 2}, 422)
    assert {error["pointer"] for error in problem["errors"]} == {"/name", "/role", "/persona"}


@pytest.mark.parametrize("staff_id", [UNKNOWN, "x", "%00", "%ff", "..", "a%2Fb", "🦊", "'--"])
async def test_an_unknown_one_is_404_for_every_call(api: Api, staff_id: str) -> None:
    """Whatever stands in the path."""
    for method, path in [
        ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/messages"), ("POST", "/messages"),
        ("POST", "/messages/stream"), ("GET", "/conversations"), ("GET", "/runs/x"),
    ]:  # fmt: skip
        body = {"content": "Hi"} if path.startswith("/messages") else {}
        response = await api.http.request(method, f"/staff/{staff_id}{path}", json=body)
        assert response.status_code in (404, 405), (method, path, response.text)
        assert response.json()["code"] in ("not_found", "method_not_allowed")


async def test_erasing_takes_everything_along(api: Api, ada: str) -> None:
    """The staff member, its conversations, messages and runs are gone; another's stay."""
    bo = await api.make_staff("Bo")
    received = await api.ask(ada, "Hi")
    await api.ask(bo, "Hi")
    await api.delete(f"/staff/{ada}")
    for path in (f"/staff/{ada}", f"/staff/{ada}/messages", f"/staff/{ada}/runs/{received.run_id}"):
        assert (await api.get(path, 404))["code"] == "not_found"
    assert await api.said(bo) == ["Hi", "Hello from the provider."]
    assert (await api.http.delete(f"/staff/{ada}")).status_code == 404


async def test_erasing_ends_the_run_that_is_being_made(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Its subscriber gets an end, Claude is left, and nothing of it comes back."""
    gate = provider.hold(["one", "two"])
    async with api.stream(ada, "Hi") as stream_reader:
        gate.release(1)
        await stream_reader.until("one")
        await api.delete(f"/staff/{ada}")
        received = await stream_reader.rest()
    assert received.end["type"] in ("done", "error")
    await provider.left(1)
    assert await api.get("/staff") == []


async def test_erasing_leaves_no_row_behind(api: Api, ada: str) -> None:
    """In any table but those that know no staff member: what was spent on a day stays on the books."""
    await api.ask(ada, "My name is Kim.")
    await api.send(ada, "And I live in Bergen.")
    while (await api.get(f"/staff/{ada}/conversations")) and len(await api.messages(ada)) < 4:
        await asyncio.sleep(0.01)
    database = api.app.state.services.database
    before = await database.read(_count_rows)
    await api.delete(f"/staff/{ada}")
    after = await database.read(_count_rows)
    assert sum(before.values()) > 5
    kept = {table for table, count in after.items() if count}
    assert kept <= {"meta", "token_ratios", "spending_days", "spending_entries"}


def _count_rows(conn: Any) -> dict[str, int]:
    names = [
        row[0]
        for row in conn.execute("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
        if not row[0].startswith("sqlite_")
    ]
    return {name: conn.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}
