"""Whether the database takes writes, for readiness checks."""

import asyncio
import time

from staffstream.errors import StaffstreamError
from staffstream.storage import meta
from staffstream.storage.database import Database

PROBE_S = 1.0


class WriteProbe:
    """Tries a commit, at most one a second while they succeed: anybody may ask, and a commit costs a disk write."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._probing = asyncio.Lock()
        self._written_at = float("-inf")

    async def check(self) -> str:
        """`ok`, or the code of the error."""
        async with self._probing:
            if time.monotonic() - self._written_at < PROBE_S:
                return "ok"
            try:
                await self._database.write(meta.prove_writable)
            except StaffstreamError as error:
                return error.code
            self._written_at = time.monotonic()
            return "ok"
