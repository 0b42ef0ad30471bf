"""How processes that share a database tell each other that runs have changed.

A wake-up is a hint: whoever waits for one looks at the database afterwards, and looks anyway after a while, so one that
is lost costs time only.
"""

import asyncio
from collections.abc import Collection
from typing import Protocol


class RunWakeups(Protocol):
    """What an engine offers for it."""

    def announce(self, run_ids: Collection[str]) -> None:
        """Wake the processes that follow these runs; called after the commit that changed them."""

    async def wait(self, limit_s: float) -> None:
        """Return when runs may have changed elsewhere, after `limit_s` seconds at the latest."""


class PolledWakeups:
    """For SQLite, where a look at the file is cheap and nothing tells of another process's commit: a poll."""

    def announce(self, run_ids: Collection[str]) -> None:
        """Do nothing: the others poll."""

    async def wait(self, limit_s: float) -> None:
        """Wait that long."""
        await asyncio.sleep(limit_s)
