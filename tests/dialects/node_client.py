"""Official clients of JavaScript, run in node with a few lines of code."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.tools.provider_script import DEADLINE_S
from tests.tools.server import leave_out, require_tool

NODE = Path(__file__).parent / "node"
LIBRECHAT = Path(__file__).parent / "librechat"
TORTURE = [
    "He",
    "llo\n\n",
    "data: [DONE]\n\n",
    "👩\u200d👧",
    "\u2028\u2029\x85",
    '"}',
    "\\",
    " **b**  ",
    "\r\n",
    "\0",
    "end",
]
"""A reply that a reader of lines, of JSON or of UTF-16 may break."""
LIMIT_S = 2 * DEADLINE_S  # the packages take a while to load on a busy machine


class Told:
    """What the code tells, in order."""

    def __init__(self, output: asyncio.StreamReader, errors: asyncio.StreamReader) -> None:
        self._output = output
        self._errors = errors

    async def next(self) -> Any:
        """The next value. Fails if there is none."""
        line = await self._output.readline()
        assert line, (await self._errors.read()).decode()
        return json.loads(line)

    async def rest(self) -> list[Any]:
        """All that is left."""
        return [json.loads(line) async for line in self._output]


def require_packages(folder: Path = NODE) -> str:
    """The path of node. Without it or the folder's packages the test is left out."""
    node = require_tool("node", "apt-get install nodejs")
    if not (folder / "node_modules").is_dir():
        leave_out(f"the node packages are missing; get them with: npm ci --prefix tests/dialects/{folder.name}")
    return node


@contextlib.asynccontextmanager
async def run_client(dialect: str, url: str, code: str) -> AsyncIterator[Told]:
    """Run code with a client for the URL; it must end by itself, and well."""
    async with run_script(NODE, dialect, url, code) as told:
        yield told


@contextlib.asynccontextmanager
async def run_script(folder: Path, *arguments: str) -> AsyncIterator[Told]:
    """Run a folder's client.mjs; it must end by itself, and well."""
    node = require_packages(folder)
    process = await asyncio.create_subprocess_exec(
        node, str(folder / "client.mjs"), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            yield Told(process.stdout, process.stderr)
            errors = await process.stderr.read()
            assert await process.wait() == 0, errors.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def tell_all(dialect: str, url: str, code: str) -> list[Any]:
    """All that the code tells."""
    async with run_client(dialect, url, code) as told:
        return await told.rest()


async def run_chat(url: str, code: str) -> list[Any]:
    """All that the code tells of LibreChat's chats with a server."""
    async with run_script(LIBRECHAT, f"{url}/v1", code) as told:
        return await told.rest()
