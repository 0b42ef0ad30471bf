"""Our share of the first token: from the request's way in to our request's arrival at Claude, with an empty memory.

The provider notes when a request is there on the clock that all processes share. One message at a time, each in a
conversation of its own; with memories it is measured by the bench `memory`.
"""

import asyncio

from bench import clients, processes
from bench.figures import Figure, take_quantile

TARGET_MS = 8.0


async def measure(*, smoke: bool) -> list[Figure]:
    """Some hundred messages one after another."""
    count = 20 if smoke else 300
    with (
        processes.run_feeder(tokens=2, rate=200, stamp=True) as url,
        processes.run_ours(url, "--requests-per-minute", "0") as server,
    ):
        requests = await asyncio.to_thread(clients.write_questions, server.port, count)
        shares_ms = (await clients.measure_shares(server.port, requests))[count // 10 :]  # without the warm-up
    return [
        Figure("our share of the first token, p50", take_quantile(shares_ms, 0.5), "ms", None if smoke else TARGET_MS),
        Figure("our share of the first token, p99", take_quantile(shares_ms, 0.99), "ms"),
    ]
