"""LibreChat: the agents code that its server runs against an OpenAI endpoint (@librechat/agents), unchanged."""

import contextlib
from pathlib import Path

import pytest

from staffstream.storage import keys
from tests.dialects.node_client import TORTURE, run_chat
from tests.tools.databases import connect, prepare, transact
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import CASES
from tests.tools.provider_script import Reply
from tests.tools.server import Api, serve_here

pytestmark = pytest.mark.anyio


async def test_a_chat_and_its_title(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Any text comes whole; the second message goes on with the conversation; the title becomes none of its own."""
    usage = {"input_tokens": 10, "cache_read_input_tokens": 7, "output_tokens": 3}
    provider.script(Reply(TORTURE, usage=usage), Reply(["A greeting"]), Reply(["Second"]))
    first, title, second = await run_chat(
        api.url,
        """
        const chat = new Chat()
        tell(await chat.send("Hi"))
        tell(await chat.title())
        tell(await chat.send("Go on"))
        """,
    )
    assert (first["text"], first["error"]) == ("".join(TORTURE), None)
    assert (first["usage"][0]["input_tokens"], first["usage"][0]["output_tokens"]) == (17, 3)
    assert title == "A greeting"
    assert second["text"] == "Second"
    (conversation,) = await api.get(f"/staff/{ada}/conversations")
    assert await api.said(ada, conversation_id=conversation["id"]) == ["Hi", "".join(TORTURE), "Go on", "Second"]


async def test_stopping_keeps_what_was_received(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """LibreChat stops by hanging up. The run ends with its partial text, and the chat goes on from there."""
    gate = provider.hold(["Once", " upon", " a", " time"])
    gate.release(2)
    provider.script(Reply(["The end"]))
    stopped, after = await run_chat(
        api.url,
        """
        const chat = new Chat()
        const stop = new AbortController()
        let text = ""
        const onText = (piece) => (text += piece) === "Once upon" && stop.abort()
        tell(await chat.send("A story", { signal: stop.signal, onText }))
        tell(await chat.send("And then?"))
        """,
    )
    assert stopped["text"] == "Once upon"
    assert after["text"] == "The end"
    (conversation,) = await api.get(f"/staff/{ada}/conversations")
    assert await api.said(ada, conversation_id=conversation["id"]) == ["A story", "Once upon", "And then?", "The end"]


async def test_a_fault_within_the_stream_is_told_and_the_next_message_is_fine(
    api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """In our words, which its page shows."""
    provider.script(CASES["overloaded_mid_stream"].script, Reply(["Fine"]))
    failed, after = await run_chat(
        api.url,
        """
        const chat = new Chat()
        tell(await chat.send("Hi"))
        tell(await chat.send("Again"))
        """,
    )
    assert failed["text"] == "One"
    assert "Claude is overloaded. Try again soon." in failed["error"]
    assert (after["text"], after["error"]) == ("Fine", None)


async def test_its_user_header_with_a_gateways_key(db: Path, provider: ScriptedProvider) -> None:
    """One key, and a memory for each of LibreChat's users."""
    prepare(db)
    with contextlib.closing(connect(db)) as connection, transact(connection):
        admin = keys.create_key(connection, "admin", role="admin")[1]
        gateway = keys.create_key(connection, "librechat", role="member", gateway=True)[1]
    async with serve_here(db, provider, auth="keys") as api:
        api.http.headers["authorization"] = f"Bearer {admin}"
        await api.make_staff("Ada")
        code = """
        const open = (user) => new Chat({ headers: { Authorization: "Bearer KEY", "X-LibreChat-User-Id": user } })
        tell((await open("kim").send("My bird is called Pip.")).error)
        tell((await open("kim").send("What is my bird called?")).error)
        tell((await open("lou").send("What is my bird called?")).error)
        """
        assert await run_chat(api.url, code.replace("KEY", gateway)) == [None, None, None]
    assert ["Pip" in str(request.body) for request in provider.chats] == [True, True, False]
