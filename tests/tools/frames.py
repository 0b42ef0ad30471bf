"""The stream as the contract has it: bytes to frames, and a whole answer heard frame by frame.

Every reader here is strict: a frame that the contract does not allow fails the test that meets it.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from tests.tools.provider_script import DEADLINE_S

Json = dict[str, Any]


@dataclass(frozen=True)
class Frame:
    """One event of a stream, or a comment, whose `data` is then empty."""

    data: Json = field(default_factory=dict)
    id: str | None = None
    comment: str | None = None

    @property
    def type(self) -> str:
        return str(self.data.get("type", ""))

    @property
    def cursor(self) -> int:
        """What stands after the run's id."""
        assert self.id is not None
        return int(self.id.rpartition(":")[2])

    @property
    def is_terminal(self) -> bool:
        return self.type in ("done", "error")


def read_frame(block: bytes) -> Frame:
    """The frame that a block (without its blank line) is. Fails on whatever the contract does not allow."""
    assert b"\r" not in block, f"CR in {block!r}"
    lines = block.decode("utf-8").split("\n")
    if lines[0].startswith(":"):
        assert len(lines) == 1, f"a comment shares its block: {block!r}"
        return Frame(comment=lines[0][1:].strip())
    names = [line.partition(": ")[0] for line in lines]
    assert names in (["data"], ["id", "data"]), f"no frame of ours: {block!r}"
    assert len(block.decode("utf-8").splitlines()) == len(lines), f"a client may split this: {block!r}"
    data = orjson.loads(lines[-1].removeprefix("data: "))
    frame = Frame(data, lines[0].removeprefix("id: ") if len(lines) == 2 else None)
    assert frame.type in ("token", "done", "error", "status"), f"unknown type: {block!r}"
    assert (frame.id is not None) == (frame.type == "token"), f"ids stand on tokens: {block!r}"
    return frame


class FrameReader:
    """Bytes in, frames out; checks the order of a whole stream."""

    def __init__(self) -> None:
        self._pending = b""
        self._cursor = -1
        self.ended = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete."""
        *blocks, self._pending = (self._pending + data).split(b"\n\n")
        return [self._check(read_frame(block)) for block in blocks]

    def end(self) -> None:
        """The bytes are over: no frame may be left half."""
        assert self._pending == b"", f"cut within a frame: {self._pending!r}"

    def _check(self, frame: Frame) -> Frame:
        assert not self.ended, f"after the terminal frame: {frame}"
        if frame.type == "token":
            assert frame.cursor > self._cursor, f"the cursor did not grow: {frame}"
            assert frame.data["content"] != ""
            self._cursor = frame.cursor
        self.ended = frame.is_terminal
        return frame


@dataclass
class ReadStream:
    """What came of one request for a stream: its frames, or the problem instead of them."""

    status: int
    headers: httpx.Headers
    frames: list[Frame] = field(default_factory=list)
    problem: Json = field(default_factory=dict)

    @property
    def tokens(self) -> list[str]:
        return [frame.data["content"] for frame in self.frames if frame.type == "token"]

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @property
    def end(self) -> Json:
        """The one terminal frame's data. Fails when there is none, or more than one."""
        ends = [frame.data for frame in self.frames if frame.is_terminal]
        assert len(ends) == 1, f"{len(ends)} terminal frames in {self}"
        return ends[0]

    @property
    def run_id(self) -> str:
        return self.headers["x-run-id"]


class StreamReader:
    """An open stream, read frame by frame."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.received = ReadStream(response.status_code, response.headers)
        self._reader = FrameReader()
        self._chunks = response.aiter_raw()
        self._waiting: list[Frame] = []

    @property
    def run_id(self) -> str:
        return self.received.run_id

    async def next(self) -> Frame | None:
        """The next frame, or None at the end of the stream. Fails after DEADLINE_S of waiting."""
        async with asyncio.timeout(DEADLINE_S):
            while not self._waiting:
                try:
                    chunk = await anext(self._chunks)
                except StopAsyncIteration:
                    self._reader.end()
                    return None
                self._waiting = self._reader.feed(chunk)
        frame = self._waiting.pop(0)
        self.received.frames.append(frame)
        return frame

    async def token(self) -> str:
        """The text of the next frame, which must be a token."""
        frame = await self.next()
        assert frame is not None, "the stream is over"
        assert frame.type == "token", f"{frame} is no token"
        return str(frame.data["content"])

    async def until(self, text: str) -> None:
        """Read until all that was heard is this text."""
        while self.received.text != text:
            assert text.startswith(self.received.text), f"heard {self.received.text!r} on the way to {text!r}"
            await self.token()

    async def rest(self) -> ReadStream:
        """Everything up to the end."""
        while await self.next():
            pass
        return self.received
