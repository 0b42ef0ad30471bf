"""Calibration: the budget is in Claude's tokens, and how those relate to ours is learned from each reply's usage."""

from pathlib import Path
from typing import Any

import pytest

from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Reply
from tests.tools.server import Api, serve_here

pytestmark = pytest.mark.anyio

QUESTION = "Tell me of the sea, the wind and the weather. " * 10


async def preview(api: Api, staff_id: str) -> Any:
    return await api.post(f"/staff/{staff_id}/context", {"content": QUESTION})


async def test_the_models_own_count_is_learned_and_kept(db: Path, provider: ScriptedProvider) -> None:
    """Cached tokens count too; another model keeps its own ratio, and a restart forgets nothing."""
    async with serve_here(db, provider) as api:
        ada = await api.make_staff(model="claude-one", memory_enabled=False)
        bo = await api.make_staff(model="claude-two")
        before = await preview(api, ada)
        counted = before["total_tokens"] / before["token_ratio"]
        for _ in range(3):
            usage = {"input_tokens": 10, "cache_creation_input_tokens": 0, "output_tokens": 5}
            usage["cache_read_input_tokens"] = round(counted * 2) - 10
            provider.script(Reply(["Yes."], usage=usage))
            fresh = await api.post(f"/staff/{ada}/conversations", {}, 201)
            await api.ask(ada, QUESTION, conversation_id=fresh["id"])
        learned = (await preview(api, ada))["token_ratio"]
        assert learned == pytest.approx(2, abs=0.05)
        assert (await preview(api, bo))["token_ratio"] == before["token_ratio"]
    async with serve_here(db, provider) as api:
        assert (await preview(api, ada))["token_ratio"] == learned


@pytest.mark.parametrize("tokens", [0, 1, 10_000_000])
async def test_a_strange_count_cannot_bend_the_budget_far(db: Path, provider: ScriptedProvider, tokens: int) -> None:
    """What a provider reports is held between a half and three of our tokens; none at all teaches nothing."""
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        before = (await preview(api, ada))["token_ratio"]
        provider.script(Reply(["Yes."], usage={"input_tokens": tokens, "output_tokens": 5}))
        await api.ask(ada, QUESTION)
        after = (await preview(api, ada))["token_ratio"]
        assert after == {0: before, 1: 0.5, 10_000_000: 3.0}[tokens]
