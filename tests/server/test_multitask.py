"""A conversation that already has a run: refuse, wait in line, or interrupt; and a history that Claude takes after
every kind of end.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import CASES, ONE, OPEN
from tests.tools.provider_script import DEADLINE_S, PIECES, STREAM_HEAD, Gate, Reply, Script, Stall, http_error, steps
from tests.tools.server import Api, name_user, serve_here

pytestmark = pytest.mark.anyio

SAID = "".join(PIECES)
MANY, FEW = {"X-User": "many"}, {"X-User": "few"}


def _read_history(body: dict[str, Any]) -> list[tuple[str, str]]:
    """(role, text) of every block that Claude was sent, but for what was recalled and the moment."""
    blocks = [(message["role"], block["text"]) for message in body["messages"] for block in message["content"]]
    return [(role, text) for role, text in blocks if not text.startswith(("<recalled>", "<now>"))]


# ── reject ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_busy_conversation_refuses(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """By default a second stream is a 409 that names the run, and its question is not saved."""
    gate = provider.hold()
    async with api.stream(ada, "1") as first:
        for refused in (await api.ask(ada, "2"), await api.ask(ada, "2", multitask_strategy="reject")):
            assert (refused.status, refused.problem["code"]) == (409, "conversation_busy")
            assert refused.problem["run_id"] == first.run_id
        assert (await api.send(ada, "2", 409, multitask_strategy="reject"))["run_id"] == first.run_id
        gate.open()
        await first.rest()
    assert await api.said(ada) == ["1", SAID]
    assert (await api.ask(ada, "2")).text == SAID


async def test_a_queued_run_counts_as_busy(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """Nobody overtakes the queue: between two runs the conversation is still taken."""
    gate = provider.hold()
    first = (await api.send(ada, "1"))["run_id"]
    second = (await api.send(ada, "2"))["run_id"]
    assert (await api.ask(ada, "3")).problem["run_id"] == first
    second_gate = provider.hold()
    gate.open()
    await api.ended_run(ada, first)
    assert (await api.ask(ada, "3")).problem["run_id"] == second
    second_gate.open()
    await api.ended_run(ada, second)


async def test_conversations_do_not_wait_for_each_other(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """Another conversation, and another staff member, are free."""
    gate = provider.hold()
    other = (await api.post(f"/staff/{ada}/conversations", {}, 201))["id"]
    bob = await api.make_staff("Bob")
    async with api.stream(ada, "1") as first:
        await provider.arrived(1)
        assert (await api.ask(ada, "2", conversation_id=other)).text == SAID
        assert (await api.ask(bob, "3")).text == SAID
        gate.open()
        await first.rest()


# ── enqueue ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_queue_of_both_doors(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """Questions are answered in the order in which they came, each with the answers before it in its history and no
    word of what was asked after it.
    """
    gates = [provider.hold([f"answer {n}"]) for n in range(1, 5)]
    async with api.stream(ada, "question 1") as first:
        await provider.arrived(1)
        second = (await api.send(ada, "question 2"))["run_id"]
        async with api.stream(ada, "question 3", multitask_strategy="enqueue") as third:
            fourth = (await api.send(ada, "question 4", multitask_strategy="enqueue"))["run_id"]
            states = [(await api.run(ada, run))["state"] for run in (second, third.run_id, fourth)]
            assert states == ["queued"] * 3
            for gate in gates:
                gate.open()
            assert (await first.rest()).text == "answer 1"
            assert (await third.rest()).text == "answer 3"
        await api.ended_run(ada, fourth)
    talk = [text for n in range(1, 5) for text in (f"question {n}", f"answer {n}")]
    assert await api.said(ada) == talk
    sent = [[text for _, text in _read_history(request.body)] for request in provider.requests]
    assert sent == [talk[:1], talk[:3], talk[:5], talk[:7]]
    assert [role for role, _ in _read_history(provider.requests[-1].body)] == ["user", "assistant"] * 3 + ["user"]
    assert b"question 3" not in provider.requests[1].raw


async def test_many_questions_at_once(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """However they arrive, each is answered once, one after another, in the order of its turn."""
    provider.default = lambda request: Reply([f"re {request.said}"])(request)
    accepted = await asyncio.gather(*(api.send(ada, f"q{n}") for n in range(30)))
    for each in accepted:
        await api.ended_run(ada, each["run_id"])
    talk = await api.said(ada, limit=200)
    assert len(talk) == 60
    assert talk[1::2] == [f"re {question}" for question in talk[::2]]
    assert [request.said for request in provider.chats] == talk[::2]
    assert provider.refusals == []


async def test_the_queue_goes_on_after_every_end(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """A failed, a cancelled and an empty reply let the next one begin."""
    provider.script(CASES["http_400"].script, steps(STREAM_HEAD, OPEN, Stall()), Reply([]), Reply(["at last"]))
    ids = [(await api.send(ada, str(n)))["run_id"] for n in range(4)]
    await provider.arrived(2)
    await api.cancel(ada, ids[1])
    states = [(await api.ended_run(ada, run))["state"] for run in ids]
    assert states == ["failed", "cancelled", "done", "done"]
    assert (await api.messages(ada))[0]["content"] == "at last"
    assert provider.refusals == []


async def test_many_conversations_share_the_room(db: Path, provider: ScriptedProvider) -> None:
    """At most async_concurrency queued replies are made at once, and one that ends makes room for the next."""
    gates = [provider.hold() for _ in range(6)]
    async with serve_here(db, provider, async_concurrency=2) as api:
        staff = [await api.make_staff(f"S{n}") for n in range(6)]
        ids = [(await api.send(each, "Hi"))["run_id"] for each in staff]
        for n, gate in enumerate(gates):
            await provider.arrived(min(n + 2, 6))
            making = [(await api.run(each, run))["state"] for each, run in zip(staff, ids, strict=True)]
            assert len([state for state in making if state in ("building", "streaming")]) <= 2
            gate.open()
        for each, run in zip(staff, ids, strict=True):
            assert (await api.ended_run(each, run))["state"] == "done"


async def test_users_take_turns_in_the_queue(db: Path, provider: ScriptedProvider) -> None:
    """Who has thirty replies waiting does not make another user wait for them."""
    provider.default = Reply(gate=(gate := Gate()))
    async with serve_here(db, provider, identify=name_user, async_concurrency=4) as api:
        ada = (await api.post("/staff", {"name": "Ada"}, 201, headers=MANY))["id"]
        for number in range(30):
            thread = (await api.post(f"/staff/{ada}/conversations", {}, 201, headers=MANY))["id"]
            body = {"content": f"many {number}", "conversation_id": thread}
            await api.post(f"/staff/{ada}/messages", body, 202, headers=MANY)
        await provider.arrived(3)
        await api.post(f"/staff/{ada}/messages", {"content": "few"}, 202, headers=FEW)
        await provider.arrived(4)
        assert {request.said for request in provider.chats} == {"many 0", "many 1", "many 2", "few"}  # in any order
        gate.open()


async def test_a_long_conversation_does_not_hold_its_place(db: Path, provider: ScriptedProvider) -> None:
    """The next reply of a conversation waits for its place in the queue like any other."""
    gates = [provider.hold(["a"]) for _ in range(3)]
    async with serve_here(db, provider, identify=name_user, async_concurrency=1) as api:
        ada = (await api.post("/staff", {"name": "Ada"}, 201, headers=MANY))["id"]
        for text in "123":
            await api.post(f"/staff/{ada}/messages", {"content": text}, 202, headers=MANY)
        await provider.arrived(1)
        await api.post(f"/staff/{ada}/messages", {"content": "other"}, 202, headers=FEW)
        for number, gate in enumerate(gates, 2):
            gate.open()
            await provider.arrived(number)
        assert [request.said for request in provider.chats] == ["1", "2", "other", "3"]


# ── interrupt ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["stream", "async"])
async def test_interrupting(api: Api, provider: ScriptedProvider, ada: str, mode: str) -> None:
    """The run in the way is cancelled, its text kept; the new question is answered after it in the history."""
    gate = provider.hold()
    gate.release(2)
    async with api.stream(ada, "1") as first:
        await first.until("Hello from")
        if mode == "stream":
            received = await api.ask(ada, "2", multitask_strategy="interrupt")
            assert received.text == SAID
        else:
            await api.ended_run(ada, (await api.send(ada, "2", multitask_strategy="interrupt"))["run_id"])
        assert (await first.rest()).end["cancelled"]
    await provider.left(1)
    assert await api.said(ada) == ["1", "Hello from", "2", SAID]
    assert _read_history(provider.requests[1].body) == [("user", "1"), ("assistant", "Hello from"), ("user", "2")]


async def test_interrupting_before_there_is_text(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """The first question stays without an answer, and Claude reads both."""
    provider.script(steps(STREAM_HEAD, OPEN, Stall()))
    async with api.stream(ada, "1") as first:
        await provider.arrived(1)
        assert (await api.ask(ada, "2", multitask_strategy="interrupt")).text == SAID
        assert (await first.rest()).end == {
            **{"type": "done", "message_id": None, "cancelled": True},
            **{"stop_reason": None, "usage": None},
        }
    assert _read_history(provider.requests[1].body) == [("user", "1"), ("user", "2")]
    assert provider.refusals == []


async def test_a_refusal_after_interrupting_is_a_status(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """The response waits for Claude as it does without anything in the way: a refusal is no 200."""
    provider.hold()
    async with api.stream(ada, "1") as first:
        await provider.arrived(1)
        provider.script(CASES["http_401"].script)
        refused = await api.ask(ada, "2", multitask_strategy="interrupt")
        assert (refused.status, refused.problem["code"]) == (502, "upstream_key_refused")
        assert (await first.rest()).end["cancelled"]


async def test_interrupting_a_free_conversation(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """With nothing in the way it is just a question."""
    assert (await api.ask(ada, "1", multitask_strategy="interrupt")).text == SAID


async def test_interrupting_with_a_queue(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """Who interrupts stops the run that is first in line; those who waited after it keep their place."""
    provider.hold()
    async with api.stream(ada, "1") as first:
        await provider.arrived(1)
        second = (await api.send(ada, "2"))["run_id"]
        third = await api.ask(ada, "3", multitask_strategy="interrupt")
        assert third.text == SAID
        assert (await first.rest()).end["cancelled"]
    assert (await api.run(ada, second))["state"] == "done"
    assert [request.said for request in provider.requests] == ["1", "2", "3"]


async def test_interrupting_a_run_that_waits_for_its_next_attempt(db: Path, provider: ScriptedProvider) -> None:
    """An asynchronous run that Claude put off for an hour is in nobody's way: what reject would name is cancelled."""
    provider.script(http_error(429, "rate_limit_error", headers={"retry-after": "3600"}))
    async with serve_here(db, provider, upstream_retries=0) as api:
        ada = await api.make_staff()
        put_off = (await api.send(ada, "1"))["run_id"]
        await provider.arrived(1)
        async with asyncio.timeout(DEADLINE_S):
            while (await api.run(ada, put_off))["state"] != "queued":
                await asyncio.sleep(0.01)
        assert (await api.ask(ada, "2")).problem["run_id"] == put_off
        assert (await api.ask(ada, "2", multitask_strategy="interrupt")).text == SAID
        assert (await api.run(ada, put_off))["state"] == "cancelled"


async def test_interrupting_each_other(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """Many who interrupt at once: every stream has its one end, the last one is answered, and no run is left over."""
    provider.default = Reply(delay_s=0.01)
    received = await asyncio.gather(*(api.ask(ada, f"q{n}", multitask_strategy="interrupt") for n in range(12)))
    runs = [await api.run(ada, each.run_id) for each in received]
    assert {run["state"] for run in runs} <= {"done", "cancelled"}
    assert max(runs, key=lambda run: run["user_message_id"])["state"] == "done"
    assert (await api.ask(ada, "And now?")).end["type"] == "done"
    assert provider.refusals == []


# ── after every kind of end ──────────────────────────────────────────────────────────────────────────────────────────

ENDS: dict[str, tuple[Script, str]] = {
    "empty": (CASES["empty_reply"].script, ""),
    "no blocks": (CASES["no_blocks"].script, ""),
    "white space": (CASES["whitespace_reply"].script, " \n\t "),
    "refusal": (CASES["refusal"].script, "One two three"),
    "refusal without text": (CASES["refusal_without_text"].script, ""),
    "cut at max_tokens": (CASES["max_tokens"].script, "One two three"),
    "failed at once": (CASES["http_400"].script, ""),
    "failed half way": (steps(STREAM_HEAD, OPEN, ONE), "One"),
    "broken characters": (CASES["lone_surrogates"].script, "a\ufffdb\ufffdc"),
    "NUL": (CASES["nul"].script, "a\0b"),
}


@pytest.mark.parametrize("name", ENDS)
async def test_the_conversation_goes_on(api: Api, provider: ScriptedProvider, ada: str, name: str) -> None:
    """Three more questions after any end are answered; Claude is sent no empty block and no wrong order of roles."""
    script, text = ENDS[name]
    provider.script(script)
    await api.ask(ada, "first")
    for question in ("second", "third", "fourth"):
        assert (await api.ask(ada, question)).text == SAID
    assert provider.refusals == []
    said = [text] if text.strip() else []
    history = [text for _, text in _read_history(provider.requests[-1].body)]
    assert history == ["first", *said, "second", SAID, "third", SAID, "fourth"]


async def test_the_conversation_goes_on_after_many_bad_ends(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """However many bad replies follow each other, the next prompt is one that the API takes."""
    for script, _ in ENDS.values():
        provider.script(script)
        await api.ask(ada, "Hi")
    assert (await api.ask(ada, "And now?")).text == SAID
    assert provider.refusals == []
    roles = [message["role"] for message in provider.requests[-1].body["messages"]]
    assert roles[0] == roles[-1] == "user"


async def test_an_empty_reply_is_a_message(api: Api, provider: ScriptedProvider, ada: str) -> None:
    """It is done, with a message that says nothing, so that the stream's message_id is one that exists."""
    provider.script(Reply([]))
    received = await api.ask(ada, "Hi")
    reply = await api.get(f"/staff/{ada}/messages/{received.end['message_id']}")
    assert (reply["content"], reply["status"], received.tokens) == ("", "complete", [])
