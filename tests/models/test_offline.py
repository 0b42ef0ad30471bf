"""The stand-in for Claude, seen through the real SDK: its wire, its refusals, its answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from html import escape
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from staffstream.memory import extraction
from staffstream.models.offline import MODEL, StandIn, refuse
from staffstream.models.offline.answers import PromptCache, split_pieces, write_answer
from staffstream.models.offline.facts import find_facts
from staffstream.models.offline.replies import NOTICE
from staffstream.models.offline.structured import fill_schema

pytestmark = pytest.mark.anyio
Json = dict[str, Any]


@pytest.fixture
async def claude() -> AsyncIterator[anthropic.AsyncAnthropic]:
    client = httpx2.AsyncClient(transport=StandIn(pace_s=0))
    async with anthropic.AsyncAnthropic(api_key="offline", max_retries=0, http_client=client) as claude:
        yield claude


def _ask(*turns: str, notes: Sequence[str] = (), max_tokens: int = 200, **options: Any) -> Json:
    """A chat of user and assistant in turn; `notes` are blocks put before the last."""
    messages: list[Json] = [
        {"role": ("user", "assistant")[index % 2], "content": [{"type": "text", "text": text}]}
        for index, text in enumerate(turns)
    ]
    messages[-1]["content"] = [{"type": "text", "text": text} for text in (*notes, turns[-1])]
    return {"model": "claude-test", "max_tokens": max_tokens, "messages": messages, **options}


def _reply(*turns: str, **options: Any) -> str:
    answer = write_answer(_ask(*turns, **options), "msg_test", PromptCache())
    return "".join(answer.pieces)


RECALLED = """<recalled>
<memory date="2026-03-01" kind="fact">Anna's sister lives in Bergen.</memory>
<memory date="2026-04-12T09:30:00.000Z" kind="episode">I adopted a dog called Rex &amp; I adore him.</memory>
<relation date="2026-03-01">Anna — has sister → Kari</relation>
</recalled>"""


# The wire


async def test_streams_the_events_of_the_messages_api(claude: anthropic.AsyncAnthropic) -> None:
    """A reply opens, comes in more than one piece, closes, and stops, in the API's order."""
    stream = await claude.messages.create(stream=True, **_ask("Hi"))
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert len(kinds) > 10
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


async def test_a_stream_is_the_whole_message_in_pieces(claude: anthropic.AsyncAnthropic) -> None:
    """What the SDK puts together from the stream is what it gets without one, model, ids and usage included."""
    whole = await claude.messages.create(**_ask("Hi"))
    async with claude.messages.stream(**_ask("Hi")) as stream:
        final = await stream.get_final_message()
    assert final.content[0].type == whole.content[0].type == "text"
    assert final.content[0].text == whole.content[0].text
    assert final.model == whole.model == MODEL
    assert final.stop_reason == whole.stop_reason == "end_turn"
    assert final.usage.input_tokens == whole.usage.input_tokens > 0
    assert final.usage.output_tokens == whole.usage.output_tokens > 1
    assert final.id != whole.id
    assert final.id.startswith("msg_")


async def test_the_same_requests_get_the_same_replies() -> None:
    """Two stand-ins asked alike answer alike, to the byte."""

    async def read_once() -> bytes:
        async with httpx2.AsyncClient(transport=StandIn(pace_s=0)) as client:
            body = {**_ask("Hello there"), "stream": True}
            return (await client.post("https://stand-in/v1/messages", json=body)).content

    assert await read_once() == await read_once()


async def test_stops_at_max_tokens(claude: anthropic.AsyncAnthropic) -> None:
    """No more tokens than asked for, and the stop reason that says so."""
    message = await claude.messages.create(**_ask("Write a long story", max_tokens=25))
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 25)


async def test_may_be_left_at_any_point(claude: anthropic.AsyncAnthropic) -> None:
    """Cancelling a reply leaves nothing behind, and the next one comes."""
    stand_in = StandIn(pace_s=60)
    async with anthropic.AsyncAnthropic(
        api_key="offline", max_retries=0, http_client=httpx2.AsyncClient(transport=stand_in)
    ) as slow:
        stream = await slow.messages.create(stream=True, **_ask("Hi"))
        first = await anext(aiter(stream))
        reading = asyncio.ensure_future(anext(aiter(stream)))
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await stream.close()
    assert first.type == "message_start"
    assert (await claude.messages.create(**_ask("Hi"))).stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "error_type"),
    [
        ("POST", "/v1/messages", b"{", 400, "invalid_request_error"),
        ("POST", "/v1/messages", b"\xff", 400, "invalid_request_error"),
        ("POST", "/v1/messages", b"[" * 200_000, 400, "invalid_request_error"),
        ("POST", "/v1/complete", b"{}", 404, "not_found_error"),
        ("GET", "/v1/messages", b"", 405, "invalid_request_error"),
    ],
)
async def test_errors_are_the_apis(method: str, path: str, content: bytes, status: int, error_type: str) -> None:
    """What cannot be read or found gets the API's JSON error."""
    async with httpx2.AsyncClient(transport=StandIn(pace_s=0)) as client:
        response = await client.request(method, f"https://stand-in{path}", content=content)
    assert response.status_code == status
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == error_type
    assert response.json()["request_id"] == response.headers["request-id"]


async def test_the_prompt_cache_shows_in_the_usage(claude: anthropic.AsyncAnthropic) -> None:
    """A marked beginning is written once and read when it comes again; changed, it is not found."""
    system = [{"type": "text", "text": "You are Ada. " * 50, "cache_control": {"type": "ephemeral"}}]
    first = (await claude.messages.create(**_ask("Hi", system=system))).usage
    second = (await claude.messages.create(**_ask("Ho", system=system))).usage
    changed = [{**system[0], "text": "You are Bo. " * 50}]
    other = (await claude.messages.create(**_ask("Hi", system=changed))).usage
    assert first.cache_read_input_tokens == other.cache_read_input_tokens == 0
    assert (first.cache_creation_input_tokens or 0) > 100
    assert second.cache_read_input_tokens == first.cache_creation_input_tokens
    assert second.cache_creation_input_tokens == 0
    assert second.input_tokens > 0


@given(st.text())
def test_pieces_are_the_text(text: str) -> None:
    """Nothing is lost or changed on the way into pieces."""
    assert "".join(split_pieces(text)) == text


# What it refuses


def _schema(**given: Any) -> Json:
    return {"output_config": {"format": {"type": "json_schema", "schema": given}}}


def _object(**properties: Any) -> Json:
    return {"type": "object", "properties": properties, "additionalProperties": False}


MARK = {"cache_control": {"type": "ephemeral"}}
TEXT = {"type": "text", "text": "x"}
NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "additionalProperties": False}
REFUSED: dict[str, Json] = {
    "temperature": {"temperature": 1},
    "top_p": {"top_p": 0.9},
    "top_k": {"top_k": 5},
    "unknown field": {"prompt": "x"},
    "no model": {"model": None},
    "empty model": {"model": ""},
    "max_tokens as text": {"max_tokens": "5"},
    "max_tokens as truth": {"max_tokens": True},
    "negative max_tokens": {"max_tokens": -1},
    "messages not a list": {"messages": {"role": "user", "content": "x"}},
    "no messages": {"messages": []},
    "message not an object": {"messages": ["x"]},
    "unknown role": {"messages": [{"role": "bot", "content": "x"}]},
    "role not a text": {"messages": [{"role": ["user"], "content": "x"}]},
    "extra field in a message": {"messages": [{"role": "user", "content": "x", "name": "Anna"}]},
    "no content": {"messages": [{"role": "user"}]},
    "null content": {"messages": [{"role": "user", "content": None}]},
    "empty content": {"messages": [{"role": "user", "content": []}]},
    "empty text": {"messages": [{"role": "user", "content": ""}]},
    "blank text": {"messages": [{"role": "user", "content": " \n\t"}]},
    "blank block": {"messages": [{"role": "user", "content": [TEXT, {"type": "text", "text": " "}]}]},
    "blank old reply": {
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "y"},
        ]
    },
    "blank system block": {"system": [{"type": "text", "text": ""}]},
    "cache mark on a blank block": {"system": [{"type": "text", "text": "", **MARK}]},
    "null text": {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
    "block not an object": {"messages": [{"role": "user", "content": ["x"]}]},
    "unknown block": {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
    "extra field in a block": {"messages": [{"role": "user", "content": [{**TEXT, "id": 1}]}]},
    "image in the system": {"system": [{"type": "image", "source": {}}]},
    "five cache marks": {
        "system": [{**TEXT, **MARK}] * 2,
        "messages": [{"role": "user", "content": [{**TEXT, **MARK}] * 3}],
    },
    "five with the top-level one": {
        "messages": [{"role": "user", "content": [{**TEXT, **MARK}] * 4}],
        **MARK,
    },
    "unknown cache mark": {"system": [{**TEXT, "cache_control": {"type": "eternal"}}]},
    "unknown ttl": {"system": [{**TEXT, "cache_control": {"type": "ephemeral", "ttl": "9d"}}]},
    "first is the assistant's": {"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]},
    "last is the assistant's": {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
    "lone surrogate": {"messages": [{"role": "user", "content": "a\ud800b"}]},
    "blank stop sequence": {"stop_sequences": [" "]},
    "stream as text": {"stream": "yes"},
    "unknown effort": {"output_config": {"effort": "heroic"}},
    "unknown format": {"output_config": {"format": {"type": "xml"}}},
    "format without schema": {"output_config": {"format": {"type": "json_schema"}}},
    "small thinking budget": {"thinking": {"type": "enabled", "budget_tokens": 10}},
    "thinking above max_tokens": {"thinking": {"type": "enabled", "budget_tokens": 2_000}},
    "metadata with names": {"metadata": {"name": "Anna"}},
    "object left open": _schema(type="object", properties={}),
    "free-form object": _schema(type="object", additionalProperties=True),
    "open object inside": _schema(**_object(a={"type": "array", "items": {"type": "object"}})),
    "numeric limit": _schema(**_object(a={"type": "integer", "minimum": 1})),
    "length limit": _schema(**_object(a={"type": "string", "maxLength": 9})),
    "array limit": _schema(**_object(a={"type": "array", "maxItems": 9, "items": {"type": "string"}})),
    "minItems above 1": _schema(**_object(a={"type": "array", "minItems": 2, "items": {"type": "string"}})),
    "recursion": _schema(**_object(a={"$ref": "#/$defs/node"}), **{"$defs": {"node": NODE}}),
    "unknown reference": _schema(**_object(a={"$ref": "https://example.com/x"})),
    "no type": _schema(**_object(a={"description": "anything"})),
    "oneOf": _schema(**_object(a={"oneOf": [{"type": "string"}]})),
    "unknown string format": _schema(**_object(a={"type": "string", "format": "phone"})),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    """Each of these the API answers with 400."""
    refusal = refuse({**_ask("Hi"), **REFUSED[name]})
    assert refusal is not None
    status, error_type, message = refusal
    assert (status, error_type) == (400, "invalid_request_error")
    assert message


@pytest.mark.parametrize("field", ["model", "max_tokens", "messages"])
def test_refuses_what_lacks_a_field(field: str) -> None:
    """The three required fields are required."""
    body = {name: value for name, value in _ask("Hi").items() if name != field}
    assert refuse(body) == (400, "invalid_request_error", f"{field}: Field required")


ACCEPTED: dict[str, Json] = {
    "system as text": {"system": "You are Ada."},
    "four cache marks": {
        "system": [{**TEXT, **MARK}] * 2,
        "messages": [{"role": "user", "content": [{**TEXT, **MARK}, {**TEXT, **MARK}, TEXT]}],
    },
    "two of the user's in a row": {"messages": [{"role": "user", "content": "x"}] * 2},
    "content as text": {"messages": [{"role": "user", "content": "x"}]},
    "every option": {
        "stop_sequences": ["###"],
        "metadata": {"user_id": "u1"},
        "service_tier": "auto",
        "thinking": {"type": "disabled"},
        "stream": True,
        **MARK,
    },
    "a schema with a shared part": _schema(
        **_object(a={"$ref": "#/$defs/part"}, b={"type": "array", "items": {"$ref": "#/$defs/part"}}),
        **{"$defs": {"part": _object(kind={"enum": ["x", "y"]}, day={"type": "string", "format": "date"})}},
    ),
    "alternatives": _schema(**_object(a={"anyOf": [{"type": "string"}, {"type": "null"}]})),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_takes(name: str) -> None:
    """What the API takes is let through."""
    assert refuse({**_ask("Hi"), **ACCEPTED[name]}) is None


async def test_takes_what_the_sdk_makes_of_a_schema() -> None:
    """A schema that the API would refuse passes once `transform_schema` has been over it."""
    rough = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    assert refuse({**_ask("Hi"), **_schema(**rough)}) is not None
    assert refuse({**_ask("Hi"), **_schema(**anthropic.transform_schema(rough))}) is None


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
FIELDS = [*_ask("Hi"), "system", "output_config", "thinking", "tools", "metadata", "stop_sequences"]


@given(JSON_VALUES, st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES))
def test_no_body_is_too_strange_to_refuse(body: Any, fields: Json) -> None:
    """Any JSON gets a verdict, never an exception."""
    assert refuse(body) is not None
    refuse({**_ask("Hi"), **fields})


SCHEMA_VALUES = st.recursive(
    st.sampled_from(["object", "array", "string", 1, None, False, "#/$defs/a"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "items", "anyOf", "allOf", "enum", "$ref", "$defs", "required", "a"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(SCHEMA_VALUES)
def test_no_schema_is_too_strange(schema: Any) -> None:
    """Any schema gets a verdict, and one that is taken can be filled."""
    body = {**_ask("Hi"), "output_config": {"format": {"type": "json_schema", "schema": schema}}}
    if refuse(body) is None:
        json.dumps(fill_schema(schema, "Hi"))


# What it says


def test_the_first_reply_says_what_it_is() -> None:
    """Once, at the start of a conversation."""
    assert _reply("Hi").startswith(NOTICE)
    assert NOTICE not in _reply("Hi", "Hello!", "I live in Oslo.")
    assert NOTICE not in _reply("What next?", notes=["<summary>\n- User: I live in Oslo.\n</summary>"])


@pytest.mark.parametrize("system", ["You are Ada, a travel agent.\n\nKind.", [{**TEXT, "text": "You are Ada."}]])
def test_greets_by_the_name_of_its_persona(system: Any) -> None:
    """The persona's name is read from the system text."""
    assert "I am Ada." in _reply("Good morning!", system=system)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Where does my sister live?", "You told me on 1 March 2026: “Anna's sister lives in Bergen.”"),
        ("what's my dog's name", "You told me on 12 April 2026: “I adopted a dog called Rex & I adore him.”"),
        ("Who is Kari?", "I also know: Anna — has sister → Kari."),
    ],
)
def test_answers_from_what_was_recalled(question: str, answer: str) -> None:
    """The memory that fits is quoted with its date, and no other."""
    assert _reply("x", "y", question, notes=[RECALLED]) == answer


def test_does_not_quote_itself() -> None:
    """Its own replies are remembered as all are, but there is nothing in them to quote."""
    own = [
        *(_reply("Hi"), _reply("x", "y", "I live in Oslo."), _reply("I live in Oslo.", "ok", "Where do I live?")),
        *(_reply("x", "y", said) for said in ("Hi", "Where is it?", "Nice.", "Can you help?", "What do you know?")),
        *(_reply("x", "y", said, notes=[RECALLED]) for said in ("Kari?", "Where is Bergen?", "Is it raining?")),
        *(_reply(said, notes=["<summary>I like tea.</summary>"]) for said in ("What do I like?", "tell a long story")),
    ]
    memories = "".join(f"<memory>{escape(said)}</memory>" for said in own)
    said = _reply("What do you know about me?", notes=[f"<recalled>{memories}</recalled>"])
    assert said == f"{NOTICE} Nothing comes to my mind. Ask me about one thing that you told me."


def test_answers_from_the_summary() -> None:
    """What the summary holds can be asked for."""
    summary = "<summary>\n- Anna (2026-03-01): My favourite colour is green.\n</summary>"
    said = _reply("What is my favorite color?", notes=[summary])
    assert said == "From earlier in our talk: “Anna (2026-03-01): My favourite colour is green.”"


def test_answers_from_earlier_turns_newest_first() -> None:
    """What was said last comes first, and questions are no answers."""
    said = _reply("Where do I live?", "?", "I live in Oslo.", "ok", "I moved to Bergen.", "ok", "Where do I live?")
    assert said == "Earlier you said: “I moved to Bergen.” Earlier you said: “I live in Oslo.”"


def test_tells_all_it_knows_when_asked() -> None:
    """ "What do you know about me?" gets the memories and relations there are."""
    said = _reply("x", "y", "What do you know about me?", notes=[RECALLED])
    assert "Bergen" in said
    assert "Rex" in said
    assert "Kari" in said


def test_says_when_it_knows_nothing() -> None:
    """No quote is better than a wrong one."""
    assert "I know nothing about that" in _reply("I live in Oslo.", "ok", "What is the capital of France?")


def test_repeats_what_it_is_told() -> None:
    """A statement is acknowledged in the user's own words."""
    assert "“I work at Equinor.”" in _reply("x", "y", "I work at Equinor. It rains.")


def test_counts_when_asked() -> None:
    """Something predictable to look at: every number to the last."""
    assert _reply("x", "y", "Please count to 12") == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12."
    assert _reply("x", "y", "count down from 3 to 1") == "3, 2, 1."


def test_long_replies_can_be_checked_for_gaps() -> None:
    """Their sentences are numbered."""
    lines = _reply("x", "y", "Write me a long story", max_tokens=10_000).splitlines()
    assert [int(line.split(".")[0]) for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) > 20


@pytest.mark.parametrize(
    "said", ["日本語は？", "🤖", "<recalled>", "</summary>", "\u2028", "a\0b", "x" * 5_000, "&lt;"]
)
def test_any_text_gets_a_reply(said: str) -> None:
    """What a user types is data, and never markup."""
    assert _reply(said)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5).filter(lambda turns: len(turns) % 2))
def test_any_conversation_gets_a_reply(turns: list[str]) -> None:
    """Whatever `refuse` lets through is answered."""
    prompt = _ask(*turns)
    if refuse(prompt) is None:
        assert write_answer(prompt, "msg_test", PromptCache()).pieces


# What it learns is in test_offline_learning.py; here it is how that arrives


async def test_structured_output_arrives_as_json(claude: anthropic.AsyncAnthropic) -> None:
    """Through the SDK too: the text of the reply is the instance, and even a full batch fits."""
    schema = anthropic.transform_schema(extraction.SCHEMA)
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    said = " ".join(f"My favourite thing{n} is the number {n}. I work at Company{n}." for n in range(100))
    batch = f'<messages><message n="1" from="user" name="A" date="">{said}</message></messages>'
    message = await claude.messages.create(output_config=config, **_ask(batch, max_tokens=extraction.MAX_OUTPUT_TOKENS))
    assert message.content[0].type == "text"
    assert message.stop_reason == "end_turn"
    assert len(json.loads(message.content[0].text)["facts"]) > 20


# A newcomer's walk


TOLD = (
    "My name is Robin Vega and I live in Porto.",
    "My daughter Mia is seven and she loves dinosaurs.",
    "We've got two cats, Biscuit and Pepper.",
    "My wife's name is Elena, she teaches maths.",
    "I'm learning to play the cello.",
    "My favorite movie is Amélie.",
    "I drive an old red Volvo.",
    "Next month we're flying to Japan for two weeks.",
    "My brother Tomas lives in Berlin and works for Siemens.",
    "I grew up in Salamanca.",
    "The wifi password is gullible-otter-42.",
    "My boss is called Frida.",
    "I run five kilometres every morning.",
)


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("What's my name?", "Robin"), ("How old is my kid?", "seven"), ("Do I have any pets?", "cats"),
        ("Who am I married to?", "Elena"), ("Which instrument am I learning?", "cello"),
        ("What film do I like best?", "Amélie"), ("What car do I have?", "Volvo"),
        ("Where are we going on holiday?", "Japan"), ("Where did I grow up?", "Salamanca"),
        ("Who's my manager?", "Frida"), ("Do I do any sport?", "kilometres"), ("Tell me about my family.", "Tomas"),
        ("What's the wifi password?", "otter"), ("What do you know about me?", "Robin"),
    ],
)  # fmt: skip
def test_a_newcomers_questions_find_what_was_told(question: str, word: str) -> None:
    """In other words than it was told in; earlier questions of the same words are never the answer."""
    told = [f'<memory date="2026-03-01" kind="episode">{escape(text)}</memory>' for text in TOLD]
    asked = f'<memory date="2026-03-02" kind="episode">{escape(question)}</memory>'
    notes = ["<recalled>\n" + "\n".join([asked, *told]) + "\n</recalled>"]
    reply = _reply(question, notes=notes)
    assert word in reply
    assert question not in reply


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        (TOLD[1], {("user", "has_daughter", "Mia"), ("Mia", "age", "seven"), ("Mia", "likes", "dinosaurs")}),
        (TOLD[3], {("user", "has_wife", "Elena"), ("Elena", "teaches", "maths")}),
        (TOLD[7], {("user", "goes_to", "Japan")}),
        (TOLD[10], {("user", "wifi_password", "gullible-otter-42")}),
        ("I love Kari, but she hates fish.", {("user", "likes", "Kari")}),
        ("I'm going to cook dinner.", set()),
        ("The key is to be patient.", set()),
    ],
)
def test_a_newcomers_sentences_are_understood_or_passed_over(text: str, statements: set[tuple[str, str, str]]) -> None:
    """Who "she" is, what is a plan and what a secret; what is not understood is not guessed at."""
    assert {(fact.subject, fact.predicate, fact.object) for fact in find_facts(text)} == statements
