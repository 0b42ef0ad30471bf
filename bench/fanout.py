"""1,000 streams at 20 tokens/s on one core: what is lost, how late tokens come, how much memory it takes.

Each token carries the moment at which it was sent, on the clock that all processes share; its delay is what lies
between that and its arrival at the reader. The server has one core; feeder and readers share the other.
"""

import asyncio
from collections.abc import Sequence

from bench import clients, processes
from bench.clients import Reader
from bench.figures import Figure, take_quantile

RATE = 20
DELAY_TARGET_MS, RSS_TARGET_MB = 50.0, 250.0


async def measure(*, smoke: bool) -> list[Figure]:
    """All streams at once, for so long that they run beside each other for at least 20 seconds."""
    streams, tokens = (50, 60) if smoke else (1000, 1000)
    with (
        processes.run_feeder(tokens=tokens, rate=RATE, stamp=True, core=1) as url,
        processes.run_ours(url, "--requests-per-minute", "0", core=0) as server,
    ):
        requests = await asyncio.to_thread(clients.write_questions, server.port, streams)
        async with clients.connect(server.port, streams, stamped=True) as subscribers:
            await clients.ask_all(subscribers, requests, limit_s=tokens / RATE + 120)
        rss_mb = server.process.rss_mb(peak=True)
    # Each stream has one token more than was asked for: the moment at which its request was there.
    lost = streams * (tokens + 1) - sum(reader.tokens for reader in subscribers)
    cut = sum(not reader.ended_well for reader in subscribers)
    beginning_ms, running_ms = _split_delays(subscribers)
    return [
        Figure(f"tokens lost, {streams} streams at {RATE}/s", lost, "", None if smoke else 0),
        Figure("streams without a good end", cut, "", None if smoke else 0),
        Figure("added delay of a token while all run, p50", take_quantile(running_ms, 0.5), "ms"),
        Figure(
            "added delay of a token while all run, p99",
            take_quantile(running_ms, 0.99),
            "ms",
            None if smoke else DELAY_TARGET_MS,
        ),
        Figure("added delay of a token while replies are begun, p99", take_quantile(beginning_ms, 0.99), "ms"),
        Figure("from the first request to the last first token", _measure_beginning_s(subscribers), "s"),
        Figure("RSS at most", rss_mb, "MB", None if smoke else RSS_TARGET_MB),
    ]


def _split_delays(subscribers: Sequence[Reader]) -> tuple[list[float], list[float]]:
    """The delays, sorted, of tokens that came before every stream had its first, and of those after: accepting and
    building a thousand replies takes the core for seconds, which is another thing than relaying them.
    """
    all_run_ns = max(reader.first_ns for reader in subscribers)
    beginning, running = [], []
    for reader in subscribers:
        for delay_ns, arrival_ns in zip(reader.delays_ns, reader.arrivals_ns, strict=True):
            (running if arrival_ns > all_run_ns else beginning).append(delay_ns / 1e6)
    return sorted(beginning), sorted(running)


def _measure_beginning_s(subscribers: Sequence[Reader]) -> float:
    return (max(reader.first_ns for reader in subscribers) - min(reader.asked_ns for reader in subscribers)) / 1e9
