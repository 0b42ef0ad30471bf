"""Claude's bytes straight from the connection, past what aiohttp does with each.

aiohttp keeps a body's bytes in a buffer and wakes the task that waits for them: a future, a turn of the loop and a
resumed task for each token. A reply needs none of that, since whoever hears it takes everything at once. So the reader
of its body hands the bytes on in the call that received them, and the task sleeps until the body is over. With what
runlog.py pushes on in that same call, a relayed token takes 51 µs of CPU instead of 61, 50 streams at 50 tokens/s. A
reader of another shape is read as usual.
"""

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import aiohttp

OnChunk = Callable[[bytes], bool]
"""Takes the next bytes of a body; whether that was all it needs."""


async def forward_chunks(reader: aiohttp.StreamReader, on_chunk: OnChunk) -> None:
    """Hand the body's bytes to `hear` as they arrive, until it has what it needs or they are over.

    Raises what broke the body, and what `hear` raised. The reader is of no use afterwards.
    """
    if type(reader) is not aiohttp.StreamReader:  # the one of an empty body, say
        while (data := await reader.readany()) and not on_chunk(data):
            pass
        return
    while data := reader.read_nowait():  # reading some may let aiohttp put in more that it had held back
        if on_chunk(data):
            return
    if reader.is_eof():
        return
    reader.__class__ = _ForwardingParser
    ears = reader._waiter = _ForwardingReader(on_chunk)
    await ears


class _ForwardingReader(asyncio.Future[None]):
    """Done when nothing more is to be heard. aiohttp resolves it as it would its own: at the end, or by an error."""

    def __init__(self, on_chunk: OnChunk) -> None:
        super().__init__()
        self._hear = on_chunk
        self._context = contextvars.copy_context()  # what is logged names this reply, not who opened the connection

    def take(self, data: bytes) -> None:
        try:
            over = self._context.run(self._hear, data)
        except Exception as error:  # it belongs to whoever listens; aiohttp would make a broken body of it
            self.set_exception(error)
        else:
            if over:
                self.set_result(None)


class _ForwardingParser(aiohttp.StreamReader):
    """Keeps nothing. Bytes that come when nobody listens any more are dropped: their connection is closed."""

    __slots__ = ()
    _waiter: Any

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        if (ears := self._waiter) is not None and not ears.done():
            ears.take(data)
        return False

    def begin_http_chunk_receiving(self) -> None:
        """Where a chunk begins or ends tells nothing about the text."""

    end_http_chunk_receiving = begin_http_chunk_receiving
