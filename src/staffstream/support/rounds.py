"""Work that is repeated in rounds for as long as the app runs."""

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
