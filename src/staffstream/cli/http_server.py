"""Accepting connections and ending them: within the process's descriptors, whoever takes nothing, and at the end.

Hypercorn's own way has none of these limits. The loops differ in what they do when no descriptor is left (asyncio logs
a traceback a second, uvloop drops clients silently), so the listening socket is watched here.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import sys
from types import TracebackType

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from starlette.types import ASGIApp

from staffstream.cli.connections import CHECKS_UNTIL_STUCK, Connection
from staffstream.support.logs import LogLimit

log = logging.getLogger(__name__)

CLOSING_S = 1.0  # for connections that have nothing more to say
ACCEPT_PAUSE_S = 0.2  # when there is no room for another connection
MOST_ACCEPTED_AT_ONCE = 100
FEWEST_CONNECTIONS = 16
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class HttpServer:
    """Serves an ASGI app on a listening socket, which it closes, from `__aenter__` to `__aexit__`.

    At most half of the process's descriptors go to clients. When these are taken, the connection that has been between
    two requests for longest is closed for the new one; if all are answering, new ones wait.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket, *, slow_reader_s: float) -> None:
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]
        self._listener = listener
        self._check_every_s = slow_reader_s / CHECKS_UNTIL_STUCK
        self._config = _configure()
        self._context = WorkerContext(None)
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # in the order in which they became so
        self._full = LogLimit(every_s=60)
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def __aenter__(self) -> "HttpServer":
        self._listener.setblocking(False)
        self._resume()
        self.check_progress()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for timer in self._timers.values():
            timer.cancel()
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        await self._context.terminated.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSING_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def note_idle(self, connection: Connection, is_idle: bool) -> None:
        """The connection is between two requests, or no longer."""
        self._idle.pop(connection, None)
        if is_idle:
            self._idle[connection] = None

    def _resume(self) -> None:
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(MOST_ACCEPTED_AT_ONCE):
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._make_room(os.strerror(error.errno))
                return
            client.setblocking(False)
            task = asyncio.create_task(self._serve(client), name="connection")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if len(self._tasks) > _most_connections() and not self._make_room("they may take half of its descriptors"):
                return

    def _make_room(self, reason: str) -> bool:
        """Close the connection that has been idle for longest; accept none for a moment if there is none."""
        if (count := self._full.count()) is not None:
            log.warning(
                "no room for another connection beside %d (%s); %d such since the last line. Raise the limit of open"
                " files (ulimit -n, LimitNOFILE=)",
                len(self._tasks),
                reason,
                count,
            )
        if self._idle:
            connection = next(iter(self._idle))
            del self._idle[connection]
            connection.abort()
            return True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._timers["accept"] = loop.call_later(ACCEPT_PAUSE_S, self._resume)
        return False

    async def _serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        with contextlib.suppress(OSError):  # it left before it was served
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, client)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            connection = Connection(self._app, self._config, self._context, self, reader, writer)
            self._connections.add(connection)
            self.note_idle(connection, True)
            try:
                await connection.run()
            finally:
                self._connections.discard(connection)
                self._idle.pop(connection, None)

    def check_progress(self) -> None:
        """End the connections whose clients have taken nothing for `slow_reader_s`, seen from check to check."""
        if timer := self._timers.get("check"):
            timer.cancel()
        for connection in list(self._connections):
            connection.check_progress()
        loop = asyncio.get_running_loop()
        self._timers["check"] = loop.call_later(self._check_every_s, self.check_progress)


def _most_connections() -> int:
    """Half of the descriptors that the process may have now."""
    if sys.platform == "win32":
        return 1 << 16
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(FEWEST_CONNECTIONS, soft // 2) if soft != resource.RLIM_INFINITY else 1 << 16


def _configure() -> Config:
    config = Config()
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.keep_alive_timeout = 75
    return config
