"""A webhook's receiver on a real socket: does what it is told to, and keeps what it got.

async with Receiver() as receiver:                       # receiver.url
    receiver.script(ScriptedResponse(503), ScriptedResponse(200))   # one a request, in order; then 204
    got = await receiver.arrived(2)                      # the second request, once it is here
    got.verify(secret)                                   # by the reference library
"""

import asyncio
import contextlib
import json
import ssl
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from staffstream.background.public_addresses import Resolve
from tests.tools.provider_script import DEADLINE_S, Counter, Gate


@dataclass(frozen=True)
class ScriptedResponse:
    """What to answer. `raw` replaces all of it; a gate holds it back, or for ever if it is never opened; with `drip_s`
    it comes byte by byte, and with `stays` the connection stays open after it.
    """

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None
    gate: Gate | None = None
    drip_s: float | None = None
    stays: bool = False

    def encode(self) -> bytes:
        if self.raw is not None:
            return self.raw
        lines = [f"HTTP/1.1 {self.status} Whatever", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body

    def split(self) -> list[bytes]:
        """What is written at once."""
        data = self.encode()
        return [data] if self.drip_s is None else [data[n : n + 1] for n in range(len(data))]


@dataclass(frozen=True)
class Got:
    """A request as it arrived."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    def verify(self, secret: str) -> Any:
        """The event, if the reference library takes its signature. Raises WebhookVerificationError."""
        return Webhook(secret).verify(self.body, self.headers)

    def is_signed_by(self, secret: str) -> bool:
        try:
            self.verify(secret)
        except WebhookVerificationError:
            return False
        return True


class Receiver:
    """Listens on loopback, with TLS if it is given a context."""

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self.got: list[Got] = []
        self.server_names: list[str | None] = []
        self._answers: deque[ScriptedResponse] = deque()
        self._count = Counter()
        self._ssl_context = ssl_context
        self._tasks: set[asyncio.Task[None]] = set()
        if ssl_context:
            ssl_context.sni_callback = lambda _, name, __: self.server_names.append(name)

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def script(self, *answers: ScriptedResponse) -> None:
        """What the next requests are answered with, one each; after them it is 204."""
        self._answers.extend(answers)

    async def arrived(self, number: int = 1) -> Got:
        """The number-th request. Fails after DEADLINE_S."""
        async with asyncio.timeout(DEADLINE_S):
            await self._count.reach(number)
        return self.got[number - 1]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._ssl_context)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._answer(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            self.got.append(Got(head[0], headers, await reader.readexactly(int(headers["content-length"]))))
            answer = self._answers.popleft() if self._answers else ScriptedResponse()
            self._count.add()
            if answer.gate:
                await answer.gate.pass_through()
            for part in answer.split():
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(answer.drip_s or 0)
            if answer.stays:
                await reader.read()


def answer_names(*rounds: list[str]) -> tuple[Resolve, list[tuple[str, int]]]:
    """A resolver that gives each of these in turn, the last one for ever, and what it was asked."""
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return rounds[min(len(asked), len(rounds)) - 1]

    return resolve, asked
