"""Whether another process uses the database: an advisory lock that the server drops with the process's connection."""

import asyncio

import psycopg

from staffstream.errors import StorageUnavailable
from staffstream.storage.postgres.connections import OTHERS, PostgresConnection

_PRESENT = 2


class PostgresPresence:
    """The lock of one process, on a connection of its own."""

    def __init__(self, connection: PostgresConnection) -> None:
        self._connection = connection
        self._key = (connection.namespace ^ OTHERS, _PRESENT)
        self._is_shared = False
        self.alone = self._lock("pg_try_advisory_lock")

    async def enter(self) -> None:
        if not self.alone:
            await self.share()

    async def share(self) -> None:
        while not self._is_shared:
            if await asyncio.to_thread(self._share):
                return
            await asyncio.sleep(0.02)

    def _share(self) -> bool:
        if self._lock("pg_try_advisory_lock_shared"):
            self._is_shared = True
            if self.alone:
                self._lock("pg_advisory_unlock")
            self.alone = False
        return self._is_shared

    def _lock(self, function: str) -> bool:
        try:
            row = self._connection.driver.execute(f"SELECT {function}($1::int4, $2::int4)", self._key).fetchone()
        except psycopg.Error as error:
            raise StorageUnavailable from error
        return bool(row and row[0])

    def close(self) -> None:
        self._connection.close()
