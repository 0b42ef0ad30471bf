"""What a relayed token costs: CPU time of the whole server process, beside its peers in the same run.

50 streams at 50 tokens/s. Contenders take turns for some rounds, each a fresh process, and the median counts. What a
token costs is measured while all streams run; what a reply costs beside its tokens (HTTP, accepting, building, asking,
saving) is the rest. Both together, spread over replies of 300 tokens, are a token with all included.
"""

import asyncio
import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench import clients, processes
from bench.clients import OURS, UPSTREAM, Marks, Reader
from bench.figures import Figure, show
from bench.processes import Server

STREAMS, RATE = 50, 50
REPLY_TOKENS = 300
ALONE_TARGET, WHOLE_TARGET, REPLY_TARGET_MS = 0.30, 0.35, 4.0
PEER = "FastAPI + sse-starlette + messages.stream()"
FLOOR = "bytes passed through"

Start = Callable[[str], contextlib.AbstractContextManager[Server]]


@dataclass(frozen=True)
class Contender:
    """A server to measure: how it is started for a provider, and how it is asked."""

    name: str
    start: Start
    ask: Callable[[Server], list[bytes]]
    marks: Marks = OURS


@dataclass(frozen=True)
class Cost:
    """CPU time: of a token in µs, and of a reply beside its tokens in ms."""

    token_us: float
    reply_ms: float

    @property
    def whole_us(self) -> float:
        """A token of a usual reply, with its part of the reply's own cost."""
        return self.token_us + self.reply_ms * 1000 / REPLY_TOKENS


def ask_ours(server: Server) -> list[bytes]:
    """One message in each of 50 conversations."""
    return clients.write_questions(server.port, STREAMS)


def ask_peer(server: Server) -> list[bytes]:
    return [clients.write_post("/messages/stream", {"content": clients.QUESTION})] * STREAMS


@contextlib.contextmanager
def start_floor(feeder_url: str) -> Iterator[Server]:
    environ = processes.name_claude(feeder_url)
    with processes.run_python(["-m", "bench.peers.pass_through"], environ) as process:
        yield Server(process, int(process.read_line().rpartition(":")[2]))


CONTENDERS = (
    Contender("ours", processes.run_ours, ask_ours),
    Contender(PEER, lambda url: processes.run_peer("fastapi_sse", url), ask_peer),
    Contender(FLOOR, start_floor, ask_peer, UPSTREAM),
)


async def measure(*, smoke: bool) -> list[Figure]:
    """Ours against the peer and against the floor."""
    costs = await run_rounds(CONTENDERS, rounds=1 if smoke else 5, tokens=150 if smoke else REPLY_TOKENS)
    ours, peer, floor = (costs[contender.name] for contender in CONTENDERS)
    return [
        Figure(
            f"CPU of a token of replies of {REPLY_TOKENS}, all included, ours / {PEER}",
            ours.whole_us / peer.whole_us,
            "×",
            None if smoke else WHOLE_TARGET,
        ),
        Figure(
            f"CPU of a token alone, ours / {PEER}",
            ours.token_us / peer.token_us,
            "×",
            None if smoke else ALONE_TARGET,
        ),
        Figure(f"CPU of a token, ours / {FLOOR}", ours.token_us / floor.token_us, "×"),
        *(Figure(f"CPU of a token, {name}", cost.token_us, "µs") for name, cost in costs.items()),
        Figure("CPU of a reply beside its tokens, ours", ours.reply_ms, "ms", None if smoke else REPLY_TARGET_MS),
        *(
            Figure(f"CPU of a reply beside its tokens, {name}", cost.reply_ms, "ms")
            for name, cost in costs.items()
            if cost is not ours
        ),
    ]


async def run_rounds(contenders: Sequence[Contender], *, rounds: int, tokens: int) -> dict[str, Cost]:
    """The median cost of each contender, by name."""
    costs: dict[str, list[Cost]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders:
            cost = await measure_one(contender, tokens)
            costs[contender.name].append(cost)
            told = f"{show(cost.token_us)} µs a token, {show(cost.reply_ms)} ms a reply"
            print(f"  round {number + 1}: {contender.name}: {told}", flush=True)
    return {
        name: Cost(statistics.median(c.token_us for c in found), statistics.median(c.reply_ms for c in found))
        for name, found in costs.items()
    }


async def measure_one(contender: Contender, tokens: int) -> Cost:
    """Run one contender once. Raises RuntimeError when a token was lost."""
    with processes.run_feeder(tokens=tokens, rate=RATE) as url, contender.start(url) as server:
        for _ in range(2):  # the first time warms it up: connections to Claude, caches, the database file
            requests = await asyncio.to_thread(contender.ask, server)
            async with clients.connect(server.port, STREAMS, contender.marks) as subscribers:
                cost = await _measure_streams(server, subscribers, requests, tokens)
    return cost


async def _measure_streams(server: Server, subscribers: list[Reader], requests: list[bytes], tokens: int) -> Cost:
    before_s = server.process.cpu_s()
    asking = asyncio.create_task(clients.ask_all(subscribers, requests, limit_s=tokens / RATE + 60))
    while not asking.done() and min(reader.tokens for reader in subscribers) < RATE / 4:
        await asyncio.sleep(0.05)
    steady_s, steady_tokens = server.process.cpu_s(), sum(reader.tokens for reader in subscribers)
    await asyncio.sleep(tokens / RATE * 0.7)
    steady_s, steady_tokens = server.process.cpu_s() - steady_s, _count(subscribers) - steady_tokens
    await asking
    lost = STREAMS * tokens - _count(subscribers)
    if lost or not all(reader.ended_well for reader in subscribers):
        raise RuntimeError(f"{lost} tokens were lost")
    token_s = steady_s / steady_tokens
    return Cost(token_s * 1e6, (server.process.cpu_s() - before_s - token_s * STREAMS * tokens) / STREAMS * 1e3)


def _count(subscribers: Sequence[Reader]) -> int:
    return sum(reader.tokens for reader in subscribers)
