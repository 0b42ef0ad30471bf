"""Our share of the first token as memories grow, alone and beside 50 streams, and a Chroma collection beside it.

One file holds five staff members whose memories differ in number; each is asked about things that were said to it, one
question after another, each in a conversation of its own. The file is made once, which takes minutes, and copied for
each run. Chroma's collections hold one scope's texts alone; ours finds them among everybody's. What file and process
take is there too.
"""

import asyncio
import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

from bench import clients, corpus, processes
from bench.figures import Figure, can_measure, show, take_quantile
from bench.peers import chroma
from bench.processes import Server
from bench.recall import measure_recall
from staffstream.domain import Scope
from staffstream.storage.sqlite.connections import connect

QUANTILES = (("p50", 0.5), ("p99", 0.99))
TARGETS_MS = {10_000: (8.0, 20.0), 100_000: (20.0, 40.0)}  # p50 and p99, with that many memories in scope
STREAMS, RATE = 50, 20
STREAM_TOKENS = 4000  # more than are needed: the streams are cut when the questions have been asked
FOUND = 24  # memories, as many as a reply's context takes at most
SETTLE_S = 2.0
ALONE = ("--requests-per-minute", "0", "--extract-idle-s", "86400", "--shutdown-grace-s", "0")


@dataclass(frozen=True)
class Plan:
    """How much is done: memories in each scope of the file, questions to each, and where Chroma is asked too."""

    sizes: Sequence[int]
    questions: int
    loaded: int  # the scope that is asked beside the streams
    streams: int
    chroma: Sequence[int]
    with_targets: bool = False

    def count_questions(self, size: int) -> int:
        """Fewer to a small scope: questions and replies are remembered too, and it is to stay small."""
        return min(self.questions, max(50, size // 10))

    def get_target_ms(self, size: int, place: int) -> float | None:
        return TARGETS_MS[size][place] if self.with_targets and size in TARGETS_MS else None


FULL = Plan(corpus.SIZES, 600, 10_000, STREAMS, (10_000, 100_000), with_targets=True)
SMOKE = Plan((1000, 100), 20, 1000, 5, (100,))


@dataclass(frozen=True)
class Asked:
    """A scope with its questions; the first one is asked of an index that is not in memory yet."""

    size: int
    scope: Scope
    questions: Sequence[str]
    texts: Sequence[str] = ()  # where Chroma is asked too


def name_share(size: int, which: str) -> str:
    """The name of a figure: `which` is p50, p99, or what else is measured with so many memories in scope."""
    return f"our share of the first token, {size:,} in scope, {which}"


async def measure(*, smoke: bool, locomo: Path | None = None) -> list[Figure]:
    """Everything, in the order of the table."""
    plan = SMOKE if smoke else FULL
    path, asked = await asyncio.to_thread(_prepare, plan)
    imported_mb = _measure_file(path) / sum(plan.sizes) / 1e3
    figures = [Figure("file, 1,000 messages that were imported", imported_mb, "MB")]
    figures += await _measure_alone(path, asked, plan)
    figures += await _measure_beside_streams(path, next(each for each in asked if each.size == plan.loaded), plan)
    figures += await _measure_chroma(asked)
    if locomo is None:
        print("  R@10 on real talk is left out: --locomo names the file to measure it on", flush=True)
        return figures
    return figures + await measure_recall(locomo)


def _prepare(plan: Plan) -> tuple[Path, list[Asked]]:
    """The file, and what is asked of it, the smallest scope first: what a server keeps in memory grows."""
    path, scopes = corpus.build_file(plan.sizes, show_progress=plan.with_targets)
    with contextlib.closing(connect(path, read_only=True)) as connection:
        asked = [
            Asked(
                size,
                scope,
                corpus.write_questions(connection, scope, plan.count_questions(size), seed=size),
                corpus.list_texts(connection, scope) if size in plan.chroma else (),
            )
            for size, scope in zip(plan.sizes, scopes, strict=True)
        ]
    return path, sorted(asked, key=lambda each: each.size)


def _measure_file(path: Path) -> int:
    with contextlib.closing(connect(path, read_only=True)) as connection:
        pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(pages) * int(size)


@contextlib.asynccontextmanager
async def _serve(path: Path, *, tokens: int, rate: float) -> AsyncIterator[tuple[Server, Path]]:
    """A server on a copy of the file, and the copy."""
    with processes.make_folder() as folder:
        copy = Path(await asyncio.to_thread(shutil.copy, path, folder / "copy.db"))
        with processes.run_feeder(tokens=tokens, rate=rate, stamp=True) as url:
            with processes.run_ours(url, *ALONE, db=copy) as server:
                yield server, copy


# ── alone ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _measure_alone(path: Path, asked: Sequence[Asked], plan: Plan) -> list[Figure]:
    """The growth curve, what the file grows by, and resident memory."""
    shares: list[Figure] = []
    searches: list[Figure] = []
    memory: list[Figure] = []
    async with _serve(path, tokens=corpus.REPLY_TOKENS, rate=200) as (server, copy):
        await asyncio.sleep(SETTLE_S)
        memory.append(Figure(f"RSS, idle, {sum(plan.sizes):,} in the file", server.process.rss_mb(), "MB"))
        before = _measure_file(copy)
        for each in asked:
            shares += await _measure_share(server, each, plan)
            memory.append(Figure(f"RSS after questions to {each.size:,}", server.process.rss_mb(), "MB"))
        grown = _measure_file(copy) - before
        for each in asked:
            if each.texts:
                took_ms = await asyncio.to_thread(_search_ours, server.port, each)
                searches += _make_quantiles(f"one search among {each.size:,}, ours (GET …/memories?query=)", took_ms)
    sent = 2 * sum(len(each.questions) for each in asked)
    grows = Figure(
        "file, 1,000 messages, half of them replies made here, with their runs and contexts", grown / sent / 1e3, "MB"
    )
    return [*shares, *searches, grows, *memory]


async def _measure_share(server: Server, asked: Asked, plan: Plan) -> list[Figure]:
    """p50 and p99 of a scope, its first question apart, and what the server itself says of where the time went."""
    requests = await asyncio.to_thread(clients.write_requests, server.port, asked.scope.staff_id, asked.questions)
    (cold_ms,) = await clients.measure_shares(server.port, requests[:1])
    before = await asyncio.to_thread(_read_spent_s, server)
    shares_ms = await clients.measure_shares(server.port, requests[1:])
    after = await asyncio.to_thread(_read_spent_s, server)
    print(f"  {asked.size:,} in scope: {show(take_quantile(shares_ms, 0.5))} ms p50 of {len(shares_ms)}", flush=True)
    return [
        *(
            Figure(name_share(asked.size, which), take_quantile(shares_ms, q), "ms", plan.get_target_ms(asked.size, n))
            for n, (which, q) in enumerate(QUANTILES)
        ),
        Figure(name_share(asked.size, "the first question"), cold_ms, "ms"),
        *(
            Figure(name_share(asked.size, f"mean of {part}"), (after[part] - before[part]) / len(shares_ms) * 1e3, "ms")
            for part in after
        ),
    ]


CPU = "the server's CPU, reply included"
SPENT = {  # what a figure calls it: the sum that /metrics gives
    "accepting": 'staffstream_stage_seconds_sum{mode="stream",stage="accept"}',
    "building": 'staffstream_stage_seconds_sum{mode="stream",stage="build"}',
    "recalling": "staffstream_recall_seconds_sum",  # a part of building
}


def _read_spent_s(server: Server) -> dict[str, float]:
    """Those, and the process's CPU time, which other work on the machine disturbs least; replies are a part of that."""
    with urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as response:
        text = response.read().decode()
    found = {part: re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE) for part, name in SPENT.items()}
    return {part: float(match[1]) if match else 0.0 for part, match in found.items()} | {CPU: server.process.cpu_s()}


def _search_ours(port: int, asked: Asked) -> list[float]:
    took_ms = []
    for question in asked.questions:
        query = urlencode({"query": question, "limit": FOUND})
        began = time.perf_counter()
        clients.call(port, "GET", f"/staff/{asked.scope.staff_id}/memories?{query}")
        took_ms.append((time.perf_counter() - began) * 1e3)
    return took_ms


# ── beside others ────────────────────────────────────────────────────────────────────────────────────────────────────


async def _measure_beside_streams(path: Path, asked: Asked, plan: Plan) -> list[Figure]:
    """The share of one scope's questions while other replies are streamed. Raises RuntimeError if a stream ended."""
    async with _serve(path, tokens=STREAM_TOKENS, rate=RATE) as (server, _):
        streamed = await asyncio.to_thread(clients.write_questions, server.port, plan.streams)
        requests = await asyncio.to_thread(clients.write_requests, server.port, asked.scope.staff_id, asked.questions)
        async with clients.connect(server.port, plan.streams, stamped=True) as subscribers:
            for reader, request in zip(subscribers, streamed, strict=True):
                reader.ask(request)
            async with asyncio.timeout(30):
                while min(reader.tokens for reader in subscribers) < RATE:
                    await asyncio.sleep(0.05)
            await clients.measure_shares(server.port, requests[:1])
            seen = [len(reader.delays_ns) for reader in subscribers]
            shares_ms = await clients.measure_shares(server.port, requests[1:])
            if any(reader.over.done() for reader in subscribers):
                raise RuntimeError("a stream ended before the questions did")
    delays_ms = [delay / 1e6 for reader, n in zip(subscribers, seen, strict=True) for delay in reader.delays_ns[n:]]
    return [
        *_make_quantiles(name_share(asked.size, f"beside {plan.streams} streams at {RATE}/s"), shares_ms),
        *_make_quantiles("added delay of those streams' tokens", delays_ms),
    ]


async def _measure_chroma(asked: Sequence[Asked]) -> list[Figure]:
    """Its query, the question's vector included, over each scope that has texts."""
    figures: list[Figure] = []
    if not can_measure("Chroma", chroma.NEEDS):
        return figures
    for each in filter(lambda each: each.texts, asked):
        name = hashlib.sha256("\n".join(each.texts).encode()).hexdigest()[:16]
        folder = corpus.CACHE / f"chroma-{name}"
        print(f"  Chroma over {each.size:,} texts: made the first time, which takes minutes", flush=True)
        answer = await chroma.ask(folder, each.texts, each.questions, limit=FOUND)
        if answer is None:
            print(f"  Chroma over {each.size:,} texts is left out: making it took too long", flush=True)
            continue
        name = f"one search among {each.size:,}, Chroma with MiniLM"
        figures += _make_quantiles(name, answer.took_ms)
        figures.append(Figure(f"{name}, the question's vector, p50", take_quantile(answer.embed_ms, 0.5), "ms"))
    return figures


def _make_quantiles(name: str, values_ms: Sequence[float]) -> list[Figure]:
    return [Figure(f"{name}, {which}", take_quantile(values_ms, share), "ms") for which, share in QUANTILES]
