"""The connections to the provider, and which of them may be used again.

A response that nobody asked for, on a connection that waits for its next request, would be taken for that request's
answer: another user's text (aiohttp#13656). So a connection that received anything while it was idle is closed.
"""

import asyncio
import functools
import select
from typing import Any

import aiohttp
import anthropic
from aiohttp.client_proto import ResponseHandler


class _WatchedHandler(ResponseHandler):
    """aiohttp's side of one connection. It closes the connection when bytes arrive while it is idle."""

    is_idle = False

    def data_received(self, data: bytes) -> None:
        if data and self.is_idle:  # aiohttp calls it with nothing when it resumes reading
            self.abort()
        else:
            super().data_received(data)

    def begin_idling(self) -> None:
        self.is_idle = True

    def is_clean(self) -> bool:
        """Whether nothing has been received since its last response, also by the kernel alone."""
        return self.is_connected() and not self.should_close and not _is_readable(self.transport)


class WatchedConnector(aiohttp.TCPConnector):
    """A pool of connections without those that received something while they were idle.

    A connection that is not a `_WatchedHandler`, as another release of aiohttp may make them, is used once.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(_WatchedHandler, loop=asyncio.get_running_loop())  # type: ignore[assignment]

    async def connect(self, *args: Any, **options: Any) -> aiohttp.connector.Connection:
        """A new connection, or an idle one on which nothing was received."""
        while True:
            connection = await super().connect(*args, **options)
            handler = connection.protocol
            if not isinstance(handler, _WatchedHandler):
                if handler is not None:
                    handler.force_close()
                return connection
            if handler.is_idle and not handler.is_clean():
                connection.close()
                continue
            handler.is_idle = False
            connection.add_callback(handler.begin_idling)
            return connection


class WatchedClient(anthropic.DefaultAioHttpClient):
    """The SDK's client over aiohttp, with such a pool."""

    def __init__(self, *, keepalive_s: float, **options: Any) -> None:
        self._keepalive_s = keepalive_s
        super().__init__(**options)

    def _init_transport(self, *args: Any, **options: Any) -> Any:
        return self._watch(super()._init_transport(*args, **options))

    def _init_proxy_transport(self, *args: Any, **options: Any) -> Any:
        return self._watch(super()._init_proxy_transport(*args, **options))

    def _watch(self, transport: Any) -> Any:
        def open_session() -> aiohttp.ClientSession:
            connector = WatchedConnector(
                limit=0,  # claude.py sets the limit
                keepalive_timeout=self._keepalive_s,
                ssl=transport.ssl_context,
            )
            return aiohttp.ClientSession(connector=connector)

        transport.client = open_session  # it is called at the first request, within the loop
        return transport


def _is_readable(transport: asyncio.Transport | None) -> bool:
    """Whether bytes, or the end, wait in the kernel."""
    connection = transport and transport.get_extra_info("socket")
    if not connection:
        return False
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([connection.fileno()], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
