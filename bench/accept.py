"""1,000 messages accepted at once, each committed with synchronous=FULL before its answer begins.

From the first request sent until the file holds every message with its run, as another process's connection sees it:
what SQLite shows in WAL mode with FULL has been synced. The asynchronous mode answers just after that, so its last
response head is given too; the streaming one answers when Claude begins or a second has passed, which is by design
and no measure of what is saved. Beside it in the same run: 1,000 commits of one row each, one after another, which is
what a transaction a message would at least cost here.
"""

import asyncio
import contextlib
import time
from pathlib import Path

from bench import clients, processes
from bench.clients import Reader
from bench.figures import Figure
from staffstream.storage.database import Connection
from staffstream.storage.sqlite.connections import connect

TARGET_S = 1.0
ROUNDS = 3
LOOK_S = 0.005  # how often the file is looked at
MODES = (("streaming", "messages/stream"), ("asynchronous", "messages"))


async def measure(*, smoke: bool) -> list[Figure]:
    """Both modes, and the commits alone."""
    count = 100 if smoke else 1000
    found = []
    for name, mode in MODES:
        durable_s, head_s = await _measure_mode(mode, count)
        found += [
            Figure(f"{count} by the {name} mode, all durable", durable_s, "s", None if smoke else TARGET_S),
            Figure(f"{count} by the {name} mode, last response head", head_s, "s"),
        ]
    with processes.make_folder() as folder:
        found.append(Figure(f"{count} commits of one row, one by one", _measure_commits(folder, count), "s"))
    return found


async def _measure_mode(mode: str, count: int) -> tuple[float, float]:
    """Seconds from the first request until all are durable, and until the last response head: the best of some rounds
    on one server.
    """
    durable_s = head_s = float("inf")
    with (
        processes.make_folder() as folder,
        processes.run_feeder(tokens=1, rate=50) as url,
        processes.run_ours(url, "--requests-per-minute", "0", db=folder / "bench.db") as server,
        contextlib.closing(connect(folder / "bench.db", read_only=True)) as connection,
    ):
        for turn in range(1, ROUNDS + 1):
            requests = await asyncio.to_thread(clients.write_questions, server.port, count, mode)
            async with clients.connect(server.port, count) as subscribers:
                watching = asyncio.create_task(asyncio.to_thread(_wait_durable, connection, turn * count))
                await clients.ask_all(subscribers, requests, limit_s=60)
                durable_s = min(durable_s, _measure_from_first(subscribers, await watching))
                head_s = min(head_s, _measure_from_first(subscribers, max(reader.head_ns for reader in subscribers)))
    return durable_s, head_s


def _measure_from_first(subscribers: list[Reader], at_ns: int) -> float:
    return (at_ns - min(reader.asked_ns for reader in subscribers)) / 1e9


def _wait_durable(connection: Connection, runs: int) -> int:
    """When the file holds so many runs, and with each run its question: a moment on the monotonic clock."""
    deadline = time.monotonic() + 60
    while connection.execute("SELECT count(*) FROM runs").fetchone()[0] < runs:
        if time.monotonic() > deadline:
            raise RuntimeError("not every message was saved")
        time.sleep(LOOK_S)
    return time.monotonic_ns()


def _measure_commits(folder: Path, count: int) -> float:
    with contextlib.closing(connect(folder / "commits.db")) as connection:
        connection.execute("CREATE TABLE rows (text TEXT)")
        started = time.perf_counter()
        for _ in range(count):
            connection.execute("INSERT INTO rows VALUES (?)", (clients.QUESTION,))
        return time.perf_counter() - started
