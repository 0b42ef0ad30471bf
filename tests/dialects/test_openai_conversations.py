"""Which conversation a Chat Completions client means: by what it repeats, or by a header."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.dialects.openai_client import ask, assistant, count_conversations, said_to_claude, user
from tests.tools.databases import connect
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Gate, Reply, http_error
from tests.tools.server import Api, start_server

pytestmark = pytest.mark.anyio


async def test_a_second_turn_goes_on_and_nothing_is_said_twice(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """Neither stored twice nor sent to Claude twice; what the client repeats is ours."""
    first, conversation = await ask(client, user("I am Kim."))
    provider.script(Reply(["Nice."]))
    _, same = await ask(client, user("I am Kim."), assistant(first), user("Good?"))
    assert same == conversation
    assert await api.said(ada, conversation_id=conversation) == ["I am Kim.", first, "Good?", "Nice."]
    assert said_to_claude(provider) == [("user", "I am Kim."), ("assistant", first), ("user", "Good?")]


async def test_two_chats_that_begin_alike_stay_apart(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """Each goes on with its own past."""
    provider.script(Reply(["One."]), Reply(["Two."]))
    _, one = await ask(client, user("Hi"))
    _, two = await ask(client, user("Hi"))
    assert one != two
    assert (await ask(client, user("Hi"), assistant("One."), user("Go on")))[1] == one
    assert (await ask(client, user("Hi"), assistant("Two."), user("Go on")))[1] == two
    assert (await api.said(ada, conversation_id=two))[:3] == ["Hi", "Two.", "Go on"]


async def test_the_same_last_question_is_a_regeneration(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """A second answer to it, and the talk goes on after either."""
    provider.script(*[Reply([text]) for text in ("A", "B", "B2", "C")])
    _, conversation = await ask(client, user("a"))
    await ask(client, user("a"), assistant("A"), user("b"))
    _, same = await ask(client, user("a"), assistant("A"), user("b"))
    assert same == conversation
    assert await api.said(ada, conversation_id=conversation) == ["a", "A", "b", "B", "B2"]
    _, same = await ask(client, user("a"), assistant("A"), user("b"), assistant("B2"), user("c"))
    assert same == conversation
    assert said_to_claude(provider) == [
        ("user", "a"),
        ("assistant", "A"),
        ("user", "b"),
        ("assistant", "B2"),
        ("user", "c"),
    ]


async def test_an_edited_question_is_a_conversation_of_its_own_with_its_past(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """The other keeps what it was; the past is not learned or searchable twice."""
    provider.script(*[Reply([text]) for text in ("Alpha", "Beta", "Gamma", "Delta")])
    _, conversation = await ask(client, user("My cat is Tom."))
    await ask(client, user("My cat is Tom."), assistant("Alpha"), user("bad"))
    _, other = await ask(client, user("My cat is Tom."), assistant("Alpha"), user("good"))
    assert other != conversation
    assert await api.said(ada, conversation_id=other) == ["My cat is Tom.", "Alpha", "good", "Gamma"]
    assert await api.said(ada, conversation_id=conversation) == ["My cat is Tom.", "Alpha", "bad", "Beta"]
    memories = await api.get(f"/staff/{ada}/memories", params={"kind": "episode"})
    assert [memory["text"] for memory in memories].count("My cat is Tom.") == 1
    history = [user("My cat is Tom."), assistant("Alpha"), user("good"), assistant("Gamma")]
    assert (await ask(client, *history, user("more")))[1] == other


async def test_a_history_that_the_client_cut_goes_on(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """Its tail is ours, and Claude still gets what was cut."""
    history: list[dict[str, str]] = []
    conversation = None
    for number in range(4):
        history.append(user(f"question {number}"))
        provider.script(Reply([f"answer {number}"]))
        answer, found = await ask(client, *history)
        conversation = conversation or found
        assert found == conversation
        history.append(assistant(answer))
    for cut in (2, 4):
        history.append(user(f"after {cut}"))
        provider.script(Reply([f"later {cut}"]))
        answer, found = await ask(client, *history[cut:])
        assert found == conversation
        assert said_to_claude(provider)[0] == ("user", "question 0")
        history.append(assistant(answer))


async def test_the_instructions_of_a_waiting_question_survive_a_restart(db: Path, provider: ScriptedProvider) -> None:
    """A question that waits behind another one is answered by the next process, as its client asked for it."""
    provider.script(Reply(head_gate=Gate()))
    named = {"X-Conversation-Id": "chat 1"}
    async with start_server(db, provider) as server:
        ada = await server.api.make_staff("Ada")
        url = f"{server.api.url}/v1/chat/completions"
        body: dict[str, Any] = {"model": "Ada", "stream": True}
        first = {**body, "messages": [user("Hi")]}
        second = {**body, "messages": [{"role": "system", "content": "Rhyme, please."}, user("And now?")]}
        async with server.api.http.stream("POST", url, json=first, headers=named):
            await provider.arrived(1)
            async with server.api.http.stream("POST", url, json=second, headers=named) as waiting:
                run_id = waiting.headers["x-run-id"]
                await server.kill()
    async with start_server(db, provider) as server:
        assert (await server.api.ended_run(ada, run_id))["state"] == "done"
    assert provider.chats[-1].said == "And now?"
    assert "Rhyme, please." in str(provider.chats[-1].body["system"])
    with contextlib.closing(connect(db)) as connection:  # what is not needed any more is not kept
        assert connection.execute("SELECT 1 FROM runs WHERE instructions IS NOT NULL").fetchall() == []


async def test_a_changed_layout_is_the_same_text(client: AsyncOpenAI, ada: str, provider: ScriptedProvider) -> None:
    """Clients trim, fold white space and rewrite Markdown."""
    provider.script(Reply(["# Plan\n\n* **one**\n* two  \n\n```py\nx = 1\n```\n"]))
    _, conversation = await ask(client, user("  Make a plan\n"))
    shown = "Plan\n- one\n- two\n\n    x = 1"
    assert (await ask(client, user("Make a plan"), assistant(shown), user("More")))[1] == conversation


async def test_hanging_up_stops_and_the_cut_reply_is_recognised(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """The run is stopped and keeps its text; the client, which saw less of it, goes on after it."""
    gate = provider.hold(["One", " two", " three", " four"])
    chunks = await client.chat.completions.create(
        model="Ada", messages=[{"role": "user", "content": "Count"}], stream=True
    )
    seen = ""
    gate.release(2)
    async for chunk in chunks:
        seen += chunk.choices[0].delta.content or ""
        if seen:
            break
    await chunks.close()
    await provider.left(1)
    assert "One two".startswith(seen)
    run_id = chunk.id.removeprefix("chatcmpl-")
    run = await api.ended_run(ada, run_id)
    assert run["state"] == "cancelled"
    conversation = (await api.get(f"/staff/{ada}/messages/{run_id}"))["conversation_id"]
    assert (await ask(client, user("Count"), assistant(seen), user("Go on")))[1] == conversation
    whole = (await api.said(ada, conversation_id=conversation))[1]
    assert whole.startswith(seen)
    assert said_to_claude(provider)[1] == ("assistant", whole)
    history = [user("Count"), assistant(seen), user("Go on"), assistant("Hello from the provider.")]
    assert (await ask(client, *history, user("Once more")))[1] == conversation


async def test_hanging_up_on_a_whole_answer_stops_it_too(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """A client that leaves before the answer is there."""
    gate = provider.hold()
    async with httpx.AsyncClient(trust_env=False) as http:
        body = {"model": "Ada", "messages": [user("Hi")]}
        asking = asyncio.create_task(http.post(f"{api.url}/v1/chat/completions", json=body))
        await provider.arrived(1)
        gate.release(1)
        await gate.passed(1)
        asking.cancel()
        await provider.left(1)


async def test_parallel_requests_of_one_chat_are_all_answered(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """Each in a conversation with the shared past; one after the other they would wait for each other."""
    provider.script(Reply(["Start."]))
    _, conversation = await ask(client, user("Hi"))
    gates = [provider.hold(["Left."]), provider.hold(["Right."])]
    history = [user("Hi"), assistant("Start.")]
    asking = [asyncio.create_task(ask(client, *history, user("Which?"))) for _ in gates]
    await provider.arrived(3)
    for gate in gates:
        gate.open()
    answers = [await each for each in asking]
    assert {text for text, _ in answers} == {"Left.", "Right."}
    assert conversation in {where for _, where in answers}
    for text, where in answers:
        assert (await api.said(ada, conversation_id=where)) == ["Hi", "Start.", "Which?", text]
        assert (await ask(client, *history, user("Which?"), assistant(text), user("Why?")))[1] == where


async def test_a_first_message_that_failed_and_is_sent_again_is_stored_once(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """As a client does by itself that tries again."""
    provider.script(http_error(400, "invalid_request_error"))
    with pytest.raises(openai.APIStatusError):
        await ask(client, user("Hi"))
    await ask(client, user("Hi"))
    assert await count_conversations(api, ada) == 1


async def test_a_strange_past_becomes_a_conversation_with_that_past(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """It comes from another model, or its answers were edited."""
    past = [user("My boat is Freya."), assistant("Lovely name.")]
    _, conversation = await ask(client, *past, user("Where is she?"))
    said = await api.said(ada, conversation_id=conversation)
    assert said[:3] == ["My boat is Freya.", "Lovely name.", "Where is she?"]
    assert (await ask(client, *past, user("Where is she?"), assistant(said[3]), user("And?")))[1] == conversation


async def test_a_conversation_of_our_own_api_goes_on(client: AsyncOpenAI, api: Api, ada: str) -> None:
    """Whoever repeats it is in it, and so is an imported one."""
    received = await api.ask(ada, "I like tea.")
    _, conversation = await ask(client, user("I like tea."), assistant(received.text), user("Which?"))
    assert conversation == received.headers["x-conversation-id"]
    past = [
        {"message_type": role, "content": text, "created_at": "2026-01-01T00:00:00Z"}
        for role, text in (("user", "An old one"), ("assistant", "Indeed"))
    ]
    made = await api.post(f"/staff/{ada}/conversations", {"messages": past}, 201)
    assert (await ask(client, user("An old one"), assistant("Indeed"), user("Go on")))[1] == made["id"]


async def test_a_header_names_the_conversation(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """The client's own id, shown as external_id; or ours. History may be sent or not."""
    named = {"extra_headers": {"X-Conversation-Id": "chat-7"}}
    first, conversation = await ask(client, user("Hi"), **named)
    assert (await api.get(f"/staff/{ada}/conversations/{conversation}"))["external_id"] == "chat-7"
    assert (await ask(client, user("Second"), **named))[1] == conversation
    assert (await ask(client, user("Third"), extra_headers={"X-Conversation-Id": conversation}))[1] == conversation
    provider.script(Reply(["again"]))
    answer = "Hello from the provider."
    history = [user("Hi"), assistant(first), user("Second"), assistant(answer), user("Third")]
    assert (await ask(client, *history, **named)) == ("again", conversation)
    assert (await api.said(ada, conversation_id=conversation))[-3:] == ["Third", answer, "again"]


async def test_a_conversation_that_was_erased_is_not_found_again(client: AsyncOpenAI, api: Api, ada: str) -> None:
    """Neither by its name, which is free for another one, nor by what is repeated."""
    named = {"extra_headers": {"X-Conversation-Id": "chat-8"}}
    erased = []
    for _ in range(2):
        first, conversation = await ask(client, user("Hi"), **named)
        assert conversation not in erased
        await api.delete(f"/staff/{ada}/conversations/{conversation}")
        erased.append(conversation)
    assert (await ask(client, user("Hi"), assistant(first), user("Go on")))[1] not in erased
