"""A disk that is full: what cannot be saved is refused, what was being made ends once, and all goes on when there is
space again.

In most tests the limit is SQLite's own (`max_page_count`), so that it is SQLite that finds no room; the others fill a
small disk.
"""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from staffstream.errors import StorageFull
from staffstream.storage import contexts
from staffstream.storage.database import Connection
from tests.tools.databases import connect
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S, PIECES, Gate, Hold, http_error
from tests.tools.receiver import Receiver, ScriptedResponse
from tests.tools.server import Api, leave_out, serve_here, start_server
from tests.tools.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.logs_errors]

SAID = "".join(PIECES)
STORAGE = ("storage_full", "storage_unavailable")  # the latter where the vector index hid the reason
LONG = "a long text that needs pages of its own " * 5_000  # 200 kB


@contextlib.asynccontextmanager
async def _full(api: Api) -> AsyncIterator[None]:
    """Within the block the file cannot grow."""
    database = api.app.state.services.database

    def limit(tx: Connection, pages: int) -> None:
        tx.execute(f"PRAGMA max_page_count = {pages}")

    await database.write(lambda tx: limit(tx, tx.execute("PRAGMA page_count").fetchone()[0]))
    try:
        yield
    finally:
        await database.write(lambda tx: limit(tx, 1 << 30))


def _count_rows(db: Path) -> dict[str, int]:
    connection = connect(db, read_only=True)
    tables = ("messages", "runs", "conversations", "memories", "idempotency_keys", "scopes")
    found = {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
    connection.close()
    return found


@pytest.fixture
async def bea(api: Api) -> str:
    """A staff member with room for long messages."""
    return await api.make_staff("Bea", context_budget_tokens=1_000_000)


async def test_what_cannot_be_saved_is_refused(db: Path, api: Api, provider: ScriptedProvider, bea: str) -> None:
    """By every mode a 503 that may be tried again, nothing half saved, and Claude is not asked."""
    await api.ask(bea, "Hi")
    before = _count_rows(db)
    async with _full(api):
        received = await api.ask(bea, LONG, key="k")
        assert (received.status, received.problem["code"]) == (503, "storage_full")
        assert (await api.send(bea, LONG, 503))["code"] == "storage_full"
        past = {"messages": [{"message_type": "user", "content": LONG, "created_at": "2026-01-01T00:00:00Z"}]}
        assert (await api.post(f"/staff/{bea}/conversations", past, 503))["code"] == "storage_full"
        assert (await api.post("/staff", {"name": "Eve", "persona": LONG[:100_000]}, 503))["code"] == "storage_full"
        assert await api.said(bea) == ["Hi", SAID]
    assert _count_rows(db) == before
    assert len(provider.chats) == 1
    assert (await api.ask(bea, LONG, key="k")).text == SAID


async def test_a_reply_that_cannot_be_saved(api: Api, provider: ScriptedProvider, bea: str) -> None:
    """Its stream has one end, which is no false done; when there is space it is settled with its text."""
    gate = provider.hold([LONG])
    async with api.stream(bea, "Hi") as stream_reader, api.join(bea, stream_reader.run_id) as other:
        gate.release(1)
        await stream_reader.until(LONG)
        async with _full(api):
            gate.open()
            received = await stream_reader.rest()
            assert (received.end["type"], received.end["retryable"]) == ("error", True)
            assert received.end["code"] in STORAGE
            assert (await other.rest()).end == received.end
            run = await api.run(bea, stream_reader.run_id)
            assert run["state"] in ("building", "streaming")
            assert (await api.ask(bea, "And now?")).problem["run_id"] == stream_reader.run_id
    run = await api.ended_run(bea, stream_reader.run_id)
    assert (run["state"], run["error"]["code"], run["partial_text"]) == ("failed", received.end["code"], LONG)
    reply = (await api.messages(bea))[0]
    assert (reply["id"], reply["content"], reply["status"]) == (stream_reader.run_id, LONG, "interrupted")
    assert (await api.ask(bea, "And now?")).text == SAID


async def test_an_end_that_is_saved_again_is_counted_once(api: Api, bea: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a transaction counted that was rolled back is in no metric."""
    save, failures = contexts.save_record, [StorageFull()]

    def save_later(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        save(*arguments)

    monkeypatch.setattr(contexts, "save_record", save_later)
    received = await api.ask(bea, "Hi")
    assert received.end["code"] == "storage_full"
    run = await api.ended_run(bea, received.run_id)
    assert failures == []
    lines = (await api.http.get(f"{api.url}/metrics")).text.splitlines()
    counted = [
        line.split() for line in lines if line.startswith("staffstream_tokens_total{") and 'kind="output"' in line
    ]
    assert [float(value) for _, value in counted] == [run["usage"]["output_tokens"]]


async def test_others_go_on(api: Api, provider: ScriptedProvider, bea: str) -> None:
    """A reply that is waiting to be settled holds nobody else's up."""
    gate, other_gate = provider.hold([LONG]), provider.hold()
    other = await api.make_staff("Other")
    async with api.stream(bea, "Hi") as stream_reader, api.stream(other, "Hi") as live:
        gate.release(1)
        await stream_reader.until(LONG)
        async with _full(api):
            gate.open()
            await stream_reader.rest()
            other_gate.release(len(PIECES))
            await live.until(SAID)
        other_gate.open()
        assert (await live.rest()).end["type"] == "done"
    assert (await api.ended_run(bea, stream_reader.run_id))["state"] == "failed"


async def test_the_queue_waits_for_the_settling(api: Api, provider: ScriptedProvider, bea: str) -> None:
    """What was queued behind a reply that could not be saved is answered when it is settled."""
    gate = provider.hold([LONG])
    gate.release(1)
    async with api.stream(bea, "1") as stream_reader:
        await stream_reader.until(LONG)
        queued = (await api.send(bea, "2"))["run_id"]
        async with _full(api):
            gate.open()
            await stream_reader.rest()
    assert (await api.ended_run(bea, queued))["state"] == "done"
    assert await api.said(bea) == ["1", LONG, "2", SAID]


async def test_cancel_on_a_full_disk(api: Api, provider: ScriptedProvider, bea: str) -> None:
    """The reply stops at once; that its end is not saved yet is told, and it is saved later."""
    gate = provider.hold([LONG])
    gate.release(1)
    async with api.stream(bea, "Hi") as stream_reader:
        await stream_reader.until(LONG)
        async with _full(api):
            path = f"/staff/{bea}/runs/{stream_reader.run_id}/cancel"
            assert (await api.post(path, status=503))["code"] in STORAGE
            assert (await stream_reader.rest()).end["code"] in STORAGE
            await provider.left(1)
    run = await api.ended_run(bea, stream_reader.run_id)
    assert (run["state"], run["partial_text"]) == ("cancelled", LONG)
    assert (await api.cancel(bea, stream_reader.run_id)) == run


async def test_erasing_what_could_not_be_settled(api: Api, provider: ScriptedProvider, bea: str) -> None:
    """A conversation that is deleted meanwhile takes its unsettled reply with it; others are settled after it."""
    conversation_id = (await api.post(f"/staff/{bea}/conversations", {}, 201))["id"]
    gates = [provider.hold([LONG]), provider.hold([LONG])]
    async with (
        api.stream(bea, "1", conversation_id=conversation_id) as doomed,
        api.stream(bea, "2") as kept,
    ):
        for gate, stream_reader in zip(gates, (doomed, kept), strict=True):
            gate.release(1)
            await stream_reader.until(LONG)
        async with _full(api):
            for gate in gates:
                gate.open()
            assert (await doomed.rest()).end["code"] in STORAGE
            assert (await kept.rest()).end["code"] in STORAGE
        await api.http.delete(f"/staff/{bea}/conversations/{conversation_id}")
    assert (await api.ended_run(bea, kept.run_id))["state"] == "failed"
    async with asyncio.timeout(DEADLINE_S):
        while api.app.state.services.pipeline.endings.unsaved:
            await asyncio.sleep(0.01)


# ── a real disk ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Disk:
    """A small file system of its own, that can be filled to the last byte."""

    def __init__(self, folder: Path) -> None:
        self.db = folder / "test.db"
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no room. What the log had taken before is given back first, so that no write finds any in it."""
        connection = connect(self.db)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        with self._ballast.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while ballast.write(bytes(size)) == size:
                        pass

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of 32 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    tried = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], capture_output=True)
    if not tried or tried.returncode != 0:
        leave_out("a small file system cannot be mounted here; run the tests as root on Linux for it")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_and_a_crash(disk: Disk, provider: ScriptedProvider) -> None:
    """Whatever was acknowledged before, while and after the disk was full is there after kill -9; nothing else is."""
    acknowledged: list[str] = []
    async with start_server(disk.db, provider) as server:
        api = server.api
        ada = await api.make_staff()
        for n in range(12):
            if n == 4:
                disk.fill()
            if n == 8:
                assert (await api.http.get(f"{server.url}/readyz")).status_code == 503
                assert await api.said(ada) == acknowledged
                disk.free()
            received = await api.ask(ada, f"question {n}")
            if received.status == 200:
                acknowledged += [f"question {n}", received.text]
            else:
                assert (received.status, received.problem["code"] in STORAGE) == (503, True)
                assert 4 <= n < 8
        assert (await api.http.get(f"{server.url}/readyz")).status_code == 200
        await server.kill()
    async with start_server(disk.db, provider) as server:
        assert await server.api.said(ada) == acknowledged
    assert len(acknowledged) >= 16


async def test_progress_on_a_full_disk(disk: Disk, provider: ScriptedProvider) -> None:
    """Text that cannot be written down meanwhile holds no subscriber up; with space again the reply is done."""
    gate = provider.hold()
    gate.release(1)
    async with serve_here(disk.db, provider) as api:
        ada = await api.make_staff()
        async with api.stream(ada, "Hi") as stream_reader:
            await stream_reader.token()
            disk.fill()
            gate.release(3)
            await stream_reader.until("Hello from the prov")
            async with asyncio.timeout(DEADLINE_S):
                while (await api.http.get(f"{api.url}/readyz")).status_code != 503:
                    pass
            disk.free()
            gate.open()
            assert (await stream_reader.rest()).end["type"] == "done"
        assert (await api.messages(ada))[0]["content"] == SAID


async def test_joining_an_asynchronous_run_on_a_full_disk(disk: Disk, provider: ScriptedProvider) -> None:
    """If it cannot be noted that its text goes out, none does: the stream ends once, and the run goes on."""
    gate = provider.hold()
    gate.release(1)
    async with serve_here(disk.db, provider) as api:
        ada = await api.make_staff()
        run_id = (await api.send(ada, "Hi"))["run_id"]
        await gate.passed(1)
        disk.fill()
        received = await api.rejoin(ada, run_id)
        assert (received.text, received.end["code"], received.end["retryable"]) == ("", "storage_full", True)
        disk.free()
        gate.open()
        assert (await api.ended_run(ada, run_id))["state"] == "done"
        assert (await api.rejoin(ada, run_id)).text == SAID


async def test_an_asynchronous_run_that_cannot_be_put_back(disk: Disk, provider: ScriptedProvider) -> None:
    """One that has said nothing goes back into the queue when there is space, and is answered."""
    head = Gate()
    overloaded = http_error(529, "overloaded_error")
    provider.script(lambda request: [Hold(head), *overloaded(request)])
    async with serve_here(disk.db, provider, upstream_retries=0) as api:
        ada = await api.make_staff()
        run_id = (await api.send(ada, "Hi"))["run_id"]
        await provider.arrived(1)
        disk.fill()
        head.open()
        endings = api.app.state.services.pipeline.endings
        async with asyncio.timeout(DEADLINE_S):
            while not endings.unsaved:
                await asyncio.sleep(0.01)
        assert (await api.run(ada, run_id))["state"] == "building"
        disk.free()
        assert (await api.ended_run(ada, run_id))["state"] == "done"
        assert (await api.rejoin(ada, run_id)).text == SAID


async def test_a_delivery_that_cannot_be_written_down(
    disk: Disk, provider: ScriptedProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """It was taken, so it is not sent again; that it was is written down when there is space."""
    thinking = Gate()
    async with Receiver() as receiver, serve_here(disk.db, provider, webhook_allow_private=("127.0.0.1",)) as api:
        receiver.script(ScriptedResponse(200, gate=thinking))
        ada = await api.make_staff(webhook_url=receiver.url)
        await api.send(ada, "Hi")
        await receiver.arrived(1)
        disk.fill()
        thinking.open()
        await until(lambda: "job ends have to wait" in caplog.text)
        [delivery] = await api.get(f"/staff/{ada}/deliveries")
        assert (delivery["state"], delivery["attempts"]) == ("pending", [])
        disk.free()

        async def is_delivered() -> bool:
            [delivery] = await api.get(f"/staff/{ada}/deliveries")
            return bool(delivery["state"] == "delivered")

        await until(is_delivered)
        assert len(receiver.got) == 1
