"""Keys in the dialects: the same as everywhere, and a gateway's, which speaks for many users."""

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from staffstream.api.routes import DIALECTS
from staffstream.storage import keys
from tests.tools.commands import run_command
from tests.tools.databases import connect, prepare, transact
from tests.tools.provider import ScriptedProvider
from tests.tools.server import Api, serve_here

pytestmark = pytest.mark.anyio


@pytest.fixture
def texts(db: Path) -> dict[str, str]:
    """Keys: an admin's, two members', and a gateway's."""
    prepare(db)
    with contextlib.closing(connect(db)) as connection, transact(connection):
        made = {name: keys.create_key(connection, name, role="member")[1] for name in ("kim", "bob")}
        made["admin"] = keys.create_key(connection, "admin", role="admin")[1]
        made["gateway"] = keys.create_key(connection, "webui", role="member", gateway=True)[1]
    return made


@pytest.fixture
async def keyed(db: Path, provider: ScriptedProvider, texts: dict[str, str]) -> AsyncIterator[Api]:
    async with serve_here(db, provider, auth="keys") as api:
        api.http.headers["authorization"] = f"Bearer {texts['admin']}"
        await api.make_staff()
        yield api


def open_client(api: Api, key: str, **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{api.url}/v1", api_key=key, max_retries=0, **options)


async def ask(client: AsyncOpenAI, *contents: str, **options: Any) -> str:
    """Ask, with the past repeated; the conversation's id."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]
    raw = await client.chat.completions.with_raw_response.create(model="Ada", messages=messages, **options)  # type: ignore[call-overload]
    return str(raw.headers["x-conversation-id"])


async def test_every_route_of_a_dialect_asks_for_a_key(keyed: Api) -> None:
    """In its own shape, with nothing of ours but our words."""
    for route in DIALECTS:
        path = re.sub(r"\{\w+(:\w+)?\}", "x", route.path)
        for method in (route.methods or set()) - {"HEAD"}:
            async with httpx.AsyncClient(trust_env=False) as http:
                answer = await http.request(method, keyed.url + path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
            assert "Send a valid key" in answer.text


async def test_what_another_user_said_is_not_recognised(keyed: Api, texts: dict[str, str]) -> None:
    """Nor is a conversation of theirs found by its id or name."""
    async with open_client(keyed, texts["kim"]) as kim, open_client(keyed, texts["bob"]) as bob:
        hers = await ask(kim, "I am Kim.", extra_headers={"X-Conversation-Id": "mine"})
        assert await ask(bob, "I am Kim.", "Hello from the provider.", "Go on") != hers
        for name in (hers, "mine"):
            assert await ask(bob, "Hi", extra_headers={"X-Conversation-Id": name}) != hers
    async with open_client(keyed, "sst_wrong") as nobody:
        with pytest.raises(openai.AuthenticationError):
            await ask(nobody, "Hi")


async def test_a_gateway_speaks_for_many_users(keyed: Api, texts: dict[str, str], provider: ScriptedProvider) -> None:
    """By `user` or by the chat server's header, each with their own memory."""
    async with open_client(keyed, texts["gateway"]) as client, open_client(keyed, texts["kim"]) as kim:
        hers = await ask(client, "My bird is called Pip.", user="kim")
        assert await ask(kim, "My bird is called Pip.", "Hello from the provider.", "Go on") == hers
        await ask(client, "What is my bird called?", extra_headers={"X-OpenWebUI-User-Id": "kim"})
        assert "Pip" in str(provider.chats[-1].body)
        await ask(client, "What is my bird called?", extra_headers={"X-LibreChat-User-Id": "lou"})
        assert "Pip" not in str(provider.chats[-1].body)
        await ask(client, "What is my bird called?")
        assert "Pip" not in str(provider.chats[-1].body)


async def test_other_keys_name_nobody(keyed: Api, texts: dict[str, str], provider: ScriptedProvider) -> None:
    """`user` and the headers mean nothing unless the key is a gateway's: off by default."""
    async with open_client(keyed, texts["kim"]) as kim, open_client(keyed, texts["bob"]) as bob:
        await ask(kim, "My bird is called Pip.")
        await ask(bob, "What is my bird called?", user="kim", extra_headers={"X-OpenWebUI-User-Id": "kim"})
        assert "Pip" not in str(provider.chats[-1].body)


async def test_whom_a_gateway_names_is_no_admin(keyed: Api, db: Path) -> None:
    """Whatever the key itself may do."""
    with contextlib.closing(connect(db)) as connection, transact(connection):
        text = keys.create_key(connection, "root", role="admin", gateway=True)[1]
    headers = {"Authorization": f"Bearer {text}"}
    assert (await keyed.http.get("/keys", headers=headers)).status_code == 200
    assert (await keyed.http.get("/keys", headers=headers | {"X-OpenWebUI-User-Id": "kim"})).status_code == 403


async def test_the_command_line_makes_a_gateways_key(db: Path) -> None:
    """With --gateway, and says so."""
    done = run_command("keys", "create", "webui", "--gateway", db=db)
    assert "and for those it names" in done.stdout
    with contextlib.closing(connect(db)) as connection:
        key = keys.find_key(connection, done.stdout.splitlines()[-1])
    assert key is not None
    assert key.gateway
