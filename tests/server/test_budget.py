"""What a reply may send: the preview shows it, and the budget holds however and whenever a message is answered."""

import pytest

from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Gate, Reply
from tests.tools.server import Api

pytestmark = pytest.mark.anyio

FACT = "My sister Berit keeps bees in Tromsø."
QUESTION = "What does my sister Berit keep in Tromsø?"


def _list_memories(record: dict[str, object]) -> list[str]:
    sections = record["sections"]
    assert isinstance(sections, list)
    return [item["id"] for section in sections if section["name"] == "memories" for item in section["items"]]


async def test_the_preview_is_what_the_reply_gets(api: Api, provider: ScriptedProvider) -> None:
    """A memory of the open conversation that no longer stands in the recent turns is recalled for both."""
    ada = await api.make_staff(context_budget_tokens=500)
    await api.ask(ada, FACT)
    for number in range(8):
        await api.ask(ada, f"Number {number}: " + "the weather was fine and the harbour was quiet. " * 12)
    preview = await api.post(f"/staff/{ada}/context", {"content": QUESTION})
    received = await api.ask(ada, QUESTION)
    record = await api.get(f"/staff/{ada}/messages/{received.end['message_id']}/context")
    assert any(FACT in item.get("text", "") for section in record["sections"] for item in section["items"])
    assert _list_memories(preview) == _list_memories(record)
    assert preview["total_tokens"] == record["total_tokens"]


async def test_the_preview_of_a_message_above_the_budget_is_refused(api: Api) -> None:
    """As the message itself would be."""
    ada = await api.make_staff(context_budget_tokens=200)
    problem = await api.post(f"/staff/{ada}/context", {"content": "word " * 300}, 413)
    assert problem["code"] == "message_too_long"


async def test_answering_again_is_refused_when_the_budget_was_lowered(api: Api, provider: ScriptedProvider) -> None:
    """The provider is not asked for more than the budget, nor without a persona."""
    ada = await api.make_staff(context_budget_tokens=2000)
    first = await api.ask(ada, "word " * 600)
    await api.patch(f"/staff/{ada}", {"context_budget_tokens": 200})
    problem = await api.post(f"/staff/{ada}/messages/{first.end['message_id']}/regenerate", None, 413)
    assert problem["code"] == "message_too_long"
    assert len(provider.chats) == 1


async def test_a_queued_message_fails_when_the_budget_was_lowered_meanwhile(
    api: Api, provider: ScriptedProvider
) -> None:
    """It was accepted under another budget; the provider is not asked over the present one."""
    ada = await api.make_staff(context_budget_tokens=2000)
    gate = Gate()
    provider.script(Reply(["One"], gate=gate))
    async with api.stream(ada, "Hi") as first:
        sent = await api.send(ada, "word " * 600, multitask_strategy="enqueue")
        await api.patch(f"/staff/{ada}", {"context_budget_tokens": 200})
        gate.open()
        await first.rest()
    run = await api.ended_run(ada, sent["run_id"])
    assert (run["state"], run["error"]["code"]) == ("failed", "message_too_long")
    assert len(provider.chats) == 1
