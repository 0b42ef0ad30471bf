"""Forwards the bytes of Claude's reply in the call that received them, without aiohttp's buffer.

aiohttp puts a body's bytes into a buffer and wakes the task that waits for them. That costs a future, a turn of the
event loop and a resumed task for each token. This module replaces the reader of the body: it calls `on_chunk` with the
bytes as they are received, and the task sleeps until the body ends. Together with run_log.py, which sends the text on
in the same call, a relayed token takes 51 µs of CPU instead of 61 (50 streams at 50 tokens/s). Any other class of
reader is read as usual.
"""

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import aiohttp

OnChunk = Callable[[bytes], bool]
"""Called with the next bytes of a body. Returns True when it needs no more."""


async def forward_chunks(reader: aiohttp.StreamReader, on_chunk: OnChunk) -> None:
    """Pass the body's bytes to `on_chunk` as they arrive, until it returns True or the body ends.

    Raises the connection's errors and the errors of `on_chunk`. The reader cannot be used afterwards.
    """
    if type(reader) is not aiohttp.StreamReader:  # for example that of an empty body
        while (data := await reader.readany()) and not on_chunk(data):
            pass
        return
    while data := reader.read_nowait():  # reading can let aiohttp add more that it had paused
        if on_chunk(data):
            return
    if reader.is_eof():
        return
    reader.__class__ = _ForwardingParser
    forwarding = reader._waiter = _ForwardingReader(on_chunk)
    await forwarding


class _ForwardingReader(asyncio.Future[None]):
    """A future that passes bytes to `on_chunk` until it is done. aiohttp takes it for its own waiter and resolves it:
    at the end of the body, or with an error.
    """

    def __init__(self, on_chunk: OnChunk) -> None:
        super().__init__()
        self._on_chunk = on_chunk
        self._context = contextvars.copy_context()  # so that log lines name this reply, not the connection's opener

    def forward(self, data: bytes) -> None:
        try:
            done = self._context.run(self._on_chunk, data)
        except Exception as error:  # raised by `forward_chunks`; aiohttp would report it as a broken body
            self.set_exception(error)
        else:
            if done:
                self.set_result(None)


class _ForwardingParser(aiohttp.StreamReader):
    """aiohttp's reader without its buffer. Bytes that arrive after the end are dropped: the connection is closed."""

    __slots__ = ()
    _waiter: Any

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        if (forwarding := self._waiter) is not None and not forwarding.done():
            forwarding.forward(data)
        return False

    def begin_http_chunk_receiving(self) -> None:
        """Do nothing: HTTP chunk boundaries have no meaning for the text."""

    end_http_chunk_receiving = begin_http_chunk_receiving
