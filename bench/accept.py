"""1,000 messages accepted at once, each committed with synchronous=FULL before its answer begins.

From the first request sent to the last response head: by then every message and run is on disk. Beside it in the same
run: 1,000 commits of one row each, one after another, which is what a transaction a message would at least cost here.
"""

import asyncio
import contextlib
import time
from pathlib import Path

from bench import clients, processes
from bench.figures import Figure
from staffstream.database import connect

TARGET_S = 1.0
ROUNDS = 3


async def measure(*, smoke: bool) -> list[Figure]:
    """Both doors, and the commits alone."""
    count = 100 if smoke else 1000
    target_s = None if smoke else TARGET_S
    found = [
        Figure(f"{count} by the {name} door, all durable", await _measure_door(door, count), "s", target_s)
        for name, door in (("streaming", "messages/stream"), ("asynchronous", "messages"))
    ]
    with processes.make_folder() as folder:
        found.append(Figure(f"{count} commits of one row, one by one", _measure_commits(folder, count), "s"))
    return found


async def _measure_door(door: str, count: int) -> float:
    """Seconds from the first request to the last response head, the best of some rounds on one server."""
    best_s = float("inf")
    with (
        processes.run_feeder(tokens=1, rate=50) as url,
        processes.run_ours(url, "--requests-per-minute", "0") as server,
    ):
        for _ in range(ROUNDS):
            requests = await asyncio.to_thread(clients.write_questions, server.port, count, door)
            async with clients.connect(server.port, count) as readers:
                await clients.ask_all(readers, requests, limit_s=60)
                took_ns = max(reader.head_ns for reader in readers) - min(reader.asked_ns for reader in readers)
                best_s = min(best_s, took_ns / 1e9)
    return best_s


def _measure_commits(folder: Path, count: int) -> float:
    with contextlib.closing(connect(folder / "commits.db")) as connection:
        connection.execute("CREATE TABLE rows (text TEXT)")
        started = time.perf_counter()
        for _ in range(count):
            connection.execute("INSERT INTO rows VALUES (?)", (clients.QUESTION,))
        return time.perf_counter() - started
