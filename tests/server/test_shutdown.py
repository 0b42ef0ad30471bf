"""SIGTERM, SIGINT and SIGHUP: no new runs, running ones get their grace, every stream its last frame, and the process
ends, whoever still holds a connection. On the oldest supported Python and on one on which Hypercorn alone would not
exit (3.12 and later).
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.tools.frames import ReadStream
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S, PIECES, STREAM_HEAD, Gate, Reply, Stall, steps
from tests.tools.server import Api, ServerProcess, finish_hearing, leave_out, serve_here, start_server

pytestmark = pytest.mark.anyio

SAID = "".join(PIECES)
ROOT = Path(__file__).parents[2]
ENDING_S = 10.0
"""What a server may take to end beyond its grace before the test takes it for one that hangs. The promise is 2 s on a
machine that has nothing else to do.
"""


@pytest.fixture(scope="module", params=["3.11", "3.13"])
def python(request: pytest.FixtureRequest) -> str:
    """An interpreter of that version with the project installed."""
    version: str = request.param
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    return _install_for(version)


def _install_for(version: str) -> str:
    """A virtual environment beside this one, made at its first use and again when the dependencies change."""
    folder = ROOT / f".venv-{version}"
    mark = folder / "made-for"
    wanted = str(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"])
    if not mark.is_file() or mark.read_text("utf-8") != wanted:
        found = _find_interpreter(version)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([found, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--editable", ROOT], check=True)
        mark.write_text(wanted, "utf-8")
    return str(folder / "bin" / "python")


def _find_interpreter(version: str) -> str:
    """A Python of that version that runs: pyenv's stand-in on the PATH may not."""
    ours = (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")
    for found in (*map(str, ours), shutil.which(f"python{version}")):
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    leave_out(f"there is no Python {version}; get it with: pyenv install {version}")


@contextlib.asynccontextmanager
async def _server(db: Path, provider: ScriptedProvider, python: str, grace_s: float) -> AsyncIterator[ServerProcess]:
    """A server that has to be ended by the test, within its grace and with nothing odd in its log."""
    async with start_server(db, provider, "--shutdown-grace-s", str(grace_s), python=python) as server:
        yield server
        assert await server.wait(grace_s + ENDING_S) == 0
        assert "Traceback" not in server.log
        assert " ERROR " not in server.log
        assert "never retrieved" not in server.log


def _end(server: ServerProcess, number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(server.process.pid, number)


async def _wait_draining(server: ServerProcess) -> None:
    """Return once the server says that it is shutting down."""
    async with asyncio.timeout(DEADLINE_S):
        while (await server.api.http.get(f"{server.url}/readyz")).status_code != 503:
            await asyncio.sleep(0.01)


# ── running replies ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_running_replies_are_finished(
    db: Path, provider: ScriptedProvider, python: str, number: signal.Signals
) -> None:
    """Within the grace a reply goes on to its done; meanwhile new ones are refused, and running ones can be joined."""
    gate = provider.hold()
    gate.release(1)
    async with _server(db, provider, python, 30) as server:
        api = server.api
        ada, bob = await api.make_staff(), await api.make_staff("Bob")
        async with api.stream(ada, "Hi") as stream_reader:
            await stream_reader.token()
            _end(server, number)
            await _wait_draining(server)
            refused = await api.ask(bob, "Hi")
            assert (refused.status, refused.problem["code"], refused.problem["retryable"]) == (503, "draining", True)
            assert (await api.send(bob, "Hi", 503))["code"] == "draining"
            assert (await api.http.get(f"{server.url}/healthz")).status_code == 200
            async with api.join(ada, stream_reader.run_id) as joined:
                gate.open()
                assert (await joined.rest()).text == (await stream_reader.rest()).text == SAID
                assert stream_reader.received.end["type"] == joined.received.end["type"] == "done"
    assert len(provider.chats) == 1


async def test_a_server_that_is_to_ignore_sighup_ignores_it(db: Path, provider: ScriptedProvider) -> None:
    """As `nohup` starts it: it outlives its terminal."""
    nohup = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    )
    command = ("-c", nohup, sys.executable, "-m", "staffstream", "serve")
    async with start_server(db, provider, command=command) as server:
        _end(server, signal.SIGHUP)
        ada = await server.api.make_staff()
        assert (await server.api.ask(ada, "Hi")).text == SAID
        assert await server.stop() == 0


async def test_a_reply_that_outlasts_the_grace(db: Path, provider: ScriptedProvider, python: str) -> None:
    """It ends with an error that may be tried again, its text saved; after the restart all is as was told."""
    gate = provider.hold()
    gate.release(2)
    provider.script(Reply(head_gate=Gate()))
    async with _server(db, provider, python, 0.3) as server:
        api = server.api
        ada, bob = await api.make_staff(), await api.make_staff("Bob")
        async with api.stream(ada, "Hi") as stream_reader:
            await stream_reader.until("Hello from")
            async with api.stream(bob, "Hi") as silent:
                await provider.arrived(2)
                _end(server)
                received, nothing = await stream_reader.rest(), await silent.rest()
        assert (received.end["code"], received.end["retryable"]) == ("server_shutdown", True)
        assert (nothing.end["code"], nothing.end["message_id"]) == ("server_shutdown", None)
    async with start_server(db, provider) as again:
        run = await again.api.run(ada, stream_reader.run_id)
        assert (run["state"], run["error"]["code"], run["partial_text"]) == ("failed", "server_shutdown", "Hello from")
        reply = (await again.api.messages(ada))[0]
        assert (reply["id"], reply["status"], reply["content"]) == (
            received.end["message_id"],
            "interrupted",
            "Hello from",
        )
        assert (await again.api.rejoin(ada, stream_reader.run_id)).end == received.end
        assert (await again.api.ask(ada, "Go on")).text == SAID


async def test_a_second_signal_ends_the_grace(db: Path, provider: ScriptedProvider, python: str) -> None:
    """Whoever is in a hurry says it twice."""
    gate = provider.hold()
    gate.release(1)
    async with _server(db, provider, python, 5) as server:  # the fixture waits for 5 s more than ENDING_S
        ada = await server.api.make_staff()
        async with server.api.stream(ada, "Hi") as stream_reader:
            await stream_reader.token()
            began = time.monotonic()
            _end(server)
            await _wait_draining(server)
            _end(server, signal.SIGINT)
            assert (await stream_reader.rest()).end["code"] == "server_shutdown"
        await server.wait()
        assert time.monotonic() - began < 5


async def test_what_is_queued_stays_queued(db: Path, provider: ScriptedProvider, python: str) -> None:
    """Waiting questions are answered by the next start; so is an asynchronous one that had begun and said nothing.
    Whoever was waiting for one of them is told to come back.
    """
    provider.script(Reply(head_gate=Gate()), Reply(head_gate=Gate()))
    async with _server(db, provider, python, 0.3) as server:
        api = server.api
        ada, bob = await api.make_staff(), await api.make_staff("Bob")
        begun = (await api.send(bob, "begun"))["run_id"]
        await provider.arrived(1)
        async with api.stream(ada, "1") as first:
            await provider.arrived(2)
            queued = (await api.send(ada, "2"))["run_id"]
            async with api.stream(ada, "3", multitask_strategy="enqueue") as third:
                _end(server)
                assert (await first.rest()).end["code"] == "server_shutdown"
                waiting = await third.rest()
                assert (waiting.end["code"], waiting.end["retryable"]) == ("draining", True)
    async with start_server(db, provider) as again:
        for staff_id, run_id in ((bob, begun), (ada, queued), (ada, third.run_id)):
            assert (await again.api.ended_run(staff_id, run_id))["state"] == "done"
        assert await again.api.said(ada) == ["1", "2", SAID, "3", SAID]
        assert await again.api.said(bob) == ["begun", SAID]


async def test_a_client_of_a_run_that_is_put_back(db: Path, provider: ScriptedProvider, python: str) -> None:
    """Following an asynchronous run costs it nothing: it is put back all the same, and its client told to come back."""
    provider.script(Reply(head_gate=Gate()))
    async with _server(db, provider, python, 0.3) as server:
        ada = await server.api.make_staff()
        run_id = (await server.api.send(ada, "Hi"))["run_id"]
        await provider.arrived(1)
        async with server.api.join(ada, run_id) as stream_reader:
            _end(server)
            received = await stream_reader.rest()
            assert (received.text, received.end["code"]) == ("", "draining")
    async with start_server(db, provider) as again:
        assert (await again.api.rejoin(ada, run_id)).text == SAID


async def test_a_job_that_hangs(db: Path, provider: ScriptedProvider, python: str) -> None:
    """Background work that waits for Claude holds nobody up; it is done again by the next start."""
    provider.script_structured(steps(STREAM_HEAD, Stall()))
    async with start_server(db, provider, "--extract-every-messages", "2", python=python) as server:
        ada = await server.api.make_staff()
        await server.api.ask(ada, "My name is Kim.")
        await provider.arrived(2)
        _end(server)
        assert await server.wait(ENDING_S) == 0
        assert "Traceback" not in server.log
    async with start_server(db, provider, "--extract-every-messages", "2"):
        assert (await provider.arrived(3)).schema


# ── connections that hold on ─────────────────────────────────────────────────────────────────────────────────────────


async def test_nothing_open(db: Path, provider: ScriptedProvider, python: str) -> None:
    """With nothing to wait for it just ends, however long the grace."""
    async with _server(db, provider, python, 0) as server:
        _end(server)
    async with start_server(db, provider, "--shutdown-grace-s", "600", python=python) as server:
        ada = await server.api.make_staff()
        await server.api.ask(ada, "Hi")
        _end(server)
        assert await server.wait(ENDING_S) == 0


async def test_idle_and_half_sent_connections(db: Path, provider: ScriptedProvider, python: str) -> None:
    """A kept-alive connection, one that has sent nothing, and ones in the middle of their head or body hold nobody
    up.
    """
    async with _server(db, provider, python, 1) as server:
        place = urlsplit(server.url)
        assert place.hostname
        assert place.port
        with contextlib.ExitStack() as stack:
            for sent in (
                b"",
                b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET /heal",
                b"POST /api/v1/staff HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
            ):
                stack.enter_context(socket.create_connection((place.hostname, place.port))).sendall(sent)
            await server.api.get("/staff")
            _end(server)
            assert await server.wait(1 + ENDING_S) == 0


async def test_a_client_that_takes_nothing(db: Path, provider: ScriptedProvider, python: str) -> None:
    """One whose buffers are full, so that not even its last frame can be sent, holds nobody up."""
    gate = provider.hold(["many words " * 9_000] * 20)
    gate.release(20)
    async with _server(db, provider, python, 1) as server:
        ada = await server.api.make_staff()
        async with server.api.stream(ada, "Hi") as stream_reader:
            place = urlsplit(server.url)
            with socket.socket() as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                slow.connect((place.hostname, place.port))
                path = f"/api/v1/staff/{ada}/runs/{stream_reader.run_id}/stream"
                slow.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await stream_reader.until("many words " * 180_000)
                _end(server)
                assert (await stream_reader.rest()).end["code"] == "server_shutdown"
                assert await server.wait(1 + ENDING_S) == 0


async def test_ending_amid_a_crowd(db: Path, provider: ScriptedProvider, python: str) -> None:
    """Whoever asks in that moment gets a whole stream, a refusal or no answer at all, and what was accepted is kept."""
    provider.default = Reply(delay_s=0.01)
    async with _server(db, provider, python, 1) as server:
        staff = [await server.api.make_staff(f"S{n}") for n in range(20)]
        asking = [asyncio.create_task(_ask_on(server.api, each)) for each in staff]
        await provider.arrived(30)
        _end(server)
        received = [each for answers in await asyncio.gather(*asking) for each in answers]
    accepted = [each for each in received if each.status == 200]
    assert {each.status for each in received} <= {200, 503}
    for each in accepted:
        assert each.end["type"] == "done" or each.end["code"] in ("server_shutdown", "draining")
    async with start_server(db, provider) as again:
        kept = {m["id"] for each in staff for m in await again.api.messages(each, limit=200)}
        assert {each.headers["x-user-message-id"] for each in accepted} <= kept
        assert {each.end["message_id"] for each in accepted if each.end["message_id"]} <= kept


async def _ask_on(api: Api, staff_id: str) -> list[ReadStream]:
    """Ask until the server refuses or is gone."""
    received: list[ReadStream] = []
    with contextlib.suppress(httpx.TransportError):
        while not received or received[-1].status == 200:
            async with api.stream(staff_id, "Hi") as stream_reader:
                received.append(await finish_hearing(stream_reader))
    return received


# ── inside a host ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_leaving_the_lifespan_ends_what_runs(db: Path, provider: ScriptedProvider) -> None:
    """A host that just leaves the lifespan, with no drain of its own, loses nothing either."""
    gate = provider.hold()
    gate.release(2)
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        async with api.stream(ada, "Hi") as stream_reader:
            await stream_reader.until("Hello from")
    async with serve_here(db, provider) as api:
        run = await api.run(ada, stream_reader.run_id)
        assert (run["state"], run["error"]["code"], run["partial_text"]) == ("failed", "server_shutdown", "Hello from")
