"""What the server does at regular times: it saves when keys were used, erases what is old, and merges the parts of the
word index.

Each step is a small transaction on the one writer, so that no reply waits long for it.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator

from staffstream.background.purge import Purger
from staffstream.domain import now_text
from staffstream.errors import NotFound
from staffstream.settings import Settings
from staffstream.storage import conversations, keys, meta, runs, spending
from staffstream.storage.database import Connection, Database
from staffstream.support.rounds import repeat, run_round

log = logging.getLogger(__name__)

KEYS_ROUND_S = 30.0
WORDS_ROUND_S = 5.0
AGE_ROUND_S = 3600.0
_DAY_S = 24 * 3600.0
_CLOCK_NOTE = "age_checked_at"
_BATCH = 100
_BREATH_S = 0.05  # between the steps of a merge: replies go first


@contextlib.asynccontextmanager
async def run_maintenance(
    settings: Settings, database: Database, purger: Purger, *, keys_used: dict[str, str]
) -> AsyncIterator[None]:
    """Do the rounds until the block ends. `keys_used` is emptied as it is written down: {key id: time}."""
    write_uses = functools.partial(_write_key_uses, database, keys_used)
    erase_old = functools.partial(_erase_old, settings, database, purger, ClockWatch(database))
    tasks = [
        asyncio.create_task(repeat(write_uses, KEYS_ROUND_S), name="note the use of keys"),
        asyncio.create_task(
            repeat(WordMerger(database).merge, WORDS_ROUND_S, first_in_s=WORDS_ROUND_S), name="merge the word index"
        ),
        asyncio.create_task(repeat(erase_old, AGE_ROUND_S), name="erase what is old"),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await run_round(write_uses)


async def _write_key_uses(database: Database, keys_used: dict[str, str]) -> None:
    if keys_used:
        used = dict(keys_used)
        keys_used.clear()
        await database.write(lambda tx: keys.note_uses(tx, used))


class WordMerger:
    """Merges the parts that were added to the word index since the last time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._merged = b""

    async def merge(self) -> None:
        if await self._database.read(_read_words_state) != self._merged:
            more = True
            while more:
                more = await self._database.write(_merge_words)
                await asyncio.sleep(_BREATH_S)
            self._merged = await self._database.read(_read_words_state)


def _read_words_state(conn: Connection) -> bytes:
    return conn.search.read_state(conn)


def _merge_words(tx: Connection) -> bool:
    return tx.search.merge_words(tx)


class ClockWatch:
    """Detects a clock that has jumped ahead: with a clock 60 days ahead, everything would be old at once. After more
    than a day between two checks (the server may have been stopped), nothing is erased for a day.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wait_until: float | None = None

    async def can_be_trusted(self) -> bool:
        seen = await self._database.read(lambda conn: meta.find_note(conn, _CLOCK_NOTE))
        now = now_text()
        if seen is not None and seen < now_text(-_DAY_S):
            if self._wait_until is None:
                log.warning(
                    "the clock says %s and said %s when it was looked at last: nothing is erased by age for a day,"
                    " in case it is wrong",
                    now,
                    seen,
                )
                self._wait_until = time.monotonic() + _DAY_S
            if time.monotonic() < self._wait_until:
                return False
        self._wait_until = None
        await self._database.write(lambda tx: meta.set_note(tx, _CLOCK_NOTE, now))
        return True


async def _erase_old(settings: Settings, database: Database, purger: Purger, clock: "ClockWatch") -> None:
    """Conversations that nobody has used for so long, with all that came from them, and old records of contexts."""
    if not await clock.can_be_trusted():
        return
    if settings.retention_days is not None:
        await _erase_conversations(database, purger, before=now_text(-settings.retention_days * _DAY_S))
    if settings.context_retention_days is not None:
        before = now_text(-settings.context_retention_days * _DAY_S)
        list_old = functools.partial(runs.list_old_contexts, before=before, limit=_BATCH)
        while old := await database.read(list_old):
            await database.write(functools.partial(runs.drop_contexts, run_ids=old))
    if await database.read(spending.has_old_days):
        await database.write(spending.drop_old_days)


async def _erase_conversations(database: Database, purger: Purger, *, before: str) -> None:
    def check_unused(tx: Connection, conversation_id: str) -> None:
        if not conversations.list_unused(tx, before=before, limit=1, conversation_id=conversation_id):
            raise NotFound("It was used meanwhile.")

    list_unused = functools.partial(conversations.list_unused, before=before, limit=_BATCH)
    while batch := await database.read(list_unused):
        for scope, conversation_id in batch:
            check = functools.partial(check_unused, conversation_id=conversation_id)
            with contextlib.suppress(NotFound):
                await purger.erase_conversation(scope, conversation_id, check=check)
        log.info("erased %d conversations that were not used since %s", len(batch), before)
