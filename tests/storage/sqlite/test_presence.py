"""Who uses a file: only the first process is alone on it, until it shares."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from staffstream.storage.sqlite.presence import FilePresence

pytestmark = pytest.mark.anyio


async def test_only_the_first_is_alone_until_it_shares(db: Path) -> None:
    """The second waits while the first tidies up; when all have gone the next one is alone again."""
    with contextlib.closing(FilePresence(db)) as first:
        assert first.alone
        with contextlib.closing(FilePresence(db)) as second:
            assert not second.alone
            joining = asyncio.create_task(second.share())
            done, _ = await asyncio.wait([joining], timeout=0.1)
            assert not done
            await first.share()
            assert not first.alone
            await joining
            with contextlib.closing(FilePresence(db)) as third:
                assert not third.alone
    with contextlib.closing(FilePresence(db)) as next_one:
        assert next_one.alone
