"""OpenAI's own Python client, unchanged, against the running server."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.dialects.node_client import TORTURE, tell_all
from tests.dialects.openai_client import ask, assistant, count_conversations, said_to_claude, stream, text_of, user
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import CASES
from tests.tools.provider_script import Reply, http_error
from tests.tools.server import Api, serve_here
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio


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
