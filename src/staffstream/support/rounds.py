"""Work that is repeated in rounds for as long as the app runs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from staffstream.errors import Unavailable

log = logging.getLogger(__name__)


async def run_round(work: Callable[[], Awaitable[object]]) -> None:
    """Do one round of some work. A temporary error (Unavailable) and a bug are logged; neither ends the rounds."""
    try:
        await work()
    except Unavailable as error:
        log.warning("background work is delayed: %s", error.code)
    except Exception:
        log.exception("background work failed")


async def repeat(work: Callable[[], Awaitable[object]], every_s: float, *, first_in_s: float = 0.0) -> None:
    """Do the work for ever, with a pause after each time. One that fails is logged and done again."""
    await asyncio.sleep(first_in_s)
    while True:
        await run_round(work)
        await asyncio.sleep(every_s)
