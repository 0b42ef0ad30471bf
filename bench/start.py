"""From the command to the first answer on a new file, and the memory of a server that does nothing.

A server is ready before it has imported the provider's SDK; a reply that is asked for at once waits for that, so the
time to the first token is given too, and memory is taken after a first reply.
"""

import asyncio
import contextlib
import json
import statistics
import time
from http.client import HTTPConnection

from bench import clients, processes
from bench.figures import Figure

START_TARGET_S, RSS_TARGET_MB = 1.2, 130.0
SETTLE_S = 7.0  # a server gives back what its start has freed after 5


async def measure(*, smoke: bool) -> list[Figure]:
    """Some starts, one after another; what importing the provider's SDK alone takes is beside it."""
    rounds = 2 if smoke else 7
    starts = [await asyncio.to_thread(_start_once) for _ in range(rounds)]
    imports = [await asyncio.to_thread(_import_sdk) for _ in range(rounds)]
    with processes.run_ours(None) as server:
        await asyncio.to_thread(_ask_once, server.port)
        await asyncio.sleep(SETTLE_S)
        rss_mb = server.process.rss_mb()
    ready_s, first_s = (statistics.median(times) for times in zip(*starts, strict=True))
    return [
        Figure("command to ready, a new file", ready_s, "s", None if smoke else START_TARGET_S),
        Figure("command to the first token, asked for when ready", first_s, "s"),
        Figure("python -c 'import anthropic', for comparison", statistics.median(imports), "s"),
        Figure("idle RSS after a reply", rss_mb, "MB", None if smoke else RSS_TARGET_MB),
    ]


def _start_once() -> tuple[float, float]:
    """Seconds from the command until the server is ready, and until the first token."""
    started = time.perf_counter()
    with processes.run_ours(None) as server:
        with contextlib.closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
            connection.request("GET", "/readyz")
            if connection.getresponse().status != 200:
                raise RuntimeError("the server is not ready")
        ready_s = time.perf_counter() - started
        _ask_once(server.port)
        return ready_s, time.perf_counter() - started


def _ask_once(port: int) -> None:
    """Ask, and return at the first token."""
    staff_id = clients.call(port, "POST", "/staff", {"name": "Ada"})["id"]
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        body = json.dumps({"content": clients.QUESTION})
        connection.request("POST", f"{clients.API}/staff/{staff_id}/messages/stream", body)
        response = connection.getresponse()
        while line := response.readline():
            if clients.OURS.token in line:
                return
    raise RuntimeError("the reply has no token")


def _import_sdk() -> float:
    started = time.perf_counter()
    with processes.run_python(["-c", "import anthropic; print('done', flush=True)"]) as process:
        process.read_line()
        return time.perf_counter() - started
