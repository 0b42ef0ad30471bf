"""Work that is done again and again for as long as the app runs."""

import logging
from collections.abc import Awaitable, Callable

from staffstream.errors import Unavailable

log = logging.getLogger(__name__)


async def run_round(work: Callable[[], Awaitable[object]]) -> None:
    """Do one round of some work. Trouble with the disk passes and a bug is logged; neither ends the rounds."""
    try:
        await work()
    except Unavailable as error:
        log.warning("background work has to wait: %s", error.code)
    except Exception:
        log.exception("background work failed")
