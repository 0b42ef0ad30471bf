"""Compaction: when it happens, what it leaves, and that a prompt's beginning stays the same bytes between two."""

import contextlib
import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from staffstream.memory import summaries
from staffstream.storage import conversations, messages, staff
from staffstream.support.tokens import count_tokens
from tests.tools.databases import connect, prepare
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Gate, Reply, http_error, json_reply
from tests.tools.server import serve_here
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio

LONG = "This is a sentence of some length about the plans for the house by the sea. " * 4
BUDGET = 1500


def load_summary(db: Path) -> tuple[str, int]:
    with contextlib.closing(connect(db)) as connection:
        row = connection.execute("SELECT text, until_turn FROM summaries").fetchone()
        return (row["text"], row["until_turn"]) if row else ("", 0)


def count_unfinished(db: Path) -> int:
    with contextlib.closing(connect(db)) as connection:
        query = "SELECT count(*) FROM jobs WHERE kind = 'summarise' AND state <> 'dead'"
        return int(connection.execute(query).fetchone()[0])


def read_history(request: Any) -> list[bytes]:
    """The messages of a request before its last one, each as bytes, without their cache marks."""
    messages = orjson.loads(request.raw)["messages"] if hasattr(request, "raw") else request.body["messages"]
    for message in messages:
        for block in message["content"]:
            block.pop("cache_control", None)
    return [orjson.dumps(message) for message in messages]


async def test_old_turns_are_folded_and_messages_stay(db: Path, provider: ScriptedProvider) -> None:
    """Past the high mark the oldest turns go into the summary; every message is still listed as it was."""
    provider.default = Reply(["Noted. ", LONG], usage={"output_tokens": 5})
    provider.script_structured(*[json_reply({"summary": f"Summary {n}: the house by the sea."}) for n in range(1, 9)])
    async with serve_here(db, provider) as api:
        ada = await api.make_staff(context_budget_tokens=BUDGET, memory_enabled=False)
        for n in range(12):
            await api.ask(ada, f"Question {n}. {LONG}")
            await until(lambda: count_unfinished(db) == 0)
        text, until_turn = load_summary(db)
        assert text.startswith("Summary ")
        assert 0 < until_turn < 12
        assert len(await api.messages(ada, limit=200)) == 24
        last = provider.chats[-1].body["messages"]
        assert last[0]["content"][0]["text"].startswith("<summary>\nSummary ")
        assert f"Question {until_turn}. " in str(last)  # turns count from 1, questions from 0
        assert f"Question {until_turn - 1}. " not in str(last)
    assert provider.refusals == []


async def test_the_beginning_of_the_prompt_is_the_same_bytes_between_compactions(
    db: Path, provider: ScriptedProvider
) -> None:
    """As long as no summary was written, each request begins with all the messages of the one before it."""
    provider.default = Reply(["Fine."])
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        for n in range(6):
            await api.ask(ada, f"My favourite number is {n}, remember the number {n}.")
    for earlier, later in zip(provider.chats, provider.chats[1:], strict=False):
        assert earlier.body["system"] == later.body["system"]
        before, after = read_history(earlier)[:-1], read_history(later)
        assert after[: len(before)] == before
    marked = [str(request.body).count("cache_control") for request in provider.chats]
    assert marked == [1, 2, 2, 2, 2, 2]


async def test_a_failed_compaction_cuts_at_a_turn_and_says_so(db: Path, provider: ScriptedProvider) -> None:
    """When no summary can be had, the oldest turns are left out whole, the question never, and the record tells."""
    provider.default = Reply(["Noted. ", LONG], usage={"output_tokens": 5})
    provider.script_structured(*[http_error(529, "overloaded_error")] * 50)
    async with serve_here(db, provider) as api:
        ada = await api.make_staff(context_budget_tokens=BUDGET, memory_enabled=False)
        for n in range(12):
            received = await api.ask(ada, f"Question {n}. {LONG}")
        record = await api.get(f"/staff/{ada}/messages/{received.run_id}/context")
        dropped = [item for item in record["dropped"] if item["source"] == "turn"]
        assert dropped
        assert all(len(item["message_ids"]) == 2 for item in dropped)
        assert record["total_tokens"] <= BUDGET
        assert any("summar" in note for note in record["notes"])
        last = provider.chats[-1].body["messages"]
        assert last[-1]["content"][-1]["text"] == f"Question 11. {LONG}"
        assert last[0]["role"] == "user"


async def test_a_summary_cannot_outgrow_its_size(db: Path, provider: ScriptedProvider) -> None:
    """Whatever the model writes, the summary is cut to its share of the budget."""
    provider.default = Reply(["Noted. ", LONG], usage={"output_tokens": 5})
    provider.script_structured(*[json_reply({"summary": "word " * 20_000}) for _ in range(9)])
    async with serve_here(db, provider) as api:
        ada = await api.make_staff(context_budget_tokens=BUDGET, memory_enabled=False)
        for n in range(10):
            await api.ask(ada, f"Question {n}. {LONG}")
            await until(lambda: count_unfinished(db) == 0)
        record = await api.post(f"/staff/{ada}/context", {"content": "And now?"})
        spent = {section["name"]: section["tokens"] for section in record["sections"]}
        assert 0 < spent["summary"] <= BUDGET * 0.15
        assert spent["recent_turns"] > 0


@pytest.mark.parametrize("nonsense", [None, [], {}, {"summary": 5}, {"summary": "  "}, {"summary": None}])
async def test_no_summary_is_kept_from_nonsense(db: Path, provider: ScriptedProvider, nonsense: Any) -> None:
    """An answer without a summary changes nothing."""
    provider.default = Reply(["Noted. ", LONG], usage={"output_tokens": 5})
    provider.script_structured(*[json_reply(nonsense)] * 20)
    async with serve_here(db, provider) as api:
        ada = await api.make_staff(context_budget_tokens=BUDGET, memory_enabled=False)
        for n in range(6):
            await api.ask(ada, f"Question {n}. {LONG}")
        await until(lambda: count_unfinished(db) == 0)
        assert load_summary(db) == ("", 0)


async def test_erasing_a_summed_up_message_forgets_the_summary(db: Path, provider: ScriptedProvider) -> None:
    """The summary may hold its words: it is written anew from what is left."""
    provider.default = Reply(["Noted. ", LONG], usage={"output_tokens": 5})
    provider.script_structured(*[json_reply({"summary": "They spoke of zanzibar."})] * 20)
    async with serve_here(db, provider) as api:
        ada = await api.make_staff(context_budget_tokens=BUDGET, memory_enabled=False)
        first = await api.ask(ada, f"Zanzibar. {LONG}")
        for n in range(8):
            await api.ask(ada, f"Question {n}. {LONG}")
            await until(lambda: count_unfinished(db) == 0)
        assert load_summary(db)[0] == "They spoke of zanzibar."
        path = f"/staff/{ada}/messages/{first.headers['x-user-message-id']}"
        assert (await api.http.delete(path)).status_code == 204
        assert load_summary(db) == ("", 0)


async def test_an_erased_message_is_in_no_summary_of_a_record(db: Path, provider: ScriptedProvider) -> None:
    """The records of later contexts lose the summary's text, wherever in the record the summary stands."""
    provider.default = Reply(["Noted. ", LONG], usage={"output_tokens": 5})
    provider.script_structured(*[json_reply({"summary": "They spoke of zanzibar."})] * 20)
    async with serve_here(db, provider) as api:
        ada = await api.make_staff(context_budget_tokens=BUDGET, memory_enabled=False)
        first = await api.ask(ada, f"Zanzibar. {LONG}")
        for n in range(8):
            last = await api.ask(ada, f"Question {n}. {LONG}")
            await until(lambda: count_unfinished(db) == 0)
        assert "zanzibar" in str(await api.get(f"/staff/{ada}/messages/{last.run_id}/context"))
        with contextlib.closing(connect(db)) as connection:
            for row in connection.execute("SELECT * FROM run_contexts").fetchall():
                record = json.loads(row["record"])
                record["sections"].reverse()
                connection.execute(
                    "UPDATE run_contexts SET record = ? WHERE run_id = ?", (json.dumps(record), row["run_id"])
                )
        await api.delete(f"/staff/{ada}/messages/{first.headers['x-user-message-id']}")
        record = await api.get(f"/staff/{ada}/messages/{last.run_id}/context")
        assert "zanzibar" not in str(record)
        assert "(erased)" in str(record)


async def test_a_message_erased_while_it_is_summed_up_is_in_no_summary(db: Path, provider: ScriptedProvider) -> None:
    """The answer that was made with its words is thrown away."""
    gate = Gate()
    provider.default = Reply(["Noted. ", LONG], usage={"output_tokens": 5})
    provider.script_structured(json_reply({"summary": "They spoke of zanzibar."}, head_gate=gate))
    provider.script_structured(*[json_reply({"summary": "They spoke."})] * 20)
    async with serve_here(db, provider) as api:
        ada = await api.make_staff(context_budget_tokens=BUDGET, memory_enabled=False)
        first = await api.ask(ada, f"Zanzibar. {LONG}")
        for n in range(5):
            await api.ask(ada, f"Question {n}. {LONG}")
        await until(lambda: any(request.schema for request in provider.requests))
        await api.delete(f"/staff/{ada}/messages/{first.headers['x-user-message-id']}")
        gate.open()
        await until(lambda: count_unfinished(db) == 0)
        assert "zanzibar" not in load_summary(db)[0]


@pytest.mark.parametrize("number", [1, 2500])
async def test_compactions_converge_however_long_the_past_and_large_the_budget(db: Path, number: int) -> None:
    """A past of thousands of turns is folded from its beginning, each turn once; a summary fits into one answer."""
    prepare(db)
    with contextlib.closing(connect(db)) as tx:
        tx.execute("BEGIN")
        scope = staff.ensure_scope(tx, staff.create_staff(tx, {"name": "Ada"}).id, "kim")
        talk = conversations.create_conversation(tx, scope)
        for n in range(number + 3):
            messages.append_user_message(tx, scope, talk, f"Number {n}. " + "word " * 30)
        folded: list[str] = []
        while fold := summaries.plan_fold(tx, scope, talk.id, budget_tokens=200 if number == 1 else 50_000, ratio=1.0):
            folded += [message.content for message in messages.flatten_turns(fold.turns)]
            assert count_tokens(summaries.write_question(fold, staff=staff.get_staff(tx, scope.staff_id))) < 40_000
            assert summaries.save_summary(tx, fold, {"summary": "so " * 9000}, model="m")
            text, _ = conversations.load_summary(tx, scope, talk.id)
            assert count_tokens(text) <= summaries.MAX_SUMMARY_TOKENS
        assert [text.split(".")[0] for text in folded] == [f"Number {n}" for n in range(len(folded))]
        assert number <= len(folded) < number + 3 if number == 1 else len(folded) > number * 0.8
        tx.execute("ROLLBACK")


async def test_with_a_long_persona_turns_are_summed_up_before_they_are_lost(
    db: Path, provider: ScriptedProvider
) -> None:
    """The marks are shares of what the persona leaves to the talk: what is cut from the window has its summary."""
    provider.default = Reply(["Noted. ", LONG], usage={"output_tokens": 5})
    provider.script_structured(*[json_reply({"summary": f"Summary {n}."}) for n in range(40)])
    async with serve_here(db, provider) as api:
        ada = await api.make_staff(context_budget_tokens=3000, persona="kind and wise " * 600)
        for n in range(8):
            await api.ask(ada, f"Question {n}. {LONG}")
            await until(lambda: count_unfinished(db) == 0)
        assert load_summary(db)[0].startswith("Summary")
        record = await api.post(f"/staff/{ada}/context", {"content": "And now?"})
        spent = {section["name"]: section["tokens"] for section in record["sections"]}
        assert spent["persona"] > 1500
        assert spent["recent_turns"] > 0
        assert [item for item in record["dropped"] if item["source"] == "turn"] == []
