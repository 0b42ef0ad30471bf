"""Replies that are no evidence: those that say they don't know, and those that repeat what was recalled."""

from pathlib import Path

import pytest

from staffstream.memory.repetition import adds_nothing
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Reply
from tests.tools.server import serve_here

pytestmark = pytest.mark.anyio

QUESTION = "What is the code of my locker?"
FACT = "The code of my locker is 4711."


@pytest.mark.parametrize(
    "reply",
    [
        "I don't know the code of your locker.",
        "I'm sorry, but you haven't told me that yet.",
        "I do not have any information about that.",
        "Das weiß ich leider nicht.",
        "Je ne sais pas.",
        "No lo sé, lo siento.",
        "К сожалению, я не знаю.",
        "申し訳ありませんが、わかりません。",
        "对不起，我不知道。",
        "ขอโทษค่ะ ฉันไม่ทราบ",
        "The code of your locker is 4711.",
    ],
)
def test_a_reply_that_adds_nothing_is_no_evidence(reply: str) -> None:
    """In any of the languages, whether it does not know or repeats."""
    assert adds_nothing(reply, [QUESTION, FACT])


@pytest.mark.parametrize(
    "reply",
    [
        "Your locker stands in the hall beside the old lift.",
        "Lockers of that make can be opened with the serial number on their back.",
        "Noted.",
        "京都の金閣寺は一三九七年に建てられました。",
        "I don't know that one. " + "But the hall has forty lockers, each with a different key. " * 12,
    ],
)
def test_a_reply_that_tells_something_is_evidence(reply: str) -> None:
    """Also when it begins with not knowing."""
    assert not adds_nothing(reply, [QUESTION, FACT])


@pytest.mark.parametrize("reply", ["I don't know the code of your locker.", "The code of your locker is 4711."])
async def test_what_was_told_stays_in_the_prompt(db: Path, provider: ScriptedProvider, reply: str) -> None:
    """After 25 replies that don't know it or repeat it, each in a conversation of its own."""
    provider.default = Reply([reply])
    async with serve_here(db, provider, extract_every_messages=1000, extract_idle_s=3600) as api:
        ada = await api.make_staff()
        await api.post(f"/staff/{ada}/memories", {"text": FACT}, 201)
        for _ in range(25):
            made = await api.post(f"/staff/{ada}/conversations", {}, 201)
            await api.ask(ada, QUESTION, conversation_id=made["id"])
        made = await api.post(f"/staff/{ada}/conversations", {}, 201)
        await api.ask(ada, QUESTION, conversation_id=made["id"])
        blocks = [block["text"] for block in provider.requests[-1].body["messages"][-1]["content"]]
        assert any(FACT in text for text in blocks if text.startswith("<recalled>"))
