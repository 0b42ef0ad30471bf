"""The product as a test meets it: running, over HTTP, with a scripted Claude behind it.

    async with serve_here(tmp_path / "a.db", far, heartbeat_s=0.1) as api:      # in this process, on Hypercorn
        ada = await api.make_staff(persona="Brief.")
        heard = await api.ask(ada, "Hi")                    # the whole stream, checked against the contract
        async with api.stream(ada, "Hi") as hearing:        # or frame by frame
            frame = await hearing.next()

    async with start_server(tmp_path / "a.db", far) as server:                  # as a process of its own
        server.api ...
        server.process.kill()

Streams are read by frames.py.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from hypercorn.asyncio import serve as serve_asgi
from hypercorn.config import Config
from starlette.requests import Request as StarletteRequest
from starlette.types import ASGIApp

from staffstream.api.auth import Identify
from staffstream.app import Staffstream, create_app
from staffstream.cli.http_server import HttpServer
from staffstream.cli.server import offer_writers
from staffstream.domain import Role
from staffstream.settings import Settings
from staffstream.storage import keys
from tests.tools.databases import connect, find_place, prepare, transact, write_place
from tests.tools.frames import Json, ReadStream, StreamReader
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S

KEY = "sk-ant-test"


def require_tool(name: str, how: str) -> str:
    """The path of a program. Without it the test is left out with a word on how to get it; where CI is set it fails."""
    if path := shutil.which(name):
        return path
    leave_out(f"{name} is missing; get it with: {how}")


def leave_out(reason: str) -> NoReturn:
    """Skip the test for something that this machine lacks; where CI is set nothing may lack."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


# ── the API as its clients use it ────────────────────────────────────────────────────────────────────────────────────


class Api:
    """The calls that tests make, over one real HTTP client."""

    def __init__(self, url: str, http: httpx.AsyncClient, app: Staffstream | None = None) -> None:
        self.url = url
        self.http = http
        self._app = app

    @property
    def app(self) -> Staffstream:
        """The app itself, when it runs in this process."""
        assert self._app is not None
        return self._app

    async def get(self, path: str, status: int = 200, **options: Any) -> Any:
        """The JSON at a path below /api/v1."""
        return _read_json(await self.http.get(path, **options), status)

    async def post(self, path: str, body: Any = None, status: int = 200, **options: Any) -> Any:
        """The JSON that answers a POST."""
        return _read_json(await self.http.post(path, json=body, **options), status)

    async def patch(self, path: str, body: Any, status: int = 200) -> Any:
        """The JSON that answers a PATCH."""
        return _read_json(await self.http.patch(path, json=body), status)

    async def delete(self, path: str) -> None:
        """Erase what is at a path."""
        response = await self.http.delete(path)
        assert (response.status_code, response.content) == (204, b""), response.text

    async def make_staff(self, name: str = "Ada", **fields: Any) -> str:
        """The id of a new staff member."""
        return str((await self.post("/staff", {"name": name, **fields}, 201))["id"])

    async def send(self, staff_id: str, content: str, status: int = 202, *, key: str | None = None, **body: Any) -> Any:
        """Ask by the asynchronous mode."""
        path = f"/staff/{staff_id}/messages"
        return await self.post(path, {"content": content, **body}, status, headers=_key_header(key))

    @contextlib.asynccontextmanager
    async def open(self, method: str, path: str, **options: Any) -> AsyncIterator[StreamReader]:
        """Any request whose answer is a stream."""
        async with self.http.stream(method, path, **options) as response:
            yield StreamReader(response)

    def stream(
        self, staff_id: str, content: str, *, key: str | None = None, status_events: bool = False, **body: Any
    ) -> contextlib.AbstractAsyncContextManager[StreamReader]:
        """Ask, and hear the reply as it is made."""
        return self.open(
            "POST",
            f"/staff/{staff_id}/messages/stream",
            json={"content": content, **body},
            headers=_key_header(key),
            params={"events": "status"} if status_events else {},
        )

    def join(
        self, staff_id: str, run_id: str, after: int | str | None = None, *, last_event_id: str | None = None
    ) -> contextlib.AbstractAsyncContextManager[StreamReader]:
        """Join a run's stream."""
        return self.open(
            "GET",
            f"/staff/{staff_id}/runs/{run_id}/stream",
            params={} if after is None else {"after": str(after)},
            headers={} if last_event_id is None else {"Last-Event-ID": last_event_id},
        )

    async def ask(self, staff_id: str, content: str, **options: Any) -> ReadStream:
        """Ask, and read the whole answer: a stream that must end well formed, or a problem."""
        async with self.stream(staff_id, content, **options) as stream_reader:
            return await finish_hearing(stream_reader)

    async def rejoin(self, staff_id: str, run_id: str, after: int | str | None = None, **options: Any) -> ReadStream:
        """Join a run's stream, and read it to its end."""
        async with self.join(staff_id, run_id, after, **options) as stream_reader:
            return await finish_hearing(stream_reader)

    async def run(self, staff_id: str, run_id: str) -> Any:
        """The run as it stands."""
        return await self.get(f"/staff/{staff_id}/runs/{run_id}")

    async def ended_run(self, staff_id: str, run_id: str) -> Any:
        """The run, once it has ended: its stream is what tells when."""
        await self.rejoin(staff_id, run_id)
        return await self.run(staff_id, run_id)

    async def cancel(self, staff_id: str, run_id: str) -> Any:
        """Stop the run; how it ended."""
        return await self.post(f"/staff/{staff_id}/runs/{run_id}/cancel")

    async def messages(self, staff_id: str, **query: Any) -> list[Any]:
        """The messages of a conversation, newest first."""
        found: list[Any] = await self.get(f"/staff/{staff_id}/messages", params=query)
        return found

    async def said(self, staff_id: str, **query: Any) -> list[str]:
        """What the messages say, oldest first."""
        return [message["content"] for message in reversed(await self.messages(staff_id, **query))]


async def finish_hearing(stream_reader: StreamReader) -> ReadStream:
    """The whole answer: every frame and exactly one end, or the problem document."""
    received = stream_reader.received
    if received.status != 200:
        await stream_reader.response.aread()
        received.problem = read_problem(stream_reader.response)
        return received
    assert received.headers["content-type"] == "text/event-stream"
    await stream_reader.rest()
    assert received.end
    return received


PROBLEM_FIELDS = {"type", "title", "status", "detail", "code", "retryable", "request_id"}


def read_problem(response: httpx.Response) -> Json:
    """The problem document of a response. Fails if it is not one as the contract has it."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem: Json = response.json()
    assert problem.keys() >= PROBLEM_FIELDS
    assert problem["status"] == response.status_code
    assert isinstance(problem["detail"], str)
    assert problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]
    if response.status_code in (429, 503):
        assert int(response.headers["retry-after"]) >= 0
    return problem


def _read_json(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, f"{response.status_code}: {response.text[:500]}"
    return read_problem(response) if status >= 400 else response.json()


def _key_header(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}


@contextlib.asynccontextmanager
async def open_api(url: str, app: Staffstream | None = None) -> AsyncIterator[Api]:
    """A client for a server that runs at `url`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=f"{url}/api/v1", timeout=DEADLINE_S, limits=limits, trust_env=False, verify=False
    ) as client:  # certificates that no loopback address needs take 30 ms to load
        yield Api(url, client, app)


# ── a server in this process ─────────────────────────────────────────────────────────────────────────────────────────


def make_settings(db: Path, provider: ScriptedProvider | None = None, **settings: Any) -> Settings:
    """Settings for a database, with the provider as Claude, or the stand-in at full speed."""
    claude: Json = (
        {"anthropic_api_key": KEY, "anthropic_base_url": provider.url}
        if provider
        else {"offline": True, "offline_pace_s": 0}
    )
    return Settings(**{"db": find_place(db), "port": 0, **claude, **settings})


@contextlib.asynccontextmanager
async def serve_here(
    db: Path, provider: ScriptedProvider | None = None, *, identify: Identify | None = None, **settings: Any
) -> AsyncIterator[Api]:
    """The app on Hypercorn in this process, over a real loopback port, with the server's own writer."""
    app = create_app(make_settings(db, provider, **settings), identify=identify)
    async with (
        app.running(),
        serve_as_command(app, slow_reader_s=app.state.services.settings.slow_reader_s) as url,
        open_api(url, app) as api,
    ):
        try:
            yield api
        finally:
            await app.drain(0)


@contextlib.asynccontextmanager
async def serve_as_command(app: ASGIApp, *, slow_reader_s: float = DEADLINE_S, fast: bool = True) -> AsyncIterator[str]:
    """Any ASGI app as `staffstream serve` serves ours, but without its lifespan; gives the URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with HttpServer(offer_writers(app, fast=fast), listener, slow_reader_s=slow_reader_s):
        yield url


async def name_user(request: StarletteRequest) -> str:
    """An `identify` for a host that knows its users: by a header of its own."""
    return request.headers.get("x-user", "kim")


@contextlib.asynccontextmanager
async def serve_asgi_here(app: ASGIApp) -> AsyncIterator[str]:
    """Any ASGI app on Hypercorn in this process, its lifespan included; gives the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = Config()
        config.bind = [f"fd://{listener.detach()}"]
        config.graceful_timeout = 1.0
        config.accesslog = None
        started, stop = asyncio.Event(), asyncio.Event()

        async def wait_for_end() -> None:
            started.set()
            await stop.wait()

        serving = asyncio.create_task(serve_asgi(app, config, shutdown_trigger=wait_for_end))  # type: ignore[arg-type]
        begun = asyncio.create_task(started.wait())
        await asyncio.wait([serving, begun], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            begun.cancel()
            await serving
        try:
            yield url
        finally:
            stop.set()
            await serving


# ── a server process ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class ServerProcess:
    """`staffstream serve` as its operator starts it."""

    process: "subprocess.Popen[str]"
    url: str
    api: Api
    db: Path
    log_file: Path

    @property
    def log(self) -> str:
        """What it has written to stderr so far."""
        return self.log_file.read_text("utf-8")

    async def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Its exit status, once it has ended."""
        return await asyncio.to_thread(self.process.wait, timeout_s)

    async def stop(self) -> int:
        """Ask it to end (SIGTERM); its exit status."""
        self.process.terminate()
        return await self.wait()

    async def kill(self) -> None:
        """End it at once, as a crash would (SIGKILL)."""
        self.process.kill()
        await self.wait()

    async def freeze(self) -> None:
        """Stop it (SIGSTOP) between two of its transactions: within one it would keep everybody from writing."""
        with contextlib.closing(connect(self.db)) as connection, transact(connection):
            self.process.send_signal(signal.SIGSTOP)
            await asyncio.to_thread(os.waitid, os.P_PID, self.process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


def make_environment(db: Path, provider: ScriptedProvider | None = None, **variables: str) -> dict[str, str]:
    """A server's environment: nothing of this one's but the paths."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME", "LANG") if name in os.environ}
    claude = (
        {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": provider.url} if provider else {"STAFFSTREAM_OFFLINE": "1"}
    )
    return kept | {"STAFFSTREAM_DB": write_place(db), "STAFFSTREAM_PORT": "0"} | claude | variables


@contextlib.asynccontextmanager
async def start_server(
    db: Path,
    provider: ScriptedProvider | None = None,
    *flags: str,
    python: str = sys.executable,
    variables: Mapping[str, str] | None = None,
    command: Sequence[str] = ("-m", "staffstream", "serve"),
) -> AsyncIterator[ServerProcess]:
    """A server process that answers requests; killed at the end if it still runs."""
    log_file = db.with_suffix(".log")
    with log_file.open("a") as log:
        process = subprocess.Popen(
            [python, *command, *flags],
            env=make_environment(db, provider, **(variables or {})),
            cwd=db.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        url = await _read_url(process, log_file)
        async with open_api(url) as api:
            _read_json(await api.http.get(f"{url}/healthz"), 200)
            yield ServerProcess(process, url, api, db, log_file)
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
        assert process.stdout is not None
        process.stdout.close()


async def _read_url(process: "subprocess.Popen[str]", log_file: Path) -> str:
    """The address in the banner, which is printed once requests are answered."""
    assert process.stdout is not None
    alarm = asyncio.get_running_loop().call_later(DEADLINE_S, process.kill)
    line = await asyncio.to_thread(process.stdout.readline)
    alarm.cancel()
    found = re.search(r"http://\S+(?=,)", line)
    assert found, f"no banner but {line!r}:\n{log_file.read_text('utf-8')[-4000:]}"
    return found[0]


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_keys(db: Path, **roles: Role) -> dict[str, dict[str, str]]:
    """Keys in the file, by their users' names, as the headers that carry them: `make_keys(db, ada="admin")`."""
    prepare(db)
    with contextlib.closing(connect(db)) as connection, transact(connection):
        made = {name: keys.create_key(connection, name, role=role)[1] for name, role in roles.items()}
    return {name: {"Authorization": f"Bearer {text}"} for name, text in made.items()}
