"""Letting what can wait wait."""

import asyncio
import time

import pytest

from staffstream.support.timers import BurstGate

pytestmark = pytest.mark.anyio


async def test_other_work_waits_while_there_is_a_rush() -> None:
    """One more than are let by closes the gate; it opens when one of them has left."""
    gate = BurstGate(1, longest_wait_s=60)
    with gate:
        await asyncio.wait_for(gate.wait_until_calm(), 1)
        with gate:
            waiting = asyncio.create_task(gate.wait_until_calm())
            await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 1)


async def test_a_rush_without_end_is_not_waited_for() -> None:
    """There may always be more to save, and what was asked has to be answered too."""
    gate = BurstGate(0, longest_wait_s=0.05)
    started = time.monotonic()
    with gate:
        await asyncio.wait_for(gate.wait_until_calm(), 10)
    assert time.monotonic() - started >= 0.05


async def test_a_rush_ends_with_what_fails() -> None:
    """A question that is refused leaves it like one that is saved."""
    gate = BurstGate(0, longest_wait_s=60)
    with pytest.raises(ValueError, match="refused"), gate:
        raise ValueError("refused")
    await asyncio.wait_for(gate.wait_until_calm(), 1)
