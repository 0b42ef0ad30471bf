"""A thread that keeps one connection and runs functions on it, one after another.

What comes back to the event loop costs half of what it does with an executor of the standard library, which passes
each result through two futures.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from staffstream.storage.sqlite.connections import SqliteConnection

T = TypeVar("T")


class ConnectionThread:
    """Runs functions of a connection. Made by `open`; whoever opens it closes it."""

    def __init__(self, open_connection: Callable[[], SqliteConnection]) -> None:
        self._open_connection = open_connection
        self._connection: SqliteConnection | None = None
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run_all, name="sqlite", daemon=True)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, open_connection: Callable[[], SqliteConnection]) -> AsyncIterator["ConnectionThread"]:
        """A thread with an open connection. At the end it finishes what was handed in. Raises what opening raises."""
        opened = cls(open_connection)
        opened._thread.start()
        try:
            await opened._submit(opened._connect)
            yield opened
        finally:
            closing = opened._submit(opened._close)
            opened._work.put(None)
            await asyncio.shield(closing)
            opened._thread.join()  # it has nothing more to do

    def run(self, function: Callable[..., T], *arguments: Any) -> "asyncio.Future[T]":
        """The result of `function(connection, *arguments)`. It is run even if nobody waits for it any more."""
        return self._submit(lambda: function(self._connection, *arguments))

    def _submit(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            outcome: tuple[Any, BaseException | None]
            try:
                outcome = call(), None
            except BaseException as error:
                outcome = None, error
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
                loop.call_soon_threadsafe(_settle, future, *outcome)

        self._work.put(work)
        return future

    def _run_all(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # what it holds is not needed until the next one comes

    def _connect(self) -> None:
        self._connection = self._open_connection()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _settle(future: "asyncio.Future[Any]", value: Any, error: BaseException | None) -> None:
    if future.done():  # its caller was cancelled
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
