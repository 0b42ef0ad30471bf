"""The AI SDK's own `Chat` and DefaultChatTransport, unchanged, against the running server."""

import json
from typing import Any

import pytest

from tests.dialects.node_client import TORTURE, run_client, tell_all
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import CASES
from tests.tools.provider_script import Reply, http_error
from tests.tools.server import Api

pytestmark = pytest.mark.anyio

ANSWER = "Hello from the provider."


def url_of(api: Api, staff_id: str) -> str:
    return f"{api.url}/api/v1/staff/{staff_id}/chat"


async def find_conversation(api: Api, staff_id: str, external_id: str) -> Any:
    found = await api.get(f"/staff/{staff_id}/conversations")
    return next(each for each in found if each["external_id"] == external_id)


async def said(api: Api, staff_id: str, external_id: str) -> list[str]:
    conversation = await find_conversation(api, staff_id, external_id)
    return await api.said(staff_id, conversation_id=conversation["id"])


async def test_any_text_is_streamed_and_a_second_turn_goes_on(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """One message each, under the id that it is saved as; nothing is stored or sent to Claude twice."""
    provider.script(Reply(TORTURE))
    code = """
      const chat = open("chat-1")
      await chat.sendMessage({ text: "Hi" }); chat.show()
      await chat.sendMessage({ text: "And?" }); chat.show()
      tell(chat.messages.map((message) => message.id))
      tell(chat.messages[3].metadata.usage)
    """
    first, second, ids, usage = await tell_all("ai-sdk", url_of(api, ada), code)
    assert first == ["ready", None, ["Hi", "".join(TORTURE)]]
    assert second == ["ready", None, ["Hi", "".join(TORTURE), "And?", ANSWER]]
    assert await said(api, ada, "chat-1") == second[2]
    conversation = await find_conversation(api, ada, "chat-1")
    saved = [message["id"] for message in await api.messages(ada, conversation_id=conversation["id"])]
    assert (saved[2], saved[0]) == (ids[1], ids[3])
    assert len(provider.chats[-1].body["messages"]) == 3
    assert usage == {
        "inputTokens": 20, "outputTokens": 6, "totalTokens": 26,
        "inputTokenDetails": {"noCacheTokens": 20, "cacheReadTokens": 0, "cacheWriteTokens": 0},
    }  # fmt: skip


async def test_regenerate_answers_again_and_an_edit_begins_anew_from_there(
    api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """The chat's id names what the client shows; what it no longer shows is kept."""
    provider.script(*[Reply([text]) for text in ("A", "B", "B2", "C", "A2")])
    code = """
      const chat = open("chat-2")
      await chat.sendMessage({ text: "a" })
      await chat.sendMessage({ text: "b" })
      await chat.regenerate(); chat.show()
      await chat.sendMessage({ text: "b, edited", messageId: chat.messages[2].id }); chat.show()
      await chat.sendMessage({ text: "a, edited", messageId: chat.messages[0].id }); chat.show()
    """
    regenerated, edited, anew = await tell_all("ai-sdk", url_of(api, ada), code)
    assert regenerated[2] == ["a", "A", "b", "B2"]
    assert edited[2] == ["a", "A", "b, edited", "C"]
    assert anew[2] == ["a, edited", "A2"]
    assert await said(api, ada, "chat-2") == ["a, edited", "A2"]
    others = [
        await api.said(ada, conversation_id=each["id"])
        for each in await api.get(f"/staff/{ada}/conversations")
        if each["external_id"] is None
    ]
    assert ["a", "A", "b", "B", "B2"] in others
    assert ["a", "A", "b, edited", "C"] in others
    assert [message["content"][0]["text"] for message in provider.chats[3].body["messages"]][:2] == ["a", "A"]


async def test_a_stream_that_was_cut_is_resumed_as_one_message(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """In mid-token: the run goes on, the client replays it from its start, and Claude is asked once."""
    gate = provider.hold(["One", " two", " three"])
    gate.release(2)
    code = """
      const chat = open("chat-3", { fetch: cutAfter(" tw") })
      await chat.sendMessage({ text: "Count" }); chat.show()
      const resuming = chat.resumeStream()
      await until(() => chat.said().at(-1) === "One two"); tell(chat.messages.length)
      await resuming; chat.show()
      await chat.resumeStream(); chat.show()
      const later = open("chat-3", {})
      await later.resumeStream(); tell(later.messages)
    """
    async with run_client("ai-sdk", url_of(api, ada), code) as told:
        status, error, shown = await told.next()
        assert await told.next() == 2
        gate.open()
        resumed, again, nothing = await told.rest()
    assert (status, error) == ("error", "network error")
    assert "One two".startswith(shown[1])
    assert resumed == ["ready", None, ["Count", "One two three"]]
    assert again == resumed
    assert nothing == []
    assert len(provider.chats) == 1
    assert await said(api, ada, "chat-3") == ["Count", "One two three"]


async def test_a_reload_takes_the_messages_and_the_running_reply(
    api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """As a page does that was opened again: what was said, and the reply from its start under one id."""
    await tell_all("ai-sdk", url_of(api, ada), 'await open("chat-4").sendMessage({ text: "Hi" })')
    gate = provider.hold(["One", " two"])
    gate.release(1)
    code = """
      const chat = open("chat-4")
      chat.sendMessage({ text: "Count" })
      await until(() => chat.said().at(-1) === "One")
      await chat.stop()
      const messages = await (await fetch(`${url}/chat-4/messages`)).json()
      const reloaded = open("chat-4", { messages })
      tell(reloaded.said())
      const resuming = reloaded.resumeStream()
      await until(() => reloaded.said().at(-1) === "One"); tell(reloaded.messages.length)
      await resuming; reloaded.show()
    """
    async with run_client("ai-sdk", url_of(api, ada), code) as told:
        assert await told.next() == ["Hi", ANSWER, "Count"]
        assert await told.next() == 4
        gate.open()
        assert await told.rest() == [["ready", None, ["Hi", ANSWER, "Count", "One two"]]]


async def test_stopping_by_call_and_going_on_without_it(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """`stop()` only hangs up: the call stops the run, and so does the next message."""
    gates = [provider.hold(["One", " two"]), provider.hold(["Uno", " due"])]
    for gate in gates:
        gate.release(1)
    code = """
      const chat = open("chat-5")
      for (const [word, stopping] of [["One", true], ["Uno", false]]) {
        chat.sendMessage({ text: "Count" })
        await until(() => chat.said().at(-1) === word)
        await chat.stop()
        if (stopping) tell((await (await fetch(`${url}/chat-5/stop`, { method: "POST" })).json()).state)
      }
      await chat.sendMessage({ text: "Go on" }); chat.show()
      tell((await fetch(`${url}/chat-5/stop`, { method: "POST" })).status)
    """
    state, last, nothing = await tell_all("ai-sdk", url_of(api, ada), code)
    assert (state, nothing) == ("cancelled", 204)
    expected = ["Count", "One", "Count", "Uno", "Go on", ANSWER]
    assert last == ["ready", None, expected]
    assert await said(api, ada, "chat-5") == expected


async def test_faults_are_told_in_our_words(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Before the stream and within it; the next message is fine."""
    provider.script(http_error(401, "authentication_error"), CASES["overloaded_mid_stream"].script)
    code = """
      const chat = open("chat-6")
      await chat.sendMessage({ text: "a" }); chat.show()
      await chat.sendMessage({ text: "b" }); chat.show()
      await chat.sendMessage({ text: "c" }); chat.show()
      await chat.sendMessage({ files: [{ type: "file", mediaType: "image/png", url: "data:image/png;base64,AA==" }] })
      chat.show()
    """
    before, within, fine, files = await tell_all("ai-sdk", url_of(api, ada), code)
    assert before[:2] == ["error", "Claude does not accept this server's API key. Its operator has to mend that."]
    assert within[:2] == ["error", "Claude is overloaded. Try again soon."]
    assert fine[0] == "ready"
    assert fine[2][-2:] == ["c", ANSWER]
    assert files[:2] == ["error", "Only text can be read: no files or tool parts."]


async def test_reasons_and_the_head_of_the_stream(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """As its protocol has them."""
    provider.script(*[Reply(["x"], stop_reason=reason) for reason in ("max_tokens", "refusal")])
    for reason in ("length", "content-filter"):
        message = {"role": "user", "parts": [{"type": "text", "text": "Hi"}]}
        response = await api.http.post(f"/staff/{ada}/chat", json={"id": reason, "messages": [message]})
        chunks = [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: {")]
        assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert chunks[0]["messageId"] == response.headers["x-run-id"]
        assert chunks[-1]["finishReason"] == reason
        assert [chunk["type"] for chunk in chunks] == [
            "start", "start-step", "text-start", "text-delta", "text-end", "finish-step", "finish",
        ]  # fmt: skip
        assert response.text.endswith("data: [DONE]\n\n")


async def test_one_of_our_ids_names_a_conversation_too(api: Api, ada: str) -> None:
    """And a client may send its last message alone."""
    received = await api.ask(ada, "Hi")
    conversation = received.headers["x-conversation-id"]
    message = {"id": "1", "role": "user", "parts": [{"type": "text", "text": "And?"}]}
    response = await api.http.post(f"/staff/{ada}/chat", json={"id": conversation, "message": message})
    assert response.headers["x-conversation-id"] == conversation
    assert await api.said(ada, conversation_id=conversation) == ["Hi", ANSWER, "And?", ANSWER]
