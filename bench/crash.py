"""kill -9 at random instants, over and over on one file: everything that was acknowledged is there in the end.

Each cycle starts the server as its operator does, talks to it by both modes, and ends it at an instant that nobody
chose, now and then before it is ready. Then the server may finish its work, and all that any of them acknowledged is
looked for. The receiver of the webhooks loses some of the first attempts.
"""

import asyncio
import contextlib
import itertools
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench import processes
from bench.figures import Figure
from bench.processes import Process
from staffstream.storage.database import Connection
from staffstream.storage.sqlite.connections import connect

CYCLES = 500
LIMIT_S = 1200.0
LONGEST_LIFE_S = 4.0  # of a server that is ready: half of them end within a quarter of it, before they answer anything
EARLY_SHARE = 0.1  # of the cycles end before that
TALKERS = 4
CYCLES_A_CONVERSATION = 10
LOST_SHARE = 0.1  # of the first attempts at a webhook
SETTLE_S = 900.0  # the longest for the last server to finish everything: after many crashes a run waits for minutes

_ENVIRON = {
    "STAFFSTREAM_OFFLINE": "1",
    "STAFFSTREAM_OFFLINE_PACE_S": "0.005",
    "STAFFSTREAM_REQUESTS_PER_MINUTE": "0",
    "STAFFSTREAM_WEBHOOK_ALLOW_PRIVATE": "127.0.0.1",
    "STAFFSTREAM_PORT": "0",
}
_UNFINISHED = (
    "SELECT (SELECT count(*) FROM runs WHERE finished_at IS NULL)"
    " + (SELECT count(*) FROM jobs WHERE kind = 'deliver' AND state <> 'dead')"
)


async def measure(*, smoke: bool) -> list[Figure]:
    """As many cycles as there is time for, and what was lost in them."""
    cycles, limit_s = (5, 60.0) if smoke else (CYCLES, LIMIT_S)
    promises = Promises()
    with processes.make_folder() as folder:
        db = folder / "crash.db"
        async with Receiver() as receiver:
            ran = await _crash_often(db, receiver, promises, cycles=cycles, limit_s=limit_s)
            async with _serve(db) as api:
                await _wait_settled(db)
                kept = await _read_kept(api, promises)
        found = _compare(db, promises, kept, receiver)
    for name, what in found.items():
        for each in what[:5]:
            print(f"{name}: {each}", file=sys.stderr)
    return [
        Figure("kill -9 cycles", ran, ""),
        Figure("questions, replies and memories acknowledged", promises.count, ""),
        *(Figure(name, len(what), "", target=0) for name, what in found.items()),
    ]


# ── what was acknowledged ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Place:
    """Where a talker talks."""

    staff_id: str
    conversation_id: str


@dataclass
class Promises:
    """What servers have acknowledged, by its id: a question's or reply's place and text, a memory's staff and text."""

    messages: dict[str, tuple[Place, str]] = field(default_factory=dict)
    awaited: set[str] = field(default_factory=set)  # questions that were answered with 202
    memories: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.messages) + len(self.memories)


class Receiver:
    """Takes webhooks: `told` counts them by the run's id and the webhook's."""

    def __init__(self) -> None:
        self.told: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._lost: set[str] = set()

    async def __aenter__(self) -> "Receiver":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            event = json.loads(await reader.readexactly(int(headers["content-length"])))
            if headers["webhook-id"] not in self._lost and random.random() < LOST_SHARE:
                self._lost.add(headers["webhook-id"])
                return
            self.told[event["data"]["run_id"]][headers["webhook-id"]] += 1
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            await writer.drain()


# ── the cycles ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _crash_often(db: Path, receiver: Receiver, promises: Promises, *, cycles: int, limit_s: float) -> int:
    """How many cycles there was time for."""
    async with _serve(db) as api:
        staff_ids = [await _make_staff(api, receiver.url, memory_enabled=enabled) for enabled in (True, False)]
    until, start_s, places = time.monotonic() + limit_s, 1.0, list[Place]()
    for cycle in range(cycles):
        if time.monotonic() > until:
            return cycle
        with _run_server(db) as process:
            if places and random.random() < EARLY_SHARE:
                await asyncio.sleep(random.uniform(0.5, 1.0) * start_s)
                await _kill(process)
                continue
            began = time.monotonic()
            async with _open_api(process) as api:
                start_s = time.monotonic() - began
                if cycle % CYCLES_A_CONVERSATION == 0 or not places:
                    places = [await _open_conversation(api, staff_ids[n % 2]) for n in range(TALKERS)]
                talks = [asyncio.create_task(_talk(api, place, promises)) for place in places]
                await asyncio.sleep(LONGEST_LIFE_S * random.random() ** 2)
                await _kill(process)
                await asyncio.gather(*talks)
    return cycles


@contextlib.contextmanager
def _run_server(db: Path) -> Iterator[Process]:
    with processes.run_python(["-m", "staffstream", "serve", "--db", str(db)], _ENVIRON) as process:
        yield process


@contextlib.asynccontextmanager
async def _open_api(process: Process) -> AsyncIterator[httpx.AsyncClient]:
    """A client, once the server is ready."""
    banner = await asyncio.to_thread(process.read_line)
    url = banner.partition(" on ")[2].partition(",")[0]
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=30, trust_env=False, verify=False) as api:
        yield api


@contextlib.asynccontextmanager
async def _serve(db: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A server that nobody kills."""
    with _run_server(db) as process:
        async with _open_api(process) as api:
            yield api


async def _kill(process: Process) -> None:
    process.popen.kill()
    await asyncio.to_thread(process.popen.wait)


async def _make_staff(api: httpx.AsyncClient, url: str, *, memory_enabled: bool) -> str:
    body = {"name": "Bench", "persona": "You are brief.", "webhook_url": url, "memory_enabled": memory_enabled}
    return str((await _post(api, "/staff", body, 201))["id"])


async def _open_conversation(api: httpx.AsyncClient, staff_id: str) -> Place:
    return Place(staff_id, str((await _post(api, f"/staff/{staff_id}/conversations", {}, 201))["id"]))


async def _post(api: httpx.AsyncClient, path: str, body: Any, status: int) -> Any:
    response = await api.post(path, json=body)
    if response.status_code != status:
        raise RuntimeError(f"{path} answered {response.status_code}: {response.text}")
    return response.json()


async def _talk(api: httpx.AsyncClient, place: Place, promises: Promises) -> None:
    """Write in every way until the server is gone."""
    with contextlib.suppress(httpx.TransportError):
        for number in itertools.count():
            content = f"My lucky number is {random.randrange(10**9)}. Which one is it?"
            await (_send, _stream, _remember)[number % 3](api, place, content, promises)
            await asyncio.sleep(random.uniform(0.0, 0.05))


async def _send(api: httpx.AsyncClient, place: Place, content: str, promises: Promises) -> None:
    body = {"content": content, "conversation_id": place.conversation_id}
    accepted = await _post(api, f"/staff/{place.staff_id}/messages", body, 202)
    promises.messages[accepted["message_id"]] = (place, content)
    promises.awaited.add(accepted["message_id"])


async def _stream(api: httpx.AsyncClient, place: Place, content: str, promises: Promises) -> None:
    body = {"content": content, "conversation_id": place.conversation_id, "multitask_strategy": "enqueue"}
    async with api.stream("POST", f"/staff/{place.staff_id}/messages/stream", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"a stream answered {response.status_code}")
        promises.messages[response.headers["x-user-message-id"]] = (place, content)
        said = ""
        async for line in response.aiter_lines():
            event = json.loads(line[6:]) if line.startswith("data: ") else {}
            said += event.get("content", "")
            if event.get("type") == "done":
                promises.messages[event["message_id"]] = (place, said)


async def _remember(api: httpx.AsyncClient, place: Place, content: str, promises: Promises) -> None:
    memory = await _post(api, f"/staff/{place.staff_id}/memories", {"text": content}, 201)
    promises.memories[memory["id"]] = (place.staff_id, content)


# ── what is there ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Kept:
    """What the last server has: messages by their id, and the texts of memories."""

    messages: dict[str, dict[str, Any]]
    memories: dict[str, str]


async def _wait_settled(db: Path) -> None:
    """Return when every run has ended and every webhook was taken, or when that is too late."""
    until = time.monotonic() + SETTLE_S
    with contextlib.closing(connect(db, read_only=True)) as connection:
        while connection.execute(_UNFINISHED).fetchone()[0] and time.monotonic() < until:
            await asyncio.sleep(0.1)


async def _read_kept(api: httpx.AsyncClient, promises: Promises) -> Kept:
    places = {place for place, _ in promises.messages.values()}
    messages = [message for place in places async for message in _list_messages(api, place)]
    memories = {}
    for memory_id, (staff_id, _) in promises.memories.items():
        response = await api.get(f"/staff/{staff_id}/memories/{memory_id}")
        if response.status_code == 200:
            memories[memory_id] = response.json()["text"]
    return Kept({message["id"]: message for message in messages}, memories)


async def _list_messages(api: httpx.AsyncClient, place: Place) -> AsyncIterator[dict[str, Any]]:
    query = {"conversation_id": place.conversation_id, "limit": "200"}
    response = await api.get(f"/staff/{place.staff_id}/messages", params=query)
    while True:
        for message in response.raise_for_status().json():
            yield message
        if "next" not in response.links:
            return
        response = await api.get(str(api.base_url.join(response.links["next"]["url"])))


def _compare(db: Path, promises: Promises, kept: Kept, receiver: Receiver) -> dict[str, list[str]]:
    """What is not as it was promised, by what it is."""
    said = {message_id: message["content"] for message_id, message in kept.messages.items()}
    answers = Counter(message["reply_to"] for message in kept.messages.values() if "reply_to" in message)
    lost = [each for each, (_, text) in promises.messages.items() if said.get(each) != text]
    lost += [each for each, (_, text) in promises.memories.items() if kept.memories.get(each) != text]
    with contextlib.closing(connect(db)) as connection:
        runs = connection.execute("SELECT id, state, error FROM runs").fetchall()
        damage = list(_find_damage(connection))
    return {
        "acknowledged writes lost": lost,
        "202s without exactly one reply": [
            f"{each} has {answers[each]}" for each in sorted(promises.awaited) if answers[each] != 1
        ],
        "runs without an end": [run["id"] for run in runs if run["state"] not in ("done", "failed", "cancelled")],
        "runs that failed otherwise than by a crash": [
            run["id"] for run in runs if run["error"] and json.loads(run["error"])["code"] != "server_restart"
        ],
        "runs not told of under exactly one webhook-id": [
            run["id"] for run in runs if len(receiver.told[run["id"]]) != 1
        ],
        "damage to the file": damage,
    }


def _find_damage(connection: Connection) -> Iterator[str]:
    yield from (row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok")
    yield from (f"{row[0]} {row[1]}" for row in connection.execute("PRAGMA foreign_key_check"))
