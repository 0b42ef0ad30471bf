"""The readers of a bench: one protocol a connection, no task, so that they cost little beside what is measured."""

import asyncio
import contextlib
import json
import re
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any, cast

_STAMP = re.compile(rb'"content":"(\d{19}) "')
API = "/api/v1"
USER_NAME = "Kim"
QUESTION = "What did we say about the boat? Tell me at length, please."

_END = b"0\r\n\r\n"


@dataclass(frozen=True)
class Marks:
    """What a server's bytes are known by: a token, and a reply's good end."""

    token: bytes = b'"token"'
    end: bytes = b'"done"'


OURS = Marks()
UPSTREAM = Marks(token=b'"text_delta"', end=b'"message_stop"')


class Reader(asyncio.Protocol):
    """One request and its response, counted as it comes. Times are in ns on the monotonic clock.

    With `stamped`, each token is the moment it was sent at; `delays_ns` holds how long each took to get here, and
    `arrivals_ns` when that was.
    """

    def __init__(self, marks: Marks = OURS, *, stamped: bool = False) -> None:
        self.tokens = 0
        self.bytes = 0
        self.status = 0
        self.asked_ns = self.head_ns = self.first_ns = self.stamp_ns = 0
        self.delays_ns = array("q")
        self.arrivals_ns = array("q")
        self.ended_well = False
        self.over = asyncio.get_running_loop().create_future()
        self._marks = marks
        self._stamped = stamped
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._finish()

    def make_next(self) -> "Reader":
        """A reader for the next request over the same connection."""
        reader = Reader(self._marks, stamped=self._stamped)
        reader.transport = self.transport
        self.transport.set_protocol(reader)
        return reader

    def ask(self, request: bytes) -> None:
        """Send the request."""
        self.asked_ns = time.monotonic_ns()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        self.bytes += len(data)
        if not self.status:
            data = self._rest = self._rest + data
            if b"\r\n\r\n" not in data:
                return
            self.status, self.head_ns, self._rest = int(data[9:12]), now_ns, b""
        data = self._rest + data
        if self._stamped:
            self._read_stamps(data, now_ns)
        elif found := data.count(self._marks.token):
            self.first_ns = self.first_ns or now_ns
            self.tokens += found
        if not self.ended_well and self._marks.end in data:
            self.ended_well = True
        if data.endswith(_END) or (self.status != 200 and data.endswith(b"}")):
            self._finish()
        # A frame that is cut in two waits for its other half: stamps are read from whole frames, marks from lines.
        self._rest = data[data.rfind(b"\n\n" if self._stamped else b"\n") + 1 :]

    def _read_stamps(self, data: bytes, now_ns: int) -> None:
        for stamp in _STAMP.findall(data):
            if not self.tokens:
                self.first_ns, self.stamp_ns = now_ns, int(stamp)
            self.delays_ns.append(now_ns - int(stamp))
            self.arrivals_ns.append(now_ns)
            self.tokens += 1

    def _finish(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


@contextlib.asynccontextmanager
async def connect(port: int, count: int, marks: Marks = OURS, *, stamped: bool = False) -> AsyncIterator[list[Reader]]:
    """Readers whose connections stand, closed at the block's end."""
    loop = asyncio.get_running_loop()
    subscribers: list[Reader] = []
    try:
        for _ in range(count):
            _, reader = await loop.create_connection(lambda: Reader(marks, stamped=stamped), "127.0.0.1", port)
            subscribers.append(reader)
        yield subscribers
    finally:
        for reader in subscribers:
            reader.transport.abort()


async def ask_all(subscribers: Sequence[Reader], requests: Sequence[bytes], *, limit_s: float) -> None:
    """Send every request and return when every response is over. Raises TimeoutError, or RuntimeError for a response
    that failed: a bench that lost a reply has nothing to report.
    """
    for reader, request in zip(subscribers, requests, strict=True):
        reader.ask(request)
    async with asyncio.timeout(limit_s):
        await asyncio.gather(*(reader.over for reader in subscribers))
    if bad := [reader.status for reader in subscribers if not 200 <= reader.status < 300]:
        raise RuntimeError(f"{len(bad)} of {len(subscribers)} requests failed, the first with status {bad[0]}")


async def measure_shares(port: int, requests: Sequence[bytes]) -> list[float]:
    """For each request, asked one after another over one connection, as a browser does, the ms from it to ours at a far
    end that stamps.
    """
    shares_ms = []
    async with connect(port, 1, stamped=True) as subscribers:
        for request in requests:
            await ask_all(subscribers, [request], limit_s=300)  # a large scope is read into memory first
            shares_ms.append((subscribers[0].stamp_ns - subscribers[0].asked_ns) / 1e6)
            subscribers[0] = subscribers[0].make_next()
    return shares_ms


def write_post(path: str, body: Any, key: str | None = None) -> bytes:
    """A POST as bytes, with an API key if there is one."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {key}\r\n" if key else ""
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


def write_questions(port: int, count: int, mode: str = "messages/stream") -> list[bytes]:
    """One request a conversation, with a new staff member, on one server of ours."""
    staff_id = call(port, "POST", "/staff", {"name": "Bench", "persona": "You are brief."})["id"]
    return write_requests(port, staff_id, [QUESTION] * count, mode)


def write_requests(port: int, staff_id: str, questions: Sequence[str], mode: str = "messages/stream") -> list[bytes]:
    """One request a question, each in a new conversation."""
    path = f"/staff/{staff_id}/conversations"
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        threads = [_call(connection, "POST", path, {"user_name": USER_NAME})["id"] for _ in questions]
    return [
        write_post(f"{API}/staff/{staff_id}/{mode}", {"content": question, "conversation_id": thread})
        for question, thread in zip(questions, threads, strict=True)
    ]


def call(port: int, method: str, path: str, body: Any = None) -> Any:
    """The JSON that a server of ours answers to one call. Raises RuntimeError when it refuses."""
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        return _call(connection, method, path, body)


def _call(connection: HTTPConnection, method: str, path: str, body: Any) -> Any:
    data = None if body is None else json.dumps(body)
    connection.request(method, API + path, data, {"content-type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if not 200 <= response.status < 300:
        raise RuntimeError(f"{path} answered {response.status}: {answer}")
    return answer
