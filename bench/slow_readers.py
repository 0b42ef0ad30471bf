"""50 subscribers that stop reading replies of 180 kB: how much memory they cost.

Each asks for a reply and reads nothing of it, with a small buffer of its own; the replies are made to their end all the
same. The same replies are read before that, so that what the server takes for making them does not count.
"""

import asyncio
import socket

from bench import clients, processes
from bench.figures import Figure

STREAMS, CHARACTERS, TOKENS, RATE = 50, 60, 3000, 100
RECEIVE_BYTES = 8192
TARGET_MB = 60.0


async def measure(*, smoke: bool) -> list[Figure]:
    """The resident memory beside what the server had after the same replies were read."""
    streams, tokens = (10, 300) if smoke else (STREAMS, TOKENS)
    with (
        processes.run_feeder(tokens=tokens, rate=RATE, characters=CHARACTERS, core=1) as url,
        processes.run_ours(url, "--requests-per-minute", "0", core=0) as server,
    ):
        read_mb = await _measure_peak(server, streams, tokens, hang=False)
        hung_mb = await _measure_peak(server, streams, tokens, hang=True)
    name = f"{streams} subscribers that stop reading {CHARACTERS * tokens // 1000} kB"
    return [
        Figure(f"RSS that {name} add", hung_mb - read_mb, "MB", None if smoke else TARGET_MB),
        Figure("RSS at most while the same replies are read", read_mb, "MB"),
    ]


async def _measure_peak(server: processes.Server, streams: int, tokens: int, *, hang: bool) -> float:
    """The most resident memory while the replies are made, in MB."""
    requests = await asyncio.to_thread(clients.write_questions, server.port, streams)
    async with clients.connect(server.port, streams) as subscriptions:
        peak_mb = 0.0
        for reader, request in zip(subscriptions, requests, strict=True):
            reader.ask(request)
            if hang:
                reader.transport.pause_reading()
                reader.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        until = asyncio.get_running_loop().time() + tokens / RATE + 5
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.1)
            peak_mb = max(peak_mb, server.process.rss_mb())
    return peak_mb
