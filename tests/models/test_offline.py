"""The stand-in for Claude, seen through the real SDK: its wire and its answers."""

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
from staffstream.models.offline import StandIn
from staffstream.models.offline.answers import PromptCache, split_pieces, write_answer
from staffstream.models.offline.replies import NOTICE
from staffstream.models.offline.wire import MODEL
from tests.tools.refusals import refuse

pytestmark = pytest.mark.anyio
TEXT = {"type": "text", "text": "x"}
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
    """Replies are remembered as all messages are. Who spoke is an attribute: the same words count if the user's."""
    own = _reply("x", "y", "I live in Oslo.")
    memories = [f'<memory from="{who}">{escape(own)}</memory>' for who in ("Ada", "Kim")]
    ask = ("What do you know about me?",)
    assert "Nothing comes to my mind" in _reply(
        *ask, notes=[f"<recalled>{memories[0]}</recalled>"], system="You are Ada."
    )
    assert "Oslo" in _reply(*ask, notes=[f"<recalled>{memories[1]}</recalled>"], system="You are Ada.")


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
    said = " ".join(f"Anna{n} works at Company{n}." for n in range(100))
    batch = f'<messages><message n="1" from="user" name="A" date="">{said}</message></messages>'
    message = await claude.messages.create(output_config=config, **_ask(batch, max_tokens=extraction.MAX_OUTPUT_TOKENS))
    assert message.content[0].type == "text"
    assert message.stop_reason == "end_turn"
    assert len(json.loads(message.content[0].text)["facts"]) > 20
