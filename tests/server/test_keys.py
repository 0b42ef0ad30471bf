"""Keys at a running server: whose they are, guessing them, and what their end means for open streams."""

import contextlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from staffstream.api import key_ring
from staffstream.domain import Caller
from staffstream.storage import keys
from tests.tools.databases import connect, transact
from tests.tools.provider import ScriptedProvider
from tests.tools.server import Api, make_keys, read_problem, serve_here

pytestmark = pytest.mark.anyio


async def test_a_second_key_of_a_user_has_to_say_so(db: Path) -> None:
    """Two people who are both called Kim must not become one user unawares."""
    ada = make_keys(db, ada="admin")["ada"]
    async with serve_here(db, auth="keys") as api:
        api.http.headers.update(ada)
        await api.post("/keys", {"name": "kim"}, 201)
        problem = await api.post("/keys", {"name": "kim"}, 409)
        assert problem["code"] == "user_exists"
        assert "user_id" in problem["detail"]
        second = await api.post("/keys", {"name": "kim", "user_id": "kim"}, 201)
        assert (second["user_id"], second["role"]) == ("kim", "member")


async def test_guessing_keys_is_refused_for_a_while(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 without a look at the file; a key that was valid before goes on working from the same address."""
    monkeypatch.setattr(key_ring, "BAD_KEYS_PER_MINUTE", 5)
    ada = make_keys(db, ada="admin")["ada"]
    async with serve_here(db, auth="keys") as api:
        assert (await api.http.get("/staff", headers=ada)).status_code == 200
        answers = [
            await api.http.get("/staff", headers={"Authorization": f"Bearer sst_{n}"}) for n in range(12)
        ]  # a minute may end within
        codes = [answer.status_code for answer in answers]
        assert 429 in codes
        assert set(codes) == {401, 429}
        refused = answers[codes.index(429)]
        assert read_problem(refused)["code"] == "too_many_requests"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert (await api.http.get("/staff", headers=ada)).status_code == 200


@pytest.mark.parametrize("where", ["by call", "on the file"])
async def test_a_revoked_keys_open_streams_end(
    db: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """In an error frame; the run goes on, and another key of the same user has it whole."""
    monkeypatch.setattr(key_ring, "REVOKED_ROUND_S", 0.05)
    headers = make_keys(db, ada="admin", bob="member")
    async with serve_here(db, provider, auth="keys") as api:
        api.http.headers.update(headers["ada"])
        staff = await api.make_staff()
        other = (await api.post("/keys", {"name": "bob's phone", "user_id": "bob"}, 201))["key"]
        revoked = next(key for key in await api.get("/keys") if key["name"] == "bob")
        gate = provider.hold(["one", " two"])
        gate.release()
        async with httpx.AsyncClient(base_url=api.http.base_url, headers=headers["bob"], trust_env=False) as http:
            async with Api(api.url, http).stream(staff, "Hi") as stream_reader:
                assert (await stream_reader.next()).data["content"] == "one"  # type: ignore[union-attr]
                if where == "by call":
                    assert (await api.http.delete(f"/keys/{revoked['id']}")).status_code == 200
                else:
                    with contextlib.closing(connect(db)) as connection, transact(connection):
                        keys.revoke_key(connection, revoked["id"])
                end = await stream_reader.next()
                assert end is not None
                assert (end.data["type"], end.data["code"]) == ("error", "unauthorized")
                assert await stream_reader.next() is None
        gate.open()
        api.http.headers["Authorization"] = f"Bearer {other}"
        assert (await api.rejoin(staff, stream_reader.run_id)).text == "one two"


@pytest.mark.parametrize(
    "caller",
    [Caller("", "admin"), Caller(" ", "member"), Caller(None, "admin"), Caller("kim", "root"), "", None, " "],  # type: ignore[arg-type]
)
async def test_a_caller_without_a_name_is_refused(db: Path, caller: Any) -> None:
    """What a host's `identify` answers for somebody who is not signed in must be nobody's, never everybody's."""

    async def identify(request: Request) -> Any:
        return caller

    async with serve_here(db, identify=identify) as api:
        answer = await api.http.get("/staff")
        assert (answer.status_code, read_problem(answer)["code"]) == (401, "unauthorized")
