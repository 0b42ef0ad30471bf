"""Waiting for a state, never for a time."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from tests.tools.provider_script import DEADLINE_S

LOOK_EVERY_S = 0.02


async def until(holds: Callable[[], Any]) -> Any:
    """The first true value of a check that is made again and again. Fails after DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            value = holds()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(LOOK_EVERY_S)
