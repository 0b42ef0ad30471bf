"""Joining a run by a token in the URL, as an EventSource has to where keys are asked for."""

from pathlib import Path

import httpx
import pytest

from staffstream.api.join_tokens import LIFETIME_S
from tests.tools.provider import ScriptedProvider
from tests.tools.server import make_keys, read_problem, serve_here

pytestmark = pytest.mark.anyio


async def test_a_run_is_joined_by_its_token_alone(
    db: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only that run's stream, only until the token expires, and not once the key is revoked."""
    keys = make_keys(db, ada="admin", bob="member")
    async with serve_here(db, provider, auth="keys") as api:
        api.http.headers.update(keys["ada"])
        staff = await api.make_staff()
        api.http.headers.update(keys["bob"])
        first, second = await api.ask(staff, "Hi"), await api.ask(staff, "Again")
        token = (await api.run(staff, first.run_id))["join_token"]
        path = f"/staff/{staff}/runs/{first.run_id}"
        async with httpx.AsyncClient(base_url=api.http.base_url, trust_env=False) as nobody:
            joined = await nobody.get(f"{path}/stream", params={"token": token})
            assert joined.status_code == 200
            assert '"type":"done"' in joined.text
            for refused, sent in [
                (path, token), (f"/staff/{staff}/runs/{second.run_id}/stream", token), (f"/staff/{staff}", token),
                (f"{path}/stream", token + "x"), (f"{path}/stream", token[1:]), (f"{path}/stream", ""),
                (f"{path}/stream", "9" + token), (f"{path}/stream", "..é"),
            ]:  # fmt: skip
                answer = await nobody.get(refused, params={"token": sent})
                assert (answer.status_code, read_problem(answer)["code"]) == (401, "unauthorized"), (refused, sent)
            tokens = api.app.state.services.join_tokens
            monkeypatch.setattr(tokens, "_clock", lambda: float(token.partition(".")[0]) + 1)
            assert (await nobody.get(f"{path}/stream", params={"token": token})).status_code == 401
            monkeypatch.setattr(tokens, "_clock", lambda: float(token.partition(".")[0]) - LIFETIME_S)
            api.http.headers.update(keys["ada"])
            [bob] = [key for key in await api.get("/keys") if key["name"] == "bob"]
            assert (await nobody.get(f"{path}/stream", params={"token": token})).status_code == 200
            assert (await api.http.delete(f"/keys/{bob['id']}")).status_code == 200
            assert (await nobody.get(f"{path}/stream", params={"token": token})).status_code == 401


async def test_without_keys_there_is_no_token(db: Path, provider: ScriptedProvider) -> None:
    """An EventSource needs none."""
    async with serve_here(db, provider) as api:
        staff = await api.make_staff()
        received = await api.ask(staff, "Hi")
        assert "join_token" not in await api.run(staff, received.run_id)
