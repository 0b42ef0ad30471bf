"""Whether another process uses the database: an advisory lock that the server drops with the process's connection.

A connection can be lost while its process lives on: the server restarts, or somebody ends its session. Then nothing
says any more that the process is there, so it opens another one at once. A process that starts right after the server
did gives the others time for it: taking itself for the only one, it would end their replies.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import psycopg

from staffstream.errors import StorageUnavailable
from staffstream.storage.postgres.connections import (
    OTHERS,
    PostgresConnection,
    connect_aside,
    get_error_name,
    wait_readable,
)

log = logging.getLogger(__name__)

_PRESENT = 2
_AGAIN_S = 0.5  # before another try to come back
_SETTLED_S = 10  # after the server's start: by then all processes that outlived it have come back,
_WAIT_S = 1.5  # and before that, they are waited for


class PostgresPresence:
    """The lock of one process, on a connection of its own."""

    def __init__(self, url: str, connection: PostgresConnection) -> None:
        self._url = url
        self._connection = connection
        self._is_shared = False
        self.alone = _lock(connection, "pg_try_advisory_lock")

    async def enter(self) -> None:
        if self.alone and not await asyncio.to_thread(_has_settled, self._connection):
            await asyncio.to_thread(_lock, self._connection, "pg_advisory_unlock")
            await asyncio.sleep(_WAIT_S)
            self.alone = await asyncio.to_thread(_lock, self._connection, "pg_try_advisory_lock")
        if not self.alone:
            await self.share()

    async def share(self) -> None:
        if not self._is_shared:
            await _share(self._connection)
            self._is_shared = True
        if self.alone:
            await asyncio.to_thread(_lock, self._connection, "pg_advisory_unlock")
            self.alone = False

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        keeping = asyncio.create_task(self._come_back_forever(), name="presence")
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _come_back_forever(self) -> None:
        await _wait_lost(self._connection)
        while True:
            with contextlib.suppress(psycopg.Error, StorageUnavailable):
                async with connect_aside(self._url) as connection:
                    await _share(connection)
                    log.warning("this process is known to the database again")
                    await _wait_lost(connection)
            await asyncio.sleep(_AGAIN_S)

    def close(self) -> None:
        self._connection.close()


async def _share(connection: PostgresConnection) -> None:
    while not await asyncio.to_thread(_lock, connection, "pg_try_advisory_lock_shared"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)  # another process is tidying up


async def _wait_lost(connection: PostgresConnection) -> None:
    """Return when the connection is lost."""
    while True:
        await wait_readable(connection)
        try:
            await asyncio.to_thread(connection.driver.execute, "SELECT 1")
        except psycopg.Error as error:
            log.warning("the database has lost sight of this process: %s", get_error_name(error))
            return


def _lock(connection: PostgresConnection, function: str) -> bool:
    key = (connection.namespace ^ OTHERS, _PRESENT)
    try:
        row = connection.driver.execute(f"SELECT {function}($1::int4, $2::int4)", key).fetchone()
    except psycopg.Error as error:
        raise StorageUnavailable from error
    return bool(row and row[0])


def _has_settled(connection: PostgresConnection) -> bool:
    row = connection.execute(
        "SELECT extract(epoch FROM now() - pg_postmaster_start_time())::float8 AS age_s"
    ).fetchone()
    return float(row["age_s"]) > _SETTLED_S
