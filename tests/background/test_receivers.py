"""The receivers of docs/ASYNC_AND_WEBHOOKS.md, run as the page has them, in front of a real server."""

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from staffstream.background.webhooks import sign_webhook
from staffstream.storage.staff import make_webhook_secret
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Reply
from tests.tools.server import leave_out, require_tool, serve_here
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "ASYNC_AND_WEBHOOKS.md"
ESBUILD = Path(__file__).parents[1] / "node" / "node_modules" / ".bin" / "esbuild"
SECRET = make_webhook_secret()


def read_example(language: str) -> str:
    """The one block in this language."""
    [code] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return str(code)


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def prepare_python(folder: Path, port: int) -> list[str]:
    (folder / "receiver.py").write_text(read_example("python"), "utf-8")
    return [sys.executable, "-u", "-m", "uvicorn", "receiver:app", "--port", str(port), "--log-level", "warning"]


def prepare_typescript(folder: Path, port: int) -> list[str]:
    node = require_tool("node", "apt-get install nodejs")
    if not ESBUILD.exists():
        leave_out("the node packages are missing; get them with: npm ci --prefix tests/node")
    (folder / "receiver.ts").write_text(read_example("typescript"), "utf-8")
    subprocess.run([ESBUILD, "receiver.ts", "--outfile=receiver.mjs", "--log-level=error"], cwd=folder, check=True)
    return [node, "receiver.mjs"]


class Running:
    """A receiver at work: where it listens, and what it has printed."""

    def __init__(self, url: str, output: Path) -> None:
        self.url = url
        self._output = output

    @property
    def lines(self) -> list[str]:
        return self._output.read_text("utf-8").splitlines()


@pytest.fixture(params=[prepare_python, prepare_typescript], ids=["python", "typescript"])
async def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    port = find_free_port()
    command = request.param(tmp_path, port)
    output = tmp_path / "output"
    variables = {"PATH": os.environ["PATH"], "WEBHOOK_SECRET": SECRET, "PORT": str(port), "PYTHONIOENCODING": "utf-8"}
    with output.open("w") as file:
        process = subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=file, stdin=subprocess.DEVNULL)
    running = Running(f"http://127.0.0.1:{port}/hook", output)
    try:
        await until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None
        yield running
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


async def test_the_receiver_takes_what_the_server_sends(
    receiver: Running, db: Path, provider: ScriptedProvider
) -> None:
    """Signed with one secret or, after a rotation, with two; each event is acted on once."""
    provider.default = Reply(["Good", " morning 🌞"])
    async with serve_here(db, provider, webhook_allow_private=("127.0.0.1",)) as api:
        ada = await api.make_staff(webhook_url=receiver.url, webhook_secret=SECRET)
        await api.send(ada, "Hi")
        await until(lambda: receiver.lines)
        await api.http.patch(f"/staff/{ada}", json={"webhook_secret": make_webhook_secret()})
        await api.ask(ada, "Hi")
        await until(lambda: len(receiver.lines) == 2)
        [first, _] = await api.get(f"/staff/{ada}/deliveries")
        await api.post(f"/staff/{ada}/deliveries/{first['id']}/redeliver", status=202)

        async def is_sent_again() -> bool:
            found = await api.get(f"/staff/{ada}/deliveries/{first['id']}")
            return [attempt["status"] for attempt in found["attempts"]] == [204, 204]

        await until(is_sent_again)
    assert receiver.lines == ["message.completed Good morning 🌞"] * 2


@pytest.mark.parametrize("wrong", ["secret", "body", "id", "time", "old", "version", "none", "garbage"])
async def test_the_receiver_refuses_what_is_not_the_servers(receiver: Running, wrong: str) -> None:
    """Another secret, a changed part, an old request sent again, or no signature at all: 401, and nothing is done."""
    body = b'{"type": "message.completed", "data": {"content": "forged"}}'
    now = int(time.time()) - (3600 if wrong == "old" else 0)
    secret = make_webhook_secret() if wrong == "secret" else SECRET
    signature = sign_webhook([secret], "d1", now, body)
    headers = {
        "webhook-id": "d2" if wrong == "id" else "d1",
        "webhook-timestamp": str(now + 1 if wrong == "time" else now),
        "webhook-signature": signature.replace("v1,", "v2,") if wrong == "version" else signature,
    }
    if wrong == "none":
        headers = {}
    if wrong == "garbage":
        headers["webhook-timestamp"] = "yesterday"
    async with httpx.AsyncClient(trust_env=False) as client:
        sent = await client.post(receiver.url, content=body + (b" " if wrong == "body" else b""), headers=headers)
    assert sent.status_code == 401
    assert receiver.lines == []
