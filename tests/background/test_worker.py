"""The worker: what becomes of a job, by what its handler does and by what happens meanwhile."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from staffstream.background import worker
from staffstream.background.worker import Handler, JobHandling, Worker
from staffstream.domain import Owner
from staffstream.errors import NotFound, StorageFull, UpstreamOverloaded, UpstreamRefused
from staffstream.storage import jobs
from staffstream.storage.database import Connection, Database
from staffstream.storage.jobs import Job, JobKind
from tests.tools.databases import open_database
from tests.tools.provider_script import Gate
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(db: Path) -> AsyncIterator[Database]:
    async with open_database(db) as database:
        yield database


@pytest.fixture
def run(database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A worker with one handler for extract jobs, that looks for work when it is woken and hardly ever else."""
    monkeypatch.setattr(worker, "POLL_S", 60.0)

    @contextlib.asynccontextmanager
    async def run(
        handle: Handler, *, concurrency: int = 4, owner: Owner | None = None, **handlings: JobHandling
    ) -> AsyncIterator[Worker]:
        owner = owner or Owner("anne", 60)
        made = Worker(database, owner, {"extract": JobHandling(handle, concurrency), **handlings})  # type: ignore[dict-item]
        async with made.running():
            yield made

    return run


async def enqueue(database: Database, *subjects: str, kind: JobKind = "extract") -> None:
    def enqueue_all(tx: Connection) -> None:
        for subject in subjects:
            jobs.enqueue_job(tx, kind, subject)

    await database.write(enqueue_all)


async def list_jobs(database: Database) -> list[Job]:
    return await database.read(lambda conn: jobs.list_jobs(conn, limit=1000))


async def none_left(database: Database) -> None:
    async def are_done() -> bool:
        return await list_jobs(database) == []

    await until(are_done)


async def state_of(database: Database, state: str) -> Job:
    """The one job, once it has the state."""

    async def find() -> Job | None:
        found = await list_jobs(database)
        return found[0] if found and found[0].state == state and found[0].last_error else None

    job: Job = await until(find)
    return job


def note(tx: Connection, key: str) -> None:
    """A result that fails when it is saved twice."""
    tx.execute("INSERT INTO meta (key, value) VALUES (?, 'done')", (key,))


def read_notes(conn: Connection) -> list[str]:
    return [row["key"] for row in conn.execute("SELECT key FROM meta WHERE value = 'done' ORDER BY key")]


def answer(save: Callable[[Connection], object]) -> Handler:
    async def handle(job: Job) -> Callable[[Connection], object]:
        return save

    return handle


def fail(error: Exception) -> Handler:
    async def handle(job: Job) -> Callable[[Connection], object]:
        raise error

    return handle


async def test_results_are_saved_with_the_jobs_end(database: Database, run: Any) -> None:
    """Every job is done once, and leaves its result and nothing else."""

    async def handle(job: Job) -> Callable[[Connection], object]:
        return lambda tx: note(tx, job.subject)

    await enqueue(database, *(f"c{n}" for n in range(20)))
    async with run(handle):
        await none_left(database)
    assert await database.read(read_notes) == sorted(f"c{n}" for n in range(20))


async def test_a_woken_worker_does_not_wait_for_its_round(database: Database, run: Any) -> None:
    """The round is a minute away here."""
    async with run(answer(lambda tx: note(tx, "c"))) as anne:
        await enqueue(database, "c1")
        anne.wake.set()
        await none_left(database)


async def test_a_job_that_falls_due_is_found_without_a_wake(
    database: Database, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have enqueued it, or a timer run out."""
    monkeypatch.setattr(worker, "POLL_S", 0.05)
    async with run(answer(lambda tx: None)):
        await enqueue(database, "c1")
        await none_left(database)


async def test_a_transient_failure_is_tried_again_later(database: Database, run: Any) -> None:
    """With its code, and never sooner than the provider asks."""
    await enqueue(database, "c1")
    async with run(fail(UpstreamOverloaded(retry_after_s=500))):
        job = await state_of(database, "due")
    assert (job.last_error, job.attempts) == ("upstream_overloaded", 1)
    assert await database.read(lambda conn: jobs.find_oldest_due(conn)) is None


async def test_a_refusal_is_not_tried_again(database: Database, run: Any) -> None:
    """The same request would be refused again."""
    await enqueue(database, "c1")
    async with run(fail(UpstreamRefused())):
        assert (await state_of(database, "dead")).last_error == "upstream_refused"


@pytest.mark.logs_errors
async def test_a_bug_is_logged_and_tried_again(database: Database, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It may be of the moment; the log has it whole, the row only that it was ours."""
    await enqueue(database, "c1")
    async with run(fail(ValueError("canary"))):
        assert (await state_of(database, "due")).last_error == "internal_error"
    assert "canary" in caplog.text


@pytest.mark.logs_errors
async def test_a_bug_in_saving_leaves_no_half_results(database: Database, run: Any) -> None:
    """The results of an attempt are saved whole or not at all, and the worker goes on."""

    def save(tx: Connection) -> None:
        note(tx, "half")
        raise ValueError

    await enqueue(database, "c1")
    async with run(answer(save)):
        await state_of(database, "due")
    assert await database.read(read_notes) == []


@pytest.mark.parametrize("when", ["before", "while saving"])
async def test_a_job_whose_subject_is_gone_is_done(database: Database, run: Any, when: str) -> None:
    """A conversation that was deleted needs no summary."""

    def raise_not_found(tx: Connection) -> None:
        raise NotFound

    await enqueue(database, "c1")
    async with run(fail(NotFound()) if when == "before" else answer(raise_not_found)):
        await none_left(database)


async def test_a_full_disk_delays_an_end_and_loses_nothing(
    database: Database, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work was done and may have cost money: its result waits until the disk takes it."""
    monkeypatch.setattr(worker, "_STORAGE_WAIT_S", 0.01)
    refusals = [StorageFull(), StorageFull()]

    def save(tx: Connection) -> None:
        note(tx, "c1")
        if refusals:
            raise refusals.pop()

    await enqueue(database, "c1")
    async with run(answer(save)):
        await none_left(database)
    assert await database.read(read_notes) == ["c1"]
    assert refusals == []


async def test_no_more_at_once_than_the_lane_is_wide(database: Database, run: Any) -> None:
    """What has no place waits; a place that becomes free is taken at once."""
    gate, now, most = Gate(), 0, 0

    async def handle(job: Job) -> Callable[[Connection], object]:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await gate.pass_through()
        now -= 1
        return lambda tx: None

    await enqueue(database, *(f"c{n}" for n in range(7)))
    async with run(handle, concurrency=3):
        await until(lambda: now == 3)
        gate.open()
        await none_left(database)
    assert most == 3


async def test_kinds_do_not_wait_for_each_other(database: Database, run: Any) -> None:
    """A model that hangs holds up no webhook."""
    hanging = asyncio.Event()

    async def hang(job: Job) -> Callable[[Connection], object]:
        hanging.set()
        await asyncio.Event().wait()
        raise AssertionError

    await enqueue(database, "c1")
    async with run(hang, concurrency=1, deliver=JobHandling(answer(lambda tx: note(tx, "delivered")))) as anne:
        await hanging.wait()
        await enqueue(database, "d1", kind="deliver")
        anne.wake.set()
        await until(lambda: database.read(read_notes))
    assert [job.kind for job in await list_jobs(database)] == ["extract"]


async def test_a_job_taken_over_meanwhile_is_saved_by_its_new_holder_alone(
    database: Database, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The old holder's results are rolled back, even if it finishes first."""
    caplog.set_level(logging.WARNING)
    begun, gate = asyncio.Event(), Gate()

    async def handle(job: Job) -> Callable[[Connection], object]:
        begun.set()
        await gate.pass_through()
        return lambda tx: note(tx, f"by fence {job.fence}")

    def take_over(tx: Connection) -> Job:
        jobs.expire_job_leases(tx)
        return jobs.claim_due_jobs(tx, "extract", owner=Owner("ben", 60), limit=1)[0]

    await enqueue(database, "c1")
    async with run(handle):
        await begun.wait()
        taken = await database.write(take_over)
        gate.open()
        await until(lambda: "taken over" in caplog.text)
    assert await database.read(read_notes) == []
    assert (await list_jobs(database))[0].fence == taken.fence


async def test_a_holder_that_finds_its_job_taken_stops_working_on_it(database: Database, run: Any) -> None:
    """Its lease round tells it; what it does would be for nothing."""
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def handle(job: Job) -> Callable[[Connection], object]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        raise AssertionError

    def take_over(tx: Connection) -> None:
        jobs.expire_job_leases(tx)
        jobs.claim_due_jobs(tx, "extract", owner=Owner("ben", 60), limit=1)

    await enqueue(database, "c1")
    async with run(handle, owner=Owner("anne", 0.3)):
        await begun.wait()
        await database.write(take_over)
        await stopped.wait()


async def test_a_long_job_keeps_its_lease(database: Database, run: Any) -> None:
    """It may take as long as it takes, while its process lives."""
    gate = Gate()
    seen: set[str | None] = set()

    async def handle(job: Job) -> Callable[[Connection], object]:
        await gate.pass_through()
        return lambda tx: note(tx, "done by its first holder")

    async def has_renewed() -> bool:
        seen.update(job.due_at for job in await list_jobs(database) if job.state == "running")
        return len(seen) > 4

    await enqueue(database, "c1")
    async with run(handle, owner=Owner("anne", 0.6)):
        await until(has_renewed)
        gate.open()
        await none_left(database)
    assert len(await database.read(read_notes)) == 1


async def hold(begun: asyncio.Event, release: Awaitable[Any]) -> None:
    begun.set()
    await release


async def test_a_shutdown_gives_back_what_it_cuts_short(database: Database, run: Any) -> None:
    """As if it had not begun; the next process takes it up at once."""
    begun = asyncio.Event()

    async def handle(job: Job) -> Callable[[Connection], object]:
        await hold(begun, asyncio.Event().wait())
        raise AssertionError

    await enqueue(database, "c1")
    async with run(handle):
        await begun.wait()
    [job] = await list_jobs(database)
    assert (job.state, job.attempts) == ("due", 0)
    async with run(answer(lambda tx: note(tx, "c1"))):
        await none_left(database)


async def test_a_drain_lets_jobs_end_within_their_grace(database: Database, run: Any) -> None:
    """And takes no new ones."""
    begun, gate = asyncio.Event(), Gate()

    async def handle(job: Job) -> Callable[[Connection], object]:
        await hold(begun, gate.pass_through())
        return lambda tx: note(tx, job.subject)

    await enqueue(database, "c1", "c2")
    async with run(handle, concurrency=1) as anne:
        await begun.wait()
        draining = asyncio.create_task(anne.drain(60))
        gate.open()
        await draining
        assert [job.state for job in await list_jobs(database)] == ["due"]
        assert len(await database.read(read_notes)) == 1


async def test_after_a_crash_the_next_process_takes_over_at_once_if_it_is_alone(database: Database, run: Any) -> None:
    """And waits for the lease if it is not."""
    await enqueue(database, "c1")
    await database.write(lambda tx: jobs.claim_due_jobs(tx, "extract", owner=Owner("crashed", 3600), limit=1))
    ben = Worker(database, Owner("ben", 60), {"extract": JobHandling(answer(lambda tx: note(tx, "c1")))})
    async with ben.running(alone=False):
        ben.wake.set()
        await until(lambda: not ben.wake.is_set())
        assert [job.attempts for job in await list_jobs(database)] == [1]
    async with Worker(database, Owner("cleo", 60), {"extract": JobHandling(answer(lambda tx: note(tx, "c1")))}).running(
        alone=True
    ):
        await none_left(database)


async def test_two_workers_share_the_work(database: Database, run: Any) -> None:
    """Two hundred jobs, two processes' worth of claims: each is done exactly once."""
    done: list[str] = []

    def make_handler(name: str) -> Handler:
        async def handle(job: Job) -> Callable[[Connection], object]:
            await asyncio.sleep(0)
            done.append(name)
            return lambda tx: note(tx, job.subject)  # a second save of the same would fail

        return handle

    await enqueue(database, *(f"c{n}" for n in range(200)))
    async with run(make_handler("anne"), owner=Owner("anne", 60)), run(make_handler("ben"), owner=Owner("ben", 60)):
        await none_left(database)
    assert len(done) == 200
    assert set(done) == {"anne", "ben"}
