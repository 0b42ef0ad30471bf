"""Letting what can wait wait."""

import asyncio
import time

import pytest

from staffstream.support.timers import BurstGate

pytestmark = pytest.mark.anyio


async def test_other_work_waits_while_there_is_a_rush() -> None:
    """One more than are let by makes a rush; it is over when one of them has left."""
    rush = BurstGate(1, longest_wait_s=60)
    with rush:
        await asyncio.wait_for(rush.wait_until_calm(), 1)
        with rush:
            waiting = asyncio.create_task(rush.wait_until_calm())
            await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 1)


async def test_a_rush_without_end_is_not_waited_for() -> None:
    """There may always be more to save, and what was asked has to be answered too."""
    rush = BurstGate(0, longest_wait_s=0.05)
    started = time.monotonic()
    with rush:
        await asyncio.wait_for(rush.wait_until_calm(), 10)
    assert time.monotonic() - started >= 0.05


async def test_a_rush_ends_with_what_fails() -> None:
    """A question that is refused leaves it like one that is saved."""
    rush = BurstGate(0, longest_wait_s=60)
    with pytest.raises(ValueError, match="refused"), rush:
        raise ValueError("refused")
    await asyncio.wait_for(rush.wait_until_calm(), 1)
