"""What a newcomer tries first, with the stand-in: every suggestion of the README and of the page is remembered and is
answered in a new conversation at once, before any fact was extracted.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.tools.server import Api, serve_here

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
INTRODUCTION = "Hello! My name is Kim and I live in Bergen."
HOBBIES = "I am learning the cello, and my sister Anna plays the piano."
EVERYTHING = "What do you know about me?"


@pytest.fixture
async def offline(db: Path) -> AsyncIterator[Api]:
    """A server whose Claude is the stand-in."""
    async with serve_here(db) as api:
        yield api


async def _ask(api: Api, staff_id: str, content: str) -> str:
    """The reply to a message in a conversation of its own."""
    conversation = await api.post(f"/staff/{staff_id}/conversations", {}, 201)
    return (await api.ask(staff_id, content, conversation_id=conversation["id"])).text


def test_these_are_what_is_suggested() -> None:
    """The README's example, and the page's list in full."""
    assert INTRODUCTION in (ROOT / "README.md").read_text("utf-8")
    page = (ROOT / "packages/page/src/Welcome.tsx").read_text("utf-8")
    suggested = re.findall(r'^\s+"([^"]+[.?])",$', page, re.MULTILINE)
    assert suggested == [INTRODUCTION, HOBBIES, EVERYTHING]


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("Where do I live?", "Bergen"),
        ("What is my name?", "Kim"),
        ("Who am I?", "Kim"),
        ("What am I learning?", "cello"),
        ("What does Anna play?", "piano"),
        ("Who plays the piano?", "Anna"),
        ("Do I have a sister?", "Anna"),
    ],
)
async def test_a_question_is_answered_from_another_conversation(offline: Api, question: str, told: str) -> None:
    """With the user's words, not with the stand-in's own replies to them."""
    ada = await offline.make_staff()
    for content in (INTRODUCTION, HOBBIES):
        await _ask(offline, ada, content)
    reply = await _ask(offline, ada, question)
    assert told in reply
    assert "Thank you for telling me" not in reply


async def test_asked_for_everything_it_tells_what_it_was_told(offline: Api) -> None:
    """All of both messages, and again when it was asked before: its own earlier replies are no memories of the user."""
    ada = await offline.make_staff()
    for content in (INTRODUCTION, HOBBIES):
        await _ask(offline, ada, content)
    for _ in range(3):
        reply = await _ask(offline, ada, EVERYTHING)
        assert all(word in reply for word in ("Kim", "Bergen", "cello", "Anna"))
        assert reply.count("Bergen") == 1
        assert "Thank you for telling me" not in reply


async def test_before_anything_was_told_it_knows_nothing(offline: Api) -> None:
    """Asked first, it says so, and is honest later too."""
    ada = await offline.make_staff()
    assert "Nothing comes to my mind" in await _ask(offline, ada, EVERYTHING)
    await _ask(offline, ada, INTRODUCTION)
    assert "Bergen" in await _ask(offline, ada, EVERYTHING)


async def test_the_stand_in_greets_without_taking_a_greeting_for_its_own(offline: Api) -> None:
    """The same words as its own replies have, said by the user: what counts is who spoke."""
    ada = await offline.make_staff()
    await _ask(offline, ada, "Thank you for telling me. I work at the harbour.")
    assert "harbour" in await _ask(offline, ada, "Where do I work?")
