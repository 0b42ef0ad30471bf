"""One client's connection: Hypercorn's, with an end in every case.

Hypercorn keeps the descriptor of a client that left until its idle timer fires, and waits for ever until a client that
reads nothing has taken what was written to it.
"""

import asyncio
import logging
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import h11
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import AppWrapper

from staffstream.support.logs import LogLimit

log = logging.getLogger(__name__)

CHECKS_UNTIL_STUCK = 4
"""After so many checks without progress a connection is aborted. Counting checks instead of looking at the clock gives
clients their time back when the process itself was stopped.
"""


class _Waiting(NamedTuple):
    seen: object
    checks: int  # that saw the same


class Owner(Protocol):
    """Keeps the connections, and knows which are between two requests."""

    def note_idle(self, connection: "Connection", is_idle: bool) -> None: ...


class Connection(TCPServer):
    """One client's connection. `run` returns when it is over."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        owner: Owner,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        super().__init__(app, asyncio.get_running_loop(), config, context, {}, reader, writer)
        self._owner = owner
        self._is_over = False
        self._written_bytes = 0
        self._checked: dict[int, _Waiting] = {}  # by HTTP/2 stream; 0 is the socket

    async def run(self) -> None:
        try:
            await super().run()
        except Exception as error:
            if (count := _BROKEN.count()) is not None:
                log.warning("a client broke the protocol (%s); %d such since the last line", _describe(error), count)
        finally:
            self.abort()

    def write(self, data: bytes) -> None:
        """Write past Hypercorn. Raises ConnectionError or RuntimeError when the connection is closed."""
        self.writer.transport.write(data)
        self._written_bytes += len(data)

    def abort(self) -> None:
        """Close it at once, with what is not yet sent dropped."""
        self.writer.transport.abort()

    def check_progress(self) -> None:
        """Abort the connection if nothing of what waits to be sent has gone for `CHECKS_UNTIL_STUCK` checks."""
        before, self._checked = self._checked, {}
        for key, seen in self._list_waiting():
            last = before.get(key)
            checks = last.checks + 1 if last is not None and last.seen == seen else 0
            if checks >= CHECKS_UNTIL_STUCK:
                self.abort()
                return
            self._checked[key] = _Waiting(seen, checks)

    def _list_waiting(self) -> Iterator[tuple[int, object]]:
        """What waits to be sent, each with something that is equal for as long as none of it goes."""
        if unsent := self.writer.transport.get_write_buffer_size():
            yield 0, (self._written_bytes, unsent)
        protocol = self.protocol.protocol if hasattr(self, "protocol") else None
        if isinstance(protocol, H2Protocol):  # its clients can refuse one stream and take another
            for stream_id, waiting in protocol.stream_buffers.items():
                if waiting.buffer:
                    yield stream_id, (len(waiting.buffer), bytes(waiting.buffer[:64]))

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            self._written_bytes += len(event.data)
        elif isinstance(event, Updated):
            if self._is_over:
                return  # its idle timer would only keep the descriptor
            self._owner.note_idle(self, event.idle)
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        if isinstance(self.protocol.protocol, H11Protocol):
            self.protocol.protocol.__class__ = _Http1
        await super()._read_data()
        self._is_over = True
        await self.idle_task.stop()
        if isinstance(self.protocol.protocol, H2Protocol):  # which leaves what waits for its client's window waiting
            for waiting in list(self.protocol.protocol.stream_buffers.values()):
                await waiting.close()


class _Http1(H11Protocol):
    """Without the upgrade to HTTP/2: a proxy that let it through would see nothing of the requests that follow."""

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.http_version == b"2.0":  # the client speaks HTTP/2 from the start
            await super()._check_protocol(event)


_BROKEN = LogLimit(every_s=60)


def _describe(error: BaseException) -> str:
    """The kinds of errors in a group, which never say what a client sent."""
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(_describe(each) for each in error.exceptions)
    return type(error).__name__
