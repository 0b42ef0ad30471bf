"""A provider for embeddings, scripted answer by answer."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.tools.databases import connect

ScriptedResponse = tuple[int, dict[str, str], Any]


class EmbeddingServer:
    """An HTTP provider on a real socket that answers with what it was told, and remembers what it was asked."""

    def __init__(self, *answers: ScriptedResponse | Callable[[dict[str, Any]], ScriptedResponse]) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.headers: list[str] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
        self.headers.append(head)
        self.asked.append(json.loads(await reader.readexactly(length)))
        answer = self.answers.pop(0)
        status, headers, body = answer(self.asked[-1]) if callable(answer) else answer
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"content-length": str(len(content)), "connection": "close"} | headers
        writer.write(f"HTTP/1.1 {status} X\r\n".encode())
        writer.write("".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode() + b"\r\n" + content)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


def answer_well(asked: dict[str, Any]) -> ScriptedResponse:
    """One vector a text, in the wrong order; the text's length is in it."""
    data = [{"index": n, "embedding": [len(text), 1.0, 0.0]} for n, text in enumerate(asked["input"])]
    return 200, {}, {"data": data[::-1]}


def count_vectors(db: Path) -> int:
    """How many memories in a file have a vector."""
    with contextlib.closing(connect(db)) as connection:
        return int(connection.execute("SELECT count(vector) FROM memory_vectors").fetchone()[0])
