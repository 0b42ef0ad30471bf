"""Updates every few seconds the rows that all replies would change: sums of spending, token ratios, old keys."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from staffstream.errors import Unavailable
from staffstream.replies.token_ratios import TokenRatios
from staffstream.storage import idempotency, spending
from staffstream.storage.database import Database
from staffstream.support.rounds import repeat

EVERY_S = 5.0


@contextlib.asynccontextmanager
async def run_bookkeeping(database: Database, ratios: TokenRatios) -> AsyncIterator[None]:
    """Tidy up until the block ends, and once more then."""

    async def tidy_up() -> None:
        await ratios.save(database)
        if await database.read(spending.has_entries):
            await database.write(spending.sum_up_entries)
        if await database.read(idempotency.has_old_keys):
            await database.write(idempotency.drop_old_keys)

    tidying = asyncio.create_task(repeat(tidy_up, EVERY_S, first_in_s=EVERY_S), name="bookkeeping")
    try:
        yield
    finally:
        tidying.cancel()
        await asyncio.gather(tidying, return_exceptions=True)
        with contextlib.suppress(Unavailable):
            await ratios.save(database)
