"""Waking other processes by LISTEN and NOTIFY.

A notification carries ids of runs alone. One goes out at a time, and what is announced meanwhile waits for the next: a
server takes one lock for all notifications of a commit, so they go in transactions of their own that wait for no disk.
A connection that is lost is opened again; until then those who wait look by themselves.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection
from typing import Any

import psycopg

from staffstream.storage.postgres.connections import PostgresConnection, connect_aside, get_error_name, wait_readable

log = logging.getLogger(__name__)

_AGAIN_S = 1.0  # before a lost connection is opened again
_IDS_AT_ONCE = 200  # a payload has fewer than 8,000 bytes


class PostgresWakeups:
    """`RunWakeups` over two connections of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._woken = asyncio.Event()
        self._announced: set[str] = set()
        self._to_announce = asyncio.Event()
        self._own_pid = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["PostgresWakeups"]:
        """Listening and announcing until the block ends."""
        wakeups = cls(url)
        rounds = [
            asyncio.create_task(wakeups._reconnect_forever(work), name=f"wake-ups: {work.__name__}")
            for work in (wakeups._listen, wakeups._send)
        ]
        try:
            yield wakeups
        finally:
            for task in rounds:
                task.cancel()
            await asyncio.gather(*rounds, return_exceptions=True)

    def announce(self, run_ids: Collection[str]) -> None:
        """Wake the processes that follow these runs."""
        if run_ids:
            self._announced.update(run_ids)
            self._to_announce.set()

    async def wait(self, limit_s: float) -> None:
        """Return when runs may have changed elsewhere, after `limit_s` seconds at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._woken.wait()
        self._woken.clear()

    # ── both connections ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _reconnect_forever(self, work: Any) -> None:
        while True:
            try:
                async with connect_aside(self._url) as connection:
                    await work(connection)
            except psycopg.Error as error:
                log.warning("no wake-ups from or for other processes: %s", get_error_name(error))
            await asyncio.sleep(_AGAIN_S)

    async def _listen(self, connection: PostgresConnection) -> None:
        driver = connection.driver
        await asyncio.to_thread(driver.execute, f"LISTEN {_name_channel(connection)}".encode())
        while True:
            for note in driver.notifies(timeout=0):
                if note.pid != self._own_pid:
                    self._woken.set()
            await wait_readable(connection)

    async def _send(self, connection: PostgresConnection) -> None:
        driver, channel = connection.driver, _name_channel(connection)
        self._own_pid = driver.info.backend_pid
        while True:
            await self._to_announce.wait()
            self._to_announce.clear()
            while ids := list(self._announced)[:_IDS_AT_ONCE]:
                self._announced.difference_update(ids)
                await asyncio.to_thread(driver.execute, "SELECT pg_notify($1, $2)", [channel, " ".join(ids)])


def _name_channel(connection: PostgresConnection) -> str:
    """Notifications hold for a whole database, and ours mean one schema."""
    return f"staffstream_runs_{connection.namespace & 0xFFFFFFFF}"
