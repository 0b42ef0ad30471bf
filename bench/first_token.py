"""Our share of the first token: from the request's way in to our request's arrival at Claude, with an empty memory.

The far end notes when a request is there on the clock that all processes share. One message at a time, each in a
conversation of its own; with memories it is measured by the bench `memory`.
"""

import asyncio

from bench import clients, processes
from bench.figures import Figure

TARGET_MS = 8.0


async def measure(*, smoke: bool) -> list[Figure]:
    """Some hundred messages one after another."""
    count = 20 if smoke else 300
    shares_ms = []
    with (
        processes.run_feeder(tokens=2, rate=200, stamp=True) as url,
        processes.run_ours(url, "--requests-per-minute", "0") as server,
    ):
        requests = await asyncio.to_thread(clients.write_questions, server.port, count)
        for request in requests:
            async with clients.connect(server.port, 1, stamped=True) as readers:
                await clients.ask_all(readers, [request], limit_s=30)
            shares_ms.append((readers[0].stamp_ns - readers[0].asked_ns) / 1e6)
    shares_ms = sorted(shares_ms[count // 10 :])  # without the warm-up
    return [
        Figure("our share of the first token, p50", shares_ms[len(shares_ms) // 2], "ms", None if smoke else TARGET_MS),
        Figure("our share of the first token, p99", shares_ms[int(len(shares_ms) * 0.99)], "ms"),
    ]
