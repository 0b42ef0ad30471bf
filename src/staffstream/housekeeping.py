"""What the server does by the clock for the operator: writing down when keys were used.

Each round works in small transactions on the one writer, so that no reply waits long for it.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from staffstream import keys
from staffstream.database import Database
from staffstream.errors import Unavailable

log = logging.getLogger(__name__)

KEYS_ROUND_S = 30.0


@contextlib.asynccontextmanager
async def keep_house(database: Database, *, keys_used: dict[str, str]) -> AsyncIterator[None]:
    """Do the rounds until the block ends. `keys_used` is emptied as it is written down: {key id: time}."""
    task = asyncio.create_task(_note_key_uses(database, keys_used), name="housekeeping")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await _write_key_uses(database, keys_used)


async def _note_key_uses(database: Database, keys_used: dict[str, str]) -> None:
    while True:
        await asyncio.sleep(KEYS_ROUND_S)
        await _write_key_uses(database, keys_used)


async def _write_key_uses(database: Database, keys_used: dict[str, str]) -> None:
    if not keys_used:
        return
    used = dict(keys_used)
    keys_used.clear()
    try:
        await database.write(lambda tx: keys.note_uses(tx, used))
    except Unavailable as error:
        log.warning("when keys were used is not written down: %s", error.code)
