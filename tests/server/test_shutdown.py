"""SIGTERM and SIGINT: no new runs, running ones get their grace, every stream its last frame, and the process ends,
whoever still holds a connection. On the oldest supported Python and on one of those on which Hypercorn alone would not
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

from tests.far_end import DEADLINE_S, PIECES, STREAM_HEAD, FarEnd, Gate, Reply, Stall, steps
from tests.frames import Heard
from tests.server import Api, ServerProcess, finish_hearing, leave_out, serve_here, start_server

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
async def _server(db: Path, far: FarEnd, python: str, grace_s: float) -> AsyncIterator[ServerProcess]:
    """A server that has to be ended by the test, within its grace and with nothing odd in its log."""
    async with start_server(db, far, "--shutdown-grace-s", str(grace_s), python=python) as server:
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_running_replies_are_finished(db: Path, far: FarEnd, python: str, number: signal.Signals) -> None:
    """Within the grace a reply goes on to its done; meanwhile new ones are refused, and running ones can be joined."""
    gate = far.hold()
    gate.release(1)
    async with _server(db, far, python, 30) as server:
        api = server.api
        ada, bob = await api.make_staff(), await api.make_staff("Bob")
        async with api.stream(ada, "Hi") as hearing:
            await hearing.token()
            _end(server, number)
            await _wait_draining(server)
            refused = await api.ask(bob, "Hi")
            assert (refused.status, refused.problem["code"], refused.problem["retryable"]) == (503, "draining", True)
            assert (await api.send(bob, "Hi", 503))["code"] == "draining"
            assert (await api.http.get(f"{server.url}/healthz")).status_code == 200
            async with api.join(ada, hearing.run_id) as joined:
                gate.open()
                assert (await joined.rest()).text == (await hearing.rest()).text == SAID
                assert hearing.heard.end["type"] == joined.heard.end["type"] == "done"
    assert len(far.chats) == 1


async def test_a_reply_that_outlasts_the_grace(db: Path, far: FarEnd, python: str) -> None:
    """It ends with an error that may be tried again, its text saved; after the restart all is as was told."""
    gate = far.hold()
    gate.release(2)
    far.script(Reply(head_gate=Gate()))
    async with _server(db, far, python, 0.3) as server:
        api = server.api
        ada, bob = await api.make_staff(), await api.make_staff("Bob")
        async with api.stream(ada, "Hi") as hearing:
            await hearing.until("Hello from")
            async with api.stream(bob, "Hi") as silent:
                await far.arrived(2)
                _end(server)
                heard, nothing = await hearing.rest(), await silent.rest()
        assert (heard.end["code"], heard.end["retryable"]) == ("server_shutdown", True)
        assert (nothing.end["code"], nothing.end["message_id"]) == ("server_shutdown", None)
    async with start_server(db, far) as again:
        run = await again.api.run(ada, hearing.run_id)
        assert (run["state"], run["error"]["code"], run["partial_text"]) == ("failed", "server_shutdown", "Hello from")
        reply = (await again.api.messages(ada))[0]
        assert (reply["id"], reply["status"], reply["content"]) == (
            heard.end["message_id"],
            "interrupted",
            "Hello from",
        )
        assert (await again.api.rejoin(ada, hearing.run_id)).end == heard.end
        assert (await again.api.ask(ada, "Go on")).text == SAID


async def test_a_second_signal_ends_the_grace(db: Path, far: FarEnd, python: str) -> None:
    """Whoever is in a hurry says it twice."""
    gate = far.hold()
    gate.release(1)
    async with _server(db, far, python, 5) as server:  # the fixture waits for 5 s more than ENDING_S
        ada = await server.api.make_staff()
        async with server.api.stream(ada, "Hi") as hearing:
            await hearing.token()
            began = time.monotonic()
            _end(server)
            await _wait_draining(server)
            _end(server, signal.SIGINT)
            assert (await hearing.rest()).end["code"] == "server_shutdown"
        await server.wait()
        assert time.monotonic() - began < 5


async def test_what_is_queued_stays_queued(db: Path, far: FarEnd, python: str) -> None:
    """Waiting questions are answered by the next start; so is an asynchronous one that had begun and said nothing.
    Whoever was waiting for one of them is told to come back.
    """
    far.script(Reply(head_gate=Gate()), Reply(head_gate=Gate()))
    async with _server(db, far, python, 0.3) as server:
        api = server.api
        ada, bob = await api.make_staff(), await api.make_staff("Bob")
        begun = (await api.send(bob, "begun"))["run_id"]
        await far.arrived(1)
        async with api.stream(ada, "1") as first:
            await far.arrived(2)
            queued = (await api.send(ada, "2"))["run_id"]
            async with api.stream(ada, "3", multitask_strategy="enqueue") as third:
                _end(server)
                assert (await first.rest()).end["code"] == "server_shutdown"
                waiting = await third.rest()
                assert (waiting.end["code"], waiting.end["retryable"]) == ("draining", True)
    async with start_server(db, far) as again:
        for staff_id, run_id in ((bob, begun), (ada, queued), (ada, third.run_id)):
            assert (await again.api.ended_run(staff_id, run_id))["state"] == "done"
        assert await again.api.said(ada) == ["1", "2", SAID, "3", SAID]
        assert await again.api.said(bob) == ["begun", SAID]


async def test_a_reader_of_a_run_that_is_put_back(db: Path, far: FarEnd, python: str) -> None:
    """Following an asynchronous run costs it nothing: it is put back all the same, and its reader told to come back."""
    far.script(Reply(head_gate=Gate()))
    async with _server(db, far, python, 0.3) as server:
        ada = await server.api.make_staff()
        run_id = (await server.api.send(ada, "Hi"))["run_id"]
        await far.arrived(1)
        async with server.api.join(ada, run_id) as hearing:
            _end(server)
            heard = await hearing.rest()
            assert (heard.text, heard.end["code"]) == ("", "draining")
    async with start_server(db, far) as again:
        assert (await again.api.rejoin(ada, run_id)).text == SAID


async def test_a_job_that_hangs(db: Path, far: FarEnd, python: str) -> None:
    """Background work that waits for Claude holds nobody up; it is done again by the next start."""
    far.script_structured(steps(STREAM_HEAD, Stall()))
    async with start_server(db, far, "--extract-every-messages", "2", python=python) as server:
        ada = await server.api.make_staff()
        await server.api.ask(ada, "My name is Kim.")
        await far.arrived(2)
        _end(server)
        assert await server.wait(ENDING_S) == 0
        assert "Traceback" not in server.log
    async with start_server(db, far, "--extract-every-messages", "2"):
        assert (await far.arrived(3)).schema


# ── connections that hold on ─────────────────────────────────────────────────────────────────────────────────────────


async def test_nothing_open(db: Path, far: FarEnd, python: str) -> None:
    """With nothing to wait for it just ends, however long the grace."""
    async with _server(db, far, python, 0) as server:
        _end(server)
    async with start_server(db, far, "--shutdown-grace-s", "600", python=python) as server:
        ada = await server.api.make_staff()
        await server.api.ask(ada, "Hi")
        _end(server)
        assert await server.wait(ENDING_S) == 0


async def test_idle_and_half_sent_connections(db: Path, far: FarEnd, python: str) -> None:
    """A kept-alive connection, one that has sent nothing, and ones in the middle of their head or body hold nobody
    up.
    """
    async with _server(db, far, python, 1) as server:
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


async def test_a_reader_that_takes_nothing(db: Path, far: FarEnd, python: str) -> None:
    """One whose buffers are full, so that not even its last frame can be sent, holds nobody up."""
    gate = far.hold(["many words " * 9_000] * 20)
    gate.release(20)
    async with _server(db, far, python, 1) as server:
        ada = await server.api.make_staff()
        async with server.api.stream(ada, "Hi") as hearing:
            place = urlsplit(server.url)
            with socket.socket() as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                slow.connect((place.hostname, place.port))
                path = f"/api/v1/staff/{ada}/runs/{hearing.run_id}/stream"
                slow.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await hearing.until("many words " * 180_000)
                _end(server)
                assert (await hearing.rest()).end["code"] == "server_shutdown"
                assert await server.wait(1 + ENDING_S) == 0


async def test_ending_amid_a_crowd(db: Path, far: FarEnd, python: str) -> None:
    """Whoever asks in that moment gets a whole stream, a refusal or no answer at all, and what was accepted is kept."""
    far.default = Reply(delay_s=0.01)
    async with _server(db, far, python, 1) as server:
        staff = [await server.api.make_staff(f"S{n}") for n in range(20)]
        asking = [asyncio.create_task(_ask_on(server.api, each)) for each in staff]
        await far.arrived(30)
        _end(server)
        heard = [each for answers in await asyncio.gather(*asking) for each in answers]
    accepted = [each for each in heard if each.status == 200]
    assert {each.status for each in heard} <= {200, 503}
    for each in accepted:
        assert each.end["type"] == "done" or each.end["code"] in ("server_shutdown", "draining")
    async with start_server(db, far) as again:
        kept = {m["id"] for each in staff for m in await again.api.messages(each, limit=200)}
        assert {each.headers["x-user-message-id"] for each in accepted} <= kept
        assert {each.end["message_id"] for each in accepted if each.end["message_id"]} <= kept


async def _ask_on(api: Api, staff_id: str) -> list[Heard]:
    """Ask until the server refuses or is gone."""
    heard: list[Heard] = []
    with contextlib.suppress(httpx.TransportError):
        while not heard or heard[-1].status == 200:
            async with api.stream(staff_id, "Hi") as hearing:
                heard.append(await finish_hearing(hearing))
    return heard


# ── inside a host ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_leaving_the_lifespan_ends_what_runs(db: Path, far: FarEnd) -> None:
    """A host that just leaves the lifespan, with no drain of its own, loses nothing either."""
    gate = far.hold()
    gate.release(2)
    async with serve_here(db, far) as api:
        ada = await api.make_staff()
        async with api.stream(ada, "Hi") as hearing:
            await hearing.until("Hello from")
    async with serve_here(db, far) as api:
        run = await api.run(ada, hearing.run_id)
        assert (run["state"], run["error"]["code"], run["partial_text"]) == ("failed", "server_shutdown", "Hello from")
