"""1,000 streams at 20 tokens/s on one core: what is lost, how late tokens come, how much memory it takes.

Each token carries the moment at which it was sent, on the clock that all processes share; its delay is what lies
between that and its arrival at the reader. The server has one core; feeder and readers share the other.
"""

import asyncio

from bench import clients, processes
from bench.figures import Figure

RATE = 20
DELAY_TARGET_MS, RSS_TARGET_MB = 50.0, 250.0


async def measure(*, smoke: bool) -> list[Figure]:
    """All streams at once, for at least 20 seconds."""
    streams, tokens = (50, 60) if smoke else (1000, 440)
    with (
        processes.run_feeder(tokens=tokens, rate=RATE, stamp=True, core=1) as url,
        processes.run_ours(url, "--requests-per-minute", "0", core=0) as server,
    ):
        requests = await asyncio.to_thread(clients.write_questions, server.port, streams)
        async with clients.connect(server.port, streams, stamped=True) as readers:
            await clients.ask_all(readers, requests, limit_s=tokens / RATE + 120)
        rss_mb = server.process.rss_mb(peak=True)
    # Each stream has one token more than was asked for: the moment at which its request was there. The first second is
    # left out, as all streams begin at once in it, which is another figure: accept.
    delays_ms = sorted(delay / 1e6 for reader in readers for delay in reader.delays_ns[RATE:])
    lost = streams * (tokens + 1) - sum(reader.tokens for reader in readers)
    cut = sum(not reader.ended_well for reader in readers)
    return [
        Figure(f"tokens lost, {streams} streams at {RATE}/s", lost, "", None if smoke else 0),
        Figure("streams without a good end", cut, "", None if smoke else 0),
        Figure("added delay of a token, p50", delays_ms[len(delays_ms) // 2], "ms"),
        Figure(
            "added delay of a token, p99",
            delays_ms[int(len(delays_ms) * 0.99)],
            "ms",
            None if smoke else DELAY_TARGET_MS,
        ),
        Figure("RSS at most", rss_mb, "MB", None if smoke else RSS_TARGET_MB),
    ]
