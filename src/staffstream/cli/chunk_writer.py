"""The pieces of a streamed body straight onto the connection, past what Hypercorn does with each.

Hypercorn hands a piece through five objects to h11, which checks it against its state machine and frames it: 43k of
165k instructions a relayed token, counted by callgrind. Within a chunked HTTP/1.1 body all of that only puts a size
before the piece. So our server offers its app a writer that does just this, as an extension in the ASGI scope. Where
things are not exactly so (HTTP/2, HTTP/1.0, another server, another shape of Hypercorn) there is no such extension,
and the app sends as usual. Nor is a piece written so before h11 has sent the head of the response.
"""

import asyncio
from typing import Any

from starlette.types import Scope, Send

from staffstream.api.event_stream import WRITER

try:
    import h11
    from hypercorn.asyncio.tcp_server import TCPServer
    from hypercorn.events import Closed
    from hypercorn.protocol.h11 import H11Protocol
    from hypercorn.protocol.http_stream import HTTPStream
except ImportError:  # modules that Hypercorn does not document have other names
    _KINDS: tuple[type, ...] | None = None
else:
    _KINDS = HTTPStream, H11Protocol, TCPServer


def offer_writer(scope: Scope, send: Send) -> None:
    """Put a writer into the scope's extensions, if `send` is Hypercorn's and leads to an HTTP/1.1 connection."""
    stream = getattr(send, "__self__", None)
    protocol = getattr(getattr(stream, "send", None), "__self__", None)
    server = getattr(getattr(protocol, "send", None), "__self__", None)
    if scope["http_version"] == "1.1" and _is_as_expected(stream, protocol, server):
        scope["extensions"] = {**scope.get("extensions", {}), WRITER: _ChunkWriter(send, stream, protocol, server)}


def _is_as_expected(stream: Any, protocol: Any, server: Any) -> bool:
    """Whether these are Hypercorn's objects, with the attributes that a writer uses."""
    objects = (stream, protocol, server)
    return (
        _KINDS is not None
        and all(isinstance(each, kind) for each, kind in zip(objects, _KINDS, strict=True))
        and isinstance(getattr(stream, "closed", None), bool)
        and isinstance(getattr(protocol, "connection", None), h11.Connection)
        and asyncio.iscoroutinefunction(getattr(protocol, "handle", None))
        and isinstance(getattr(server, "writer", None), asyncio.StreamWriter)
    )


class _ChunkWriter:
    """Writes the chunks of one response."""

    __slots__ = ("_connection", "_high_water", "_protocol", "_send", "_stream", "_transport", "_write", "_writer")

    def __init__(self, send: Send, stream: Any, protocol: Any, server: Any) -> None:
        self._send = send
        self._stream = stream
        self._protocol = protocol
        self._connection = protocol.connection
        self._writer: asyncio.StreamWriter = server.writer
        self._transport = self._writer.transport
        self._write = getattr(server, "write", self._transport.write)  # our own server counts what is written
        _, self._high_water = self._transport.get_write_buffer_limits()  # `drain` never waits below it

    async def write(self, data: bytes) -> None:
        if self._stream.closed or not data:  # an empty chunk would end the body
            return
        if self._connection.our_state is not h11.SEND_BODY:  # the head waits for the first piece of the body
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
            return
        try:
            self._write(b"%x\r\n%b\r\n" % (len(data), data))
            if self._transport.get_write_buffer_size() > self._high_water:
                await self._writer.drain()
        except (ConnectionError, RuntimeError):  # what Hypercorn takes for a client that left
            await self._protocol.handle(Closed())

    def push(self, data: bytes) -> bool:
        if self._stream.closed or self._connection.our_state is not h11.SEND_BODY:
            return False
        if self._transport.get_write_buffer_size() + len(data) > self._high_water:
            return False
        try:
            self._write(b"%x\r\n%b\r\n" % (len(data), data))
        except (ConnectionError, RuntimeError):  # `write` will meet it too, and say so
            return False
        return True

    def abort(self) -> None:
        self._transport.abort()
