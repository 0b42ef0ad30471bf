"""OpenAI's own Python client, unchanged, against the running server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.dialects.node_client import TORTURE, tell_all
from tests.tools.databases import connect
from tests.tools.provider import Gate, Reply, ScriptedProvider, http_error
from tests.tools.provider_cases import CASES
from tests.tools.server import Api, serve_here, start_server
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(api: Api) -> AsyncIterator[AsyncOpenAI]:
    """The client, which is not to try again on its own."""
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


async def ask(client: AsyncOpenAI, *messages: dict[str, str], model: str = "Ada", **options: Any) -> tuple[str, str]:
    """A whole answer, and the conversation that it is in."""
    raw = await client.chat.completions.with_raw_response.create(model=model, messages=messages, **options)  # type: ignore[call-overload]
    return raw.parse().choices[0].message.content, raw.headers.get("x-conversation-id")


async def stream(client: AsyncOpenAI, *messages: dict[str, str], **options: Any) -> list[Any]:
    chunks = await client.chat.completions.create(model="Ada", messages=messages, stream=True, **options)  # type: ignore[call-overload]
    return [chunk async for chunk in chunks]


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def count_conversations(api: Api, staff_id: str) -> int:
    return len(await api.get(f"/staff/{staff_id}/conversations"))


def said_to_claude(provider: ScriptedProvider) -> list[tuple[str, str]]:
    """The roles and texts of the last prompt, without what was recalled."""
    found = []
    for message in provider.chats[-1].body["messages"]:
        blocks = message["content"]
        texts = [blocks] if isinstance(blocks, str) else [block["text"] for block in blocks]
        found += [(message["role"], text) for text in texts if not text.startswith(("<recalled>", "<now>"))]
    return found


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_staff_members_are_models(client: AsyncOpenAI, api: Api, ada: str) -> None:
    """Each by its name, and once more for what is not stored; by its id too, alone if the name is shared."""
    assert [model.id async for model in client.models.list()] == ["Ada", "Ada:temporary"]
    assert (await client.models.retrieve("Ada")).id == "Ada"
    assert (await client.models.retrieve(ada)).id == ada
    await api.make_staff("Ada")
    names = [model.id async for model in client.models.list()]
    assert names[0] == ada
    assert "Ada" not in names
    with pytest.raises(openai.ConflictError):
        await client.models.retrieve("Ada")
    with pytest.raises(openai.NotFoundError) as error:
        await client.models.retrieve("Nobody")
    assert error.value.body == {
        "message": "There is no staff member called 'Nobody'.",
        "type": "not_found_error",
        "param": None,
        "code": "not_found",
    }


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_any_text_is_streamed_as_it_is(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """Piece by piece, and saved so."""
    provider.script(Reply(TORTURE))
    chunks = await stream(client, user("Hi"))
    assert [chunk.choices[0].delta.content for chunk in chunks[1:-1]] == TORTURE
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    (conversation,) = await api.get(f"/staff/{ada}/conversations")
    assert await api.said(ada, conversation_id=conversation["id"]) == ["Hi", "".join(TORTURE)]


async def test_usage_and_reasons_in_its_words(client: AsyncOpenAI, ada: str, provider: ScriptedProvider) -> None:
    """Cached tokens count as prompt tokens; a stream tells them when asked to."""
    usage = {
        "input_tokens": 10, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 3,
    }  # fmt: skip
    provider.script(
        *[Reply(["x"], usage=usage, stop_reason=reason) for reason in ("max_tokens", "refusal", "end_turn")]
    )
    completion = await client.chat.completions.create(model="Ada", messages=[{"role": "user", "content": "Hi"}])
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.prompt_tokens_details is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens) == (
        22,
        3,
        25,
    )
    assert completion.usage.prompt_tokens_details.cached_tokens == 7
    chunks = await stream(client, user("Hi!"), stream_options={"include_usage": True})
    assert chunks[-2].choices[0].finish_reason == "content_filter"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == 22
    assert all(chunk.usage is None for chunk in await stream(client, user("Hi?")))


async def test_system_text_is_heard_and_not_stored(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """For that reply, beside the persona."""
    await ask(client, {"role": "system", "content": "Rhyme in Dutch."}, user("Hi"))
    assert "Rhyme in Dutch." in str(provider.chats[-1].body["system"])
    assert "You are Ada" in str(provider.chats[-1].body["system"])
    (conversation,) = await api.get(f"/staff/{ada}/conversations")
    messages = await api.messages(ada, conversation_id=conversation["id"])
    assert "Dutch" not in str(messages)
    assert "Dutch" not in str(await api.get(f"/staff/{ada}/messages/{messages[0]['id']}/context"))
    await ask(client, user("Hi"), assistant(messages[0]["content"]), user("And now?"))
    assert "Dutch" not in str(provider.chats[-1].body)


# ── which conversation ───────────────────────────────────────────────────────────────────────────────────────────────


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


# ── temporary ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_temporary_model_stores_and_learns_nothing(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """As Open WebUI and LibreChat ask for titles and tags: what they send is all there is."""
    await api.ask(ada, "I keep bees.")
    provider.script(Reply(["Bee", " keeping"]), Reply(["Tags"]))
    history = [user("I keep bees."), assistant("Great"), user("Make a title for this chat about bees")]
    text, conversation = await ask(client, *history, model="Ada:temporary")
    assert (text, conversation) == ("Bee keeping", None)
    assert [content for _, content in said_to_claude(provider)] == [message["content"] for message in history]
    assert "<memory" not in str(provider.chats[-1].body)
    chunks = await client.chat.completions.create(
        model="Ada:temporary", messages=[{"role": "user", "content": "Tags?"}], stream=True
    )
    assert text_of([chunk async for chunk in chunks]) == "Tags"
    assert await count_conversations(api, ada) == 1
    assert "title" not in str(await api.get(f"/staff/{ada}/memories"))


async def test_a_temporary_reply_may_take_longer_than_a_lease(db: Path, provider: ScriptedProvider) -> None:
    """No row of its own could be renewed; it is not taken for one that another process has."""
    gate = provider.hold(["Long", " title"])
    gate.release(1)
    async with serve_here(db, provider, lease_s=0.5) as api:
        await api.make_staff("Ada")
        async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="unused", max_retries=0) as client:
            asking = asyncio.create_task(ask(client, user("Title?"), model="Ada:temporary"))
            await provider.arrived(1)
            database = api.app.state.services.database
            renewals = 0

            def count(transactions: int, _: float) -> None:
                nonlocal renewals
                renewals += transactions

            database.on_commit = count
            await until(lambda: renewals >= 6)  # nothing else commits here
            gate.open()
            assert await asking == ("Long title", None)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"stop": ["x"]}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"messages": [user([{"type": "image_url", "image_url": {"url": "data:,"}}])]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_refused_by_name(
    client: AsyncOpenAI, api: Api, ada: str, options: dict[str, Any], param: str
) -> None:
    """With 400, before anything is stored."""
    with pytest.raises(openai.BadRequestError) as error:
        await client.chat.completions.create(**{"model": "Ada", "messages": [user("Hi")]} | options)
    assert error.value.param == param
    assert error.value.type == "invalid_request_error"
    assert await count_conversations(api, ada) == 0


async def test_sampling_parameters_are_accepted(client: AsyncOpenAI, ada: str) -> None:
    """And ignored."""
    options = {"temperature": 0.1, "top_p": 0.5, "seed": 1, "max_tokens": 5, "presence_penalty": 1, "user": "kim"}
    assert (await ask(client, user("Hi"), **options))[0] == "Hello from the provider."


async def test_a_fault_within_the_stream_is_an_error_and_the_next_message_is_fine(
    client: AsyncOpenAI, api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """The client raises it; its text is ours, and what was said is kept."""
    provider.script(CASES["overloaded_mid_stream"].script)
    seen: list[str] = []

    async def read() -> None:
        async for chunk in await client.chat.completions.create(
            model="Ada", messages=[{"role": "user", "content": "Hi"}], stream=True
        ):
            seen.append(chunk.choices[0].delta.content or "")

    with pytest.raises(openai.APIError) as error:
        await read()
    assert error.value.message == "Claude is overloaded. Try again soon."
    assert error.value.code == "upstream_overloaded"
    assert "".join(seen) == "One"
    (conversation,) = await api.get(f"/staff/{ada}/conversations")
    _, same = await ask(client, user("Hi"), assistant("".join(seen)), user("Again"))
    assert same == conversation["id"]


async def test_a_fault_before_the_stream_is_a_status(client: AsyncOpenAI, ada: str, provider: ScriptedProvider) -> None:
    """For a stream and for a whole answer alike."""
    for options in ({"stream": True}, {}):
        provider.script(http_error(401, "authentication_error"))
        with pytest.raises(openai.APIStatusError) as error:
            await client.chat.completions.create(model="Ada", messages=[{"role": "user", "content": "Hi"}], **options)  # type: ignore[call-overload]
        assert error.value.status_code == 502
        assert error.value.code == "upstream_key_refused"


async def test_unknown_paths_and_bodies_answer_in_its_shape(api: Api, ada: str) -> None:
    """Whatever a client of this dialect sends."""
    async with httpx.AsyncClient(trust_env=False, base_url=f"{api.url}/v1") as http:
        for response, status in [
            (await http.get("/nothing"), 404),
            (await http.post("/chat/completions", content=b"{"), 400),
            (await http.get("/chat/completions"), 405),
            (await http.post("/chat/completions", json={"model": 1}), 400),
        ]:
            assert response.status_code == status
            assert response.json()["error"].keys() == {"message", "type", "param", "code"}


# ── the same in JavaScript ───────────────────────────────────────────────────────────────────────────────────────────


async def test_the_client_of_javascript(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Any text as it is, a second turn in the same conversation, models, a stop, and errors as its own classes."""
    provider.script(Reply(TORTURE), Reply(["Second"]))
    code = """
      const model = "Ada"
      tell((await client.models.list()).data.map((each) => each.id))
      const messages = [{ role: "user", content: "Hi" }]
      const stream = await client.chat.completions.create({ model, messages, stream: true })
      const pieces = []
      for await (const chunk of stream) pieces.push(chunk.choices[0].delta.content ?? "")
      tell(pieces.filter(Boolean))
      messages.push({ role: "assistant", content: pieces.join("") }, { role: "user", content: "And?" })
      const whole = await client.chat.completions.create({ model, messages })
      tell([whole.choices[0].message.content, whole.usage.total_tokens])
      try {
        await client.chat.completions.create({ model: "Nobody", messages })
      } catch (error) {
        tell([error instanceof OpenAI.NotFoundError, error.code])
      }
    """
    models, pieces, whole, error = await tell_all("openai", f"{api.url}/v1", code)
    assert models == ["Ada", "Ada:temporary"]
    assert pieces == TORTURE
    assert whole == ["Second", 26]
    assert error == [True, "not_found"]
    (conversation,) = await api.get(f"/staff/{ada}/conversations")
    assert await api.said(ada, conversation_id=conversation["id"]) == ["Hi", "".join(TORTURE), "And?", "Second"]


async def test_the_client_of_javascript_stops_and_breaks(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """`abort` stops the run; a fault within the stream is thrown with our words."""
    gate = provider.hold(["One", " two"])
    gate.release(1)
    provider.script(CASES["overloaded_mid_stream"].script)
    code = """
      const messages = [{ role: "user", content: "Hi" }]
      const stream = await client.chat.completions.create({ model: "Ada", messages, stream: true })
      for await (const chunk of stream) if (chunk.choices[0].delta.content) break
      try {
        for await (const _ of await client.chat.completions.create({ model: "Ada", messages, stream: true }));
      } catch (error) {
        tell([error.message, error.code])
      }
    """
    assert await tell_all("openai", f"{api.url}/v1", code) == [
        ["Claude is overloaded. Try again soon.", "upstream_overloaded"]
    ]
    await provider.left(1)
