"""Streams, clients that read nothing, async replies, imports and deletes at once, for minutes: does all stay flat?

One user keeps the server busy, another one sends small requests all the time: first alone, then beside the load. The
server's descriptors, resident memory, threads and write-ahead log are sampled each second; `/healthz` is asked 20 times
a second over one kept connection, so that its slowest answer shows how long the event loop was held up.
"""

import asyncio
import contextlib
import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench import clients, processes
from bench.clients import API, Reader
from bench.figures import Figure, take_quantile
from bench.processes import Process, Server
from bench.soak_plot import Sample, draw_samples

RATE = 5  # tokens a second and stream
TOKENS, SMOKE_TOKENS = 100, 15  # of a reply
ASYNC_PAUSE_S, IMPORT_PAUSE_S, PROBE_PAUSE_S, HEALTH_PAUSE_S = 0.2, 5.0, 0.1, 0.05
IMPORTED_MESSAGES = 300
WARM_UP_S = 3.0  # the server imports the SDK
ALONE_SHARE = 0.2  # of the time, before the load begins
STALL_TARGET_MS, PROBE_TARGET, GROWTH_TARGET = 200.0, 2.0, 1.1
PLOT = processes.ROOT / "docs" / "images" / "soak.svg"
_ENVIRON = {"STAFFSTREAM_AUTH": "keys", "STAFFSTREAM_REQUESTS_PER_MINUTE": "0", "STAFFSTREAM_STREAMS_PER_KEY": "0"}


@dataclass
class Found:
    """What a soak saw. Times in ms."""

    alone_ms: list[float] = field(default_factory=list)
    beside_ms: list[float] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    replies: int = 0
    broken_replies: int = 0
    async_messages: int = 0
    imports: int = 0


async def measure(*, smoke: bool, minutes: float | None = None) -> list[Figure]:
    """Run for `minutes` (3 by default) and compare the last quarter of the loaded time with the quarter before it."""
    streams, idle, minutes = (30, 6, 0.25) if smoke else (1000, 200, minutes or 3.0)
    tokens = SMOKE_TOKENS if smoke else TOKENS
    with processes.make_folder() as folder, processes.run_feeder(tokens=tokens, rate=RATE, core=1) as url:
        db = folder / "soak.db"
        busy_key, other_key = (_create_key(db, name) for name in ("busy", "other"))
        with processes.run_ours(url, db=db, core=0, environ=_ENVIRON) as server:
            found = await _soak(
                server, db, busy_key, other_key, streams=streams, idle=idle, reply_s=tokens / RATE, seconds=minutes * 60
            )
    if not smoke:
        PLOT.write_text(draw_samples(found.samples))
    return _list_figures(found, smoke=smoke)


async def _soak(
    server: Server, db: Path, busy_key: str, other_key: str, *, streams: int, idle: int, reply_s: float, seconds: float
) -> Found:
    found = Found()
    url = f"http://127.0.0.1:{server.port}{API}"
    async with _open_client(url, busy_key) as busy, _open_client(url, other_key) as other:
        staff_id = (await _send(busy, "POST", "/staff", {"name": "Bench", "persona": "You are brief."}))["id"]
        await asyncio.sleep(WARM_UP_S)
        async with _run_beside(_sample(server.process, db, found), _ask_health(server.port, found)):
            async with _run_beside(_probe(other, staff_id, found.alone_ms)):
                await asyncio.sleep(seconds * ALONE_SHARE)
            load = [
                *(
                    _stream(server.port, staff_id, busy_key, found, idle=n < idle, reply_s=reply_s)
                    for n in range(streams)
                ),
                _send_async(busy, staff_id, found),
                _import_and_delete(busy, staff_id, found),
            ]
            async with _run_beside(*load, _probe(other, staff_id, found.beside_ms)):
                await asyncio.sleep(seconds * (1 - ALONE_SHARE))
    return found


# ── the load ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _stream(port: int, staff_id: str, key: str, found: Found, *, idle: bool, reply_s: float) -> None:
    """Ask over and over in one conversation. With `idle` nothing of a reply is read, until the server lets go."""
    await asyncio.sleep(random.uniform(0, reply_s))  # as people do, not all in one instant
    conversation = clients.write_post(f"{API}/staff/{staff_id}/conversations", {"user_name": "Kim"}, key)
    made = await _exchange(port, conversation)
    conversation_id = made.partition('"id":"')[2].partition('"')[0]
    body = {"content": clients.QUESTION, "conversation_id": conversation_id, "multitask_strategy": "interrupt"}
    request = clients.write_post(f"{API}/staff/{staff_id}/messages/stream", body, key)
    loop = asyncio.get_running_loop()
    while True:
        _, reader = await loop.create_connection(Reader, "127.0.0.1", port)
        try:
            if idle:
                reader.transport.pause_reading()
                reader.ask(request)
                await asyncio.sleep(2 * reply_s)
                continue
            while not reader.transport.is_closing():
                reader.ask(request)
                await reader.over
                found.replies += 1
                found.broken_replies += not reader.ended_well
                reader = reader.make_next()
        finally:
            reader.transport.abort()


async def _send_async(client: httpx.AsyncClient, staff_id: str, found: Found) -> None:
    ids = [(await _send(client, "POST", f"/staff/{staff_id}/conversations", {}))["id"] for _ in range(20)]
    for conversation_id in itertools.cycle(ids):
        await _send(
            client,
            "POST",
            f"/staff/{staff_id}/messages",
            {"content": "I like boats.", "conversation_id": conversation_id},
        )
        found.async_messages += 1
        await asyncio.sleep(ASYNC_PAUSE_S)


async def _import_and_delete(client: httpx.AsyncClient, staff_id: str, found: Found) -> None:
    path = f"/staff/{staff_id}/conversations"
    messages = [
        {
            "message_type": ("user", "assistant")[n % 2],
            "content": f"Note {n} of the boat and its {n % 40} parts.",
            "created_at": f"2026-01-01T{n // 60:02}:{n % 60:02}:00Z",
        }
        for n in range(IMPORTED_MESSAGES)
    ]
    while True:
        made = await _send(client, "POST", path, {"messages": messages})
        found.imports += 1
        await asyncio.sleep(IMPORT_PAUSE_S)
        await _send(client, "DELETE", f"{path}/{made['id']}")


async def _probe(client: httpx.AsyncClient, staff_id: str, times_ms: list[float]) -> None:
    """The other user: small requests, one after another."""
    path = f"/staff/{staff_id}/messages"
    while True:
        began = time.perf_counter()
        await _send(client, "GET", path)
        times_ms.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(PROBE_PAUSE_S)


# ── watching ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _sample(process: Process, db: Path, found: Found) -> None:
    began, log = time.monotonic(), Path(f"{db}-wal")
    while True:
        found.samples.append(
            Sample(
                second=time.monotonic() - began,
                rss_mb=process.rss_mb(),
                descriptors=len(os.listdir(f"/proc/{process.popen.pid}/fd")),
                threads=len(os.listdir(f"/proc/{process.popen.pid}/task")),
                wal_mb=log.stat().st_size / 1e6 if log.exists() else 0.0,
            )
        )
        await asyncio.sleep(1)


async def _ask_health(port: int, found: Found) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        while True:
            began = time.perf_counter()
            (await client.get(f"http://127.0.0.1:{port}/healthz")).raise_for_status()
            found.health_ms.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(HEALTH_PAUSE_S)


def _list_figures(found: Found, *, smoke: bool) -> list[Figure]:
    def target(value: float) -> float | None:
        return None if smoke else value

    loaded = found.samples[int(len(found.samples) * 0.5) :]  # the load stands by then
    half = len(loaded) // 2
    figures = [
        Figure("replies streamed whole", found.replies - found.broken_replies, ""),
        Figure("replies that ended without a good end", found.broken_replies, "", target(0)),
        Figure("messages sent asynchronously", found.async_messages, ""),
        Figure("conversations imported and deleted", found.imports, ""),
        Figure("slowest answer of /healthz", max(found.health_ms), "ms", target(STALL_TARGET_MS)),
        Figure("another user's request, p99, alone", take_quantile(found.alone_ms, 0.99), "ms"),
        Figure("another user's request, p99, beside the load", take_quantile(found.beside_ms, 0.99), "ms"),
        Figure(
            "another user's p99, beside / alone",
            take_quantile(found.beside_ms, 0.99) / take_quantile(found.alone_ms, 0.99),
            "×",
            target(PROBE_TARGET),
        ),
    ]
    for name, unit in (("rss_mb", "MB"), ("descriptors", ""), ("threads", ""), ("wal_mb", "MB")):
        before, after = (
            max(getattr(sample, name) for sample in part) for part in (loaded[:half] or loaded, loaded[half:] or loaded)
        )
        figures.append(Figure(f"{name}: most in the last quarter", after, unit))
        figures.append(
            Figure(f"{name}: last quarter / the one before", after / max(before, 1e-9), "×", target(GROWTH_TARGET))
        )
    return figures


# ── small tools ──────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def _run_beside(*work: Awaitable[None]) -> AsyncIterator[None]:
    """Tasks that run until the block ends; one that fails ends the block with its error."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]  # type: ignore[arg-type]
        yield
        for task in tasks:
            task.cancel()


def _open_client(url: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=120)


async def _send(client: httpx.AsyncClient, method: str, path: str, body: object = None) -> dict[str, str]:
    response = await client.request(method, path, json=body)
    if response.is_error:
        raise RuntimeError(f"{method} {path} answered {response.status_code}: {response.text}")
    return response.json() if response.content else {}  # type: ignore[no-any-return]


async def _exchange(port: int, request: bytes) -> str:
    """The body of one small answer over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    with contextlib.closing(writer):
        writer.write(request.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
        return (await reader.read()).decode().partition("\r\n\r\n")[2]


def _create_key(db: Path, name: str) -> str:
    command = [sys.executable, "-m", "staffstream", "keys", "create", name, "--role", "admin", "--db", str(db)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
