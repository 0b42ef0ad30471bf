"""MCP's official client against the running server, in both revisions, over HTTP and over stdio."""

import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from staffstream.storage import keys
from tests.tools.databases import connect, prepare, transact
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import CASES
from tests.tools.provider_script import Reply
from tests.tools.server import Api, serve_here

pytestmark = pytest.mark.anyio

NO_CONVERSATION = "There is no conversation with this id."
MODES = ["auto", "legacy"]


@contextlib.asynccontextmanager
async def open_client(api: Api, mode: str = "auto", key: str = "") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(headers=headers, trust_env=False, timeout=30) as http:
        transport = streamable_http_client(f"{api.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:  # type: ignore[arg-type]
            yield client


async def call(client: Client, name: str, **given: Any) -> Any:
    """A tool's value. Fails if it is an error."""
    result = await client.call_tool(name, given)
    assert not result.is_error, result.content
    return result.structured_content


@pytest.mark.parametrize("mode", MODES)
async def test_its_tools_are_our_api(api: Api, ada: str, provider: ScriptedProvider, mode: str) -> None:
    """Asking, remembering, searching and forgetting, by the staff member's name or id, with the API's own shapes."""
    provider.script(Reply(["Gre", "at\u2028!"]))
    async with open_client(api, mode) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        assert tools == ["list_staff", "search_memories", "remember", "forget", "ask"]
        assert (await call(client, "list_staff"))["staff"] == await api.get("/staff")
        memory = await call(client, "remember", staff="Ada", text="Kim keeps bees in Bergen.")
        assert memory == (await api.get(f"/staff/{ada}/memories"))[0]
        (found,) = (await call(client, "search_memories", staff=ada, query="bees", limit=5))["memories"]
        assert found["id"] == memory["id"]
        answer = await call(client, "ask", staff="Ada", content="How are the bees?")
        assert answer["text"] == "Great\u2028!"
        assert (await api.get(f"/staff/{ada}/messages/{answer['message_id']}"))["content"] == "Great\u2028!"
        again = await call(client, "ask", staff="Ada", content="And?", conversation_id=answer["conversation_id"])
        assert again["conversation_id"] == answer["conversation_id"]
        assert await call(client, "forget", staff="Ada", memory_id=memory["id"]) == {"forgotten": memory["id"]}
        assert memory["id"] not in str(await api.get(f"/staff/{ada}/memories"))


@pytest.mark.parametrize("mode", MODES)
async def test_what_goes_wrong_is_told_in_our_words(api: Api, ada: str, provider: ScriptedProvider, mode: str) -> None:
    """As a tool's error, which the model can read; the next call is fine."""
    provider.script(CASES["overloaded_mid_stream"].script)
    async with open_client(api, mode) as client:
        for name, given, text in [
            ("ask", {"staff": "Ada", "content": "Hi"}, "Claude is overloaded. Try again soon."),
            ("ask", {"staff": "Nobody", "content": "Hi"}, "No staff member is called so; list_staff shows their ids."),
            (
                "ask",
                {"staff": "Ada", "content": "Hi", "conversation_id": "x"},
                "There is no conversation with this id.",
            ),
            ("ask", {"staff": "Ada"}, "The arguments: required is not met."),
            ("forget", {"staff": "Ada", "memory_id": "x"}, "There is no memory with this id."),
        ]:
            result = await client.call_tool(name, given)
            assert (result.is_error, result.content[0].text) == (True, text)  # type: ignore[union-attr]
        assert (await call(client, "ask", staff="Ada", content="Hi"))["text"] == "Hello from the provider."


async def test_its_keys_are_those_of_everywhere(db: Path, provider: ScriptedProvider) -> None:
    """Each user has their own memory; without a key there is nothing."""
    prepare(db)
    with contextlib.closing(connect(db)) as connection, transact(connection):
        texts = {name: keys.create_key(connection, name, role="admin")[1] for name in ("kim", "bob")}
    async with serve_here(db, provider, auth="keys") as api:
        api.http.headers["authorization"] = f"Bearer {texts['kim']}"
        await api.make_staff()
        async with open_client(api, key=texts["kim"]) as kim, open_client(api, key=texts["bob"]) as bob:
            await call(kim, "remember", staff="Ada", text="Kim keeps bees.")
            assert (await call(bob, "search_memories", staff="Ada", query="bees"))["memories"] == []
            assert len((await call(kim, "search_memories", staff="Ada", query="bees"))["memories"]) == 1
        async with httpx.AsyncClient(trust_env=False) as http:
            refused = await http.post(f"{api.url}/mcp", json={})
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            headers = {"Authorization": f"Bearer {texts['kim']}"}
            assert (await http.get(f"{api.url}/mcp", headers=headers)).status_code == 405


@pytest.mark.parametrize("mode", MODES)
async def test_a_host_that_starts_a_process(api: Api, ada: str, mode: str) -> None:
    """`staffstream mcp --stdio` offers the same tools of a running server."""
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "staffstream", "mcp", "--stdio", "--url", api.url], env={}
    )
    async with Client(command, mode=mode) as client:  # type: ignore[arg-type]
        assert (await call(client, "ask", staff="Ada", content="Hi"))["text"] == "Hello from the provider."
    assert json.dumps("Hi")[1:-1] in await api.said(ada)


async def test_a_process_without_a_server_says_so() -> None:
    """As a tool's error."""
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "staffstream", "mcp", "--stdio", "--url", "http://127.0.0.1:9"], env={}
    )
    async with Client(command) as client:
        result = await client.call_tool("list_staff", {})
    assert result.is_error
    assert "No server answers" in result.content[0].text  # type: ignore[union-attr]
