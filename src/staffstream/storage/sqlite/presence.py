"""Whether another process uses the file: a lock that the kernel drops with its process."""

import asyncio
import contextlib
import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from staffstream.errors import SetupError
from staffstream.storage.sqlite.files import check_place, make_private

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class FilePresence:
    """A shared lock on `<db>.lock`. `restore` and `compact` hold it exclusively to the end.

    Raises SetupError where it cannot be had at all. Where there is no flock (Windows), nobody is ever known to be
    alone, and leases decide.
    """

    def __init__(self, path: Path) -> None:
        check_place(path)
        try:
            with contextlib.suppress(FileExistsError):
                os.close(make_private(f"{path}.lock", like=path))
            self._file = open(f"{path}.lock", "ab")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise SetupError(f"{path}.lock cannot be opened: {error.strerror}. Give this user the right to.") from error
        self.alone = self._lock(fcntl.LOCK_EX) if fcntl else False

    async def enter(self) -> None:
        """Wait until the file may be opened: not while another process tidies up, or puts a backup in its place."""
        if not self.alone:
            await self.share()

    async def share(self) -> None:
        """Let other processes in; waits while another one is tidying up."""
        while fcntl and not self._lock(fcntl.LOCK_SH):  # noqa: ASYNC110 - another process is waited for
            await asyncio.sleep(0.02)
        self.alone = False

    def kept(self) -> AbstractAsyncContextManager[None]:
        """Nothing to do: the kernel drops the lock with the process alone."""
        return contextlib.nullcontext()

    def _lock(self, mode: int) -> bool:
        try:
            fcntl.flock(self._file, mode | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._file.close()
