"""AG-UI's own HttpAgent, unchanged, against the running server."""

from typing import Any

import pytest

from tests.dialects.node_client import TORTURE, run_client, tell_all
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import CASES
from tests.tools.provider_script import Reply, http_error
from tests.tools.server import Api

pytestmark = pytest.mark.anyio

ANSWER = "Hello from the provider."
WATCH = """
  const watch = { seen: [], onEvent: ({ event }) => { watch.seen.push(event.type) } }
  watch.onRunErrorEvent = ({ event }) => tell(event.message)
  const failing = async (agent, options = {}) => {
    try { await agent.runAgent(options, watch) } catch (error) { tell(error.message) }
  }
"""


def url_of(api: Api, staff_id: str) -> str:
    return f"{api.url}/api/v1/staff/{staff_id}/ag-ui"


async def said(api: Api, staff_id: str, thread_id: str) -> list[str]:
    found = await api.get(f"/staff/{staff_id}/conversations")
    conversation = next(each for each in found if each["external_id"] == thread_id)
    return await api.said(staff_id, conversation_id=conversation["id"])


async def test_any_text_is_streamed_and_a_second_turn_goes_on(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """A message each, with its events in order; the run's result has usage and reason."""
    provider.script(Reply(TORTURE))
    code = (
        WATCH
        + """
      const agent = open("thread-1")
      agent.say("Hi")
      const { result } = await agent.runAgent({}, watch)
      tell(agent.said())
      tell(watch.seen)
      tell(result)
      agent.say("And?")
      await agent.runAgent()
      tell(agent.said())
      tell(agent.messages.map((message) => message.id))
    """
    )
    first, events, result, second, ids = await tell_all("ag-ui", url_of(api, ada), code)
    assert first == ["Hi", "".join(TORTURE)]
    assert events[:2] == ["RUN_STARTED", "TEXT_MESSAGE_START"]
    assert events[2:-2] == ["TEXT_MESSAGE_CONTENT"] * len(TORTURE)
    assert events[-2:] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]
    assert result["stopReason"] == "end_turn"
    assert result["usage"]["totalTokens"] == 26
    assert second == [*first, "And?", ANSWER]
    assert await said(api, ada, "thread-1") == second
    assert (await api.get(f"/staff/{ada}/messages/{ids[3]}"))["content"] == ANSWER
    assert len(provider.chats[-1].body["messages"]) == 3


async def test_regenerate_and_edit(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """A client takes its last answer away and runs again, or changes a question and what follows."""
    provider.script(*[Reply([text]) for text in ("A", "B", "B2", "C")])
    code = """
      const agent = open("thread-2")
      for (const text of ["a", "b"]) { agent.say(text); await agent.runAgent() }
      agent.setMessages(agent.messages.slice(0, -1))
      await agent.runAgent(); tell(agent.said())
      agent.setMessages(agent.messages.slice(0, 2)); agent.say("b, edited")
      await agent.runAgent(); tell(agent.said())
    """
    regenerated, edited = await tell_all("ag-ui", url_of(api, ada), code)
    assert regenerated == ["a", "A", "b", "B2"]
    assert edited == ["a", "A", "b, edited", "C"]
    assert await said(api, ada, "thread-2") == edited
    assert [len(request.body["messages"]) for request in provider.chats] == [1, 3, 3, 3]


async def test_a_stream_that_was_cut_is_resumed_by_a_snapshot(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """In mid-token: running again joins the reply, one message is re-opened, and Claude is asked once."""
    gate = provider.hold(["One", " two", " three"])
    gate.release(2)
    code = (
        WATCH
        + """
      const agent = open("thread-3", { fetch: cutAfter(" tw") })
      agent.say("Count")
      await failing(agent)
      watch.seen = []
      const running = agent.runAgent({}, watch)
      await until(() => agent.said().at(-1) === "One two")
      tell(agent.messages.length)
      await running; tell(agent.said())
      await agent.runAgent(); tell(agent.said())
      tell(watch.seen)
    """
    )
    async with run_client("ag-ui", url_of(api, ada), code) as told:
        assert await told.next() == "network error"
        assert await told.next() == 2
        gate.open()
        resumed, again, events = await told.rest()
    assert resumed == again == ["Count", "One two three"]
    assert events[:2] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
    assert len(provider.chats) == 1
    assert await said(api, ada, "thread-3") == resumed


async def test_aborting_only_hangs_up_and_the_next_message_interrupts(
    api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """What had been said is kept."""
    gate = provider.hold(["One", " two"])
    gate.release(1)
    code = """
      const agent = open("thread-4")
      agent.say("Count")
      const running = agent.runAgent().catch(() => {})
      await until(() => agent.said().at(-1) === "One")
      agent.abortRun(); await running
      agent.say("Go on")
      await agent.runAgent(); tell(agent.said())
    """
    assert await tell_all("ag-ui", url_of(api, ada), code) == [["Count", "One", "Go on", ANSWER]]
    assert await said(api, ada, "thread-4") == ["Count", "One", "Go on", ANSWER]


async def test_faults_are_told_in_our_words(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Before the stream and within it, and what cannot be done; the next message is fine."""
    provider.script(http_error(401, "authentication_error"), CASES["overloaded_mid_stream"].script)
    code = (
        WATCH
        + """
      const agent = open("thread-5")
      for (const text of ["a", "b", "c"]) { agent.say(text); await failing(agent) }
      tell(agent.said().at(-1))
      agent.say("d")
      const tools = [{ name: "f", description: "f", parameters: {} }]
      await failing(agent, { tools })
    """
    )
    before, within, fine, tools = await tell_all("ag-ui", url_of(api, ada), code)
    assert (
        before.removeprefix("HTTP 502: ")
        == "Claude does not accept this server's API key. Its operator has to mend that."
    )
    assert within == "Claude is overloaded. Try again soon."
    assert fine == ANSWER
    assert tools == "HTTP 400: Staff members call no tools."


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"id": "1", "role": "tool", "content": "x"}]},
        {"messages": [{"id": "1", "role": "user", "content": [{"type": "image", "source": {}}]}]},
        {"messages": []},
        {"messages": [{"id": "1", "role": "assistant", "content": "x"}]},
        {"messages": [{"id": "1", "role": "user", "content": "x"}], "resume": [{"interruptId": "1"}]},
    ],
)
async def test_what_cannot_be_done_is_refused(api: Api, ada: str, body: dict[str, Any]) -> None:
    """With 400 and our words, before anything is stored."""
    given = {"threadId": "t", "runId": "r", "tools": [], "context": [], "state": {}, "forwardedProps": {}}
    response = await api.http.post(f"/staff/{ada}/ag-ui", json=given | body)
    assert response.status_code == 400
    assert response.headers["content-type"].startswith("text/plain")
    assert await api.get(f"/staff/{ada}/conversations") == []
