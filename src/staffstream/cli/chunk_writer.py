"""The pieces of a streamed body straight onto the connection, past what Hypercorn does with each.

Hypercorn hands a piece through five objects to h11, which checks it against its state machine and frames it: 43k of
165k instructions a relayed token, counted by callgrind. Within a chunked HTTP/1.1 body all of that only puts a size
before the piece. So our server offers its app a writer that does just this, as an extension in the ASGI scope. Where
things are not exactly so (HTTP/2, HTTP/1.0, another server, another shape of Hypercorn) there is no such extension,
and the app sends as usual.
"""

import asyncio

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Closed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from starlette.types import Scope, Send

from staffstream.api.event_stream import WRITER


def offer_writer(scope: Scope, send: Send) -> None:
    """Put a writer into the scope's extensions, if `send` is Hypercorn's and leads to an HTTP/1.1 connection."""
    stream = getattr(send, "__self__", None)
    protocol = getattr(getattr(stream, "send", None), "__self__", None)
    server = getattr(getattr(protocol, "send", None), "__self__", None)
    if (
        scope["http_version"] == "1.1"
        and isinstance(stream, HTTPStream)
        and isinstance(protocol, H11Protocol)
        and isinstance(server, TCPServer)
    ):
        scope["extensions"] = {**scope.get("extensions", {}), WRITER: _ChunkWriter(stream, protocol, server.writer)}


class _ChunkWriter:
    """Writes the chunks of one response."""

    __slots__ = ("_high_water", "_protocol", "_stream", "_transport", "_writer")

    def __init__(self, stream: HTTPStream, protocol: H11Protocol, writer: asyncio.StreamWriter) -> None:
        self._stream = stream
        self._protocol = protocol
        self._writer = writer
        self._transport = writer.transport
        _, self._high_water = self._transport.get_write_buffer_limits()  # `drain` never waits below it

    async def write(self, data: bytes) -> None:
        if self._stream.closed or not data:  # an empty chunk would end the body
            return
        try:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            if self._transport.get_write_buffer_size() > self._high_water:
                await self._writer.drain()
        except (ConnectionError, RuntimeError):  # what Hypercorn takes for a reader that left
            await self._protocol.handle(Closed())

    def push(self, data: bytes) -> bool:
        if self._stream.closed or self._transport.get_write_buffer_size() + len(data) > self._high_water:
            return False
        try:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        except (ConnectionError, RuntimeError):  # `write` will meet it too, and say so
            return False
        return True
