"""From the command to the first answer on a new file, and the memory of a server that does nothing."""

import asyncio
import statistics
import time
from http.client import HTTPConnection

from bench import processes
from bench.figures import Figure

START_TARGET_S, RSS_TARGET_MB = 1.2, 130.0
SETTLE_S = 2.0


async def measure(*, smoke: bool) -> list[Figure]:
    """Some starts, one after another; what importing the far end's SDK alone takes is beside it."""
    rounds = 2 if smoke else 7
    starts = [await asyncio.to_thread(_start_once) for _ in range(rounds)]
    imports = [await asyncio.to_thread(_import_sdk) for _ in range(rounds)]
    with processes.run_ours(None) as server:
        await asyncio.sleep(SETTLE_S)
        rss_mb = server.process.rss_mb()
    started_s, imported_s = statistics.median(starts), statistics.median(imports)
    return [
        Figure("command to ready, a new file", started_s, "s", None if smoke else START_TARGET_S),
        Figure("python -c 'import anthropic', for comparison", imported_s, "s"),
        Figure("idle RSS", rss_mb, "MB", None if smoke else RSS_TARGET_MB),
    ]


def _start_once() -> float:
    started = time.perf_counter()
    with processes.run_ours(None) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/readyz")
        if connection.getresponse().status != 200:
            raise RuntimeError("the server is not ready")
        took_s = time.perf_counter() - started
        connection.close()
    return took_s


def _import_sdk() -> float:
    started = time.perf_counter()
    with processes.run_python(["-c", "import anthropic; print('done', flush=True)"]) as process:
        process.read_line()
        return time.perf_counter() - started
