"""The jobs room: enqueueing, claiming, ending, and looking after durable work."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staffstream.domain import Owner, parse_time
from staffstream.errors import Conflict, NotFound
from staffstream.storage import jobs, runs, staff
from staffstream.storage.database import Connection
from staffstream.storage.jobs import Job
from staffstream.storage.schema import read_schema
from staffstream.storage.sqlite.connections import connect as sqlite_connect
from tests.tools.databases import connect, prepare

ANNE, BEN = Owner("anne", 60), Owner("ben", 60)


@pytest.fixture
def file(db: Path) -> Iterator[Connection]:
    prepare(db)
    with contextlib.closing(connect(db)) as connection:
        yield connection


def claim(conn: Connection, owner: Owner = ANNE, *, limit: int = 10) -> list[Job]:
    return jobs.claim_due_jobs(conn, "extract", owner=owner, limit=limit)


def claim_one(conn: Connection, owner: Owner = ANNE) -> Job:
    [job] = claim(conn, owner)
    return job


def make_all_due(conn: Connection) -> None:
    """Let the time pass that waiting jobs wait for, and leases too."""
    conn.execute("UPDATE jobs SET due_at = '2000-01-01T00:00:00.000Z' WHERE due_at IS NOT NULL")


def due_in_s(job: Job) -> float:
    assert job.due_at is not None
    return (parse_time(job.due_at) - datetime.now(UTC)).total_seconds()


# ── enqueueing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_subject_has_one_job_at_the_earliest_time_asked_for(file: Connection) -> None:
    """Asking twice is asking once; the earlier time counts, in whichever order."""
    for wait_s in (300, 100, 200):
        jobs.enqueue_job(file, "extract", "c1", due_in_s=wait_s)
    [job] = jobs.list_jobs(file)
    assert 90 < due_in_s(job) <= 100


def test_kinds_and_subjects_are_apart(file: Connection) -> None:
    """The same subject may have a job of each kind."""
    for kind, subject in (("extract", "c1"), ("summarise", "c1"), ("extract", "c2")):
        jobs.enqueue_job(file, kind, subject)  # type: ignore[arg-type]
    assert {job.subject for job in claim(file)} == {"c1", "c2"}
    assert [job.kind for job in jobs.claim_due_jobs(file, "summarise", owner=ANNE, limit=10)] == ["summarise"]


def test_an_idle_timer_is_pushed_back_by_each_call(file: Connection) -> None:
    """With `replace` the last time counts, be it later or earlier."""
    jobs.enqueue_job(file, "extract", "c1")
    jobs.enqueue_job(file, "extract", "c1", due_in_s=300, replace=True)
    assert claim(file) == []
    jobs.enqueue_job(file, "extract", "c1", due_in_s=-1, replace=True)
    assert claim_one(file).subject == "c1"


@pytest.mark.parametrize("replace", [False, True])
def test_what_is_asked_for_while_a_job_runs_is_done_after_it(file: Connection, replace: bool) -> None:
    """The running job may have looked before what was asked for happened: it is run once more, afresh."""
    jobs.enqueue_job(file, "extract", "c1")
    first = claim_one(file)
    jobs.enqueue_job(file, "extract", "c1", replace=replace)
    assert claim(file, BEN) == [], "never twice at the same time"
    assert jobs.complete_job(file, first)
    second = claim_one(file, BEN)
    assert (second.subject, second.attempts) == ("c1", 1)
    assert jobs.complete_job(file, second)
    assert jobs.list_jobs(file) == []


def test_the_time_asked_for_while_a_job_runs_is_kept(file: Connection) -> None:
    """An idle timer that is set during the run does not go off at the run's end."""
    jobs.enqueue_job(file, "extract", "c1")
    first = claim_one(file)
    jobs.enqueue_job(file, "extract", "c1", due_in_s=300, replace=True)
    jobs.complete_job(file, first)
    assert claim(file) == []
    assert 290 < due_in_s(jobs.list_jobs(file)[0]) <= 300


def test_a_job_enqueued_in_a_transaction_that_fails_does_not_exist(file: Connection) -> None:
    """Cause and job are one."""
    file.execute("BEGIN IMMEDIATE")
    jobs.enqueue_job(file, "extract", "c1")
    file.execute("ROLLBACK")
    assert claim(file) == []


def test_one_queue_does_not_hold_up_the_others(file: Connection) -> None:
    """Of a queue's jobs a few run at a time, whoever runs them; its others neither count as due nor block what is due
    after them.
    """
    for number in range(3 * jobs.MAX_RUNNING_PER_QUEUE):
        jobs.enqueue_job(file, "extract", f"slow {number}", queue="slow")
    for number in range(3):
        jobs.enqueue_job(file, "extract", f"quick {number}", queue="quick")
    first = claim(file, ANNE, limit=3)
    assert [job.subject for job in first] == ["slow 0", "slow 1", "slow 2"]
    rest = claim(file, BEN, limit=64)
    assert [job.queue for job in first + rest].count("slow") == jobs.MAX_RUNNING_PER_QUEUE
    assert [job.subject for job in rest if job.queue == "quick"] == ["quick 0", "quick 1", "quick 2"]
    assert claim(file) == []
    assert jobs.find_oldest_due(file) is None
    assert jobs.complete_job(file, first[0])
    assert [job.queue for job in claim(file, limit=5)] == ["slow"]
    make_all_due(file)  # their holders left them
    assert [job.queue for job in claim(file, limit=64)].count("slow") == jobs.MAX_RUNNING_PER_QUEUE


def test_scopes_take_turns(file: Connection) -> None:
    """Who asked for many things first does not make others wait for all of them."""
    member = staff.create_staff(file, {"name": "Ada"}).id
    many, few = (staff.ensure_scope(file, member, user).id for user in ("many", "few"))
    for number in range(10):
        jobs.enqueue_job(file, "extract", f"many {number}", scope_id=many, due_in_s=-60 + number)
    jobs.enqueue_job(file, "extract", "few", scope_id=few)
    assert [job.subject for job in claim(file, limit=4)] == ["many 0", "few", "many 1", "many 2"]


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_is_held_by_one(file: Connection) -> None:
    """What one process has claimed, another one does not get."""
    for number in range(5):
        jobs.enqueue_job(file, "extract", f"c{number}")
    mine, yours = claim(file, ANNE, limit=2), claim(file, BEN)
    assert len(mine) == 2
    assert len(yours) == 3
    assert {job.id for job in mine}.isdisjoint(job.id for job in yours)


def test_the_oldest_are_taken_first(file: Connection) -> None:
    """By the time at which they fell due, not by that of enqueueing."""
    for subject, wait_s in (("new", -1.0), ("old", -3.0), ("middle", -2.0)):
        jobs.enqueue_job(file, "extract", subject, due_in_s=wait_s)
    assert [job.subject for job in claim(file, limit=2)] == ["old", "middle"]


def test_a_job_whose_lease_ran_out_is_taken_over(file: Connection) -> None:
    """The old holder can neither complete nor fail it, and finds out when it renews; the new one can."""
    jobs.enqueue_job(file, "extract", "c1")
    lost = claim_one(file, Owner("anne", -1))
    taken = claim_one(file, BEN)
    assert taken.id == lost.id
    assert taken.fence > lost.fence
    assert jobs.complete_job(file, lost) is False
    assert jobs.fail_job(file, lost, "boom", retryable=True) is None
    assert jobs.renew_job_leases(file, owner=ANNE) == {}
    assert jobs.renew_job_leases(file, owner=BEN) == {taken.id: taken.fence}
    assert jobs.complete_job(file, taken) is True


def test_a_renewed_lease_holds(file: Connection) -> None:
    """As long as its holder gives signs of life, a job is its own."""
    jobs.enqueue_job(file, "extract", "c1")
    job = claim_one(file, Owner("anne", -1))
    assert jobs.renew_job_leases(file, owner=ANNE) == {job.id: job.fence}
    assert claim(file, BEN) == []
    assert jobs.complete_job(file, job)


def test_a_job_that_was_returned_counts_as_not_begun(file: Connection) -> None:
    """A shutdown is not the job's fault."""
    jobs.enqueue_job(file, "extract", "c1")
    claim_one(file, ANNE)
    jobs.return_jobs(file, owner=ANNE)
    assert claim_one(file, BEN).attempts == 1


def test_one_that_is_alone_takes_over_at_once(file: Connection) -> None:
    """After a crash nobody waits for the leases of the dead."""
    jobs.enqueue_job(file, "extract", "c1")
    claim_one(file, ANNE)
    assert claim(file, BEN) == []
    jobs.expire_job_leases(file)
    assert claim_one(file, BEN).attempts == 2


# ── failing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["deliver", "extract"])
def test_attempts_follow_the_schedule_and_then_the_job_is_dead(file: Connection, kind: jobs.JobKind) -> None:
    """Each wait lies within 20 % of the listed one; after the last attempt nothing is tried any more."""
    jobs.enqueue_job(file, kind, "x")
    waits_s = jobs.list_waits_s(kind)
    for number, wait_s in enumerate(waits_s, 1):
        [job] = jobs.claim_due_jobs(file, kind, owner=ANNE, limit=1)
        assert job.attempts == number
        assert not job.on_last_attempt
        assert jobs.fail_job(file, job, f"boom {number}", retryable=True) == "due"
        [job] = jobs.list_jobs(file)
        assert wait_s * 0.8 - 1 < due_in_s(job) <= wait_s * 1.2
        assert job.last_error == f"boom {number}"
        make_all_due(file)
    [job] = jobs.claim_due_jobs(file, kind, owner=ANNE, limit=1)
    assert job.on_last_attempt
    assert jobs.fail_job(file, job, "the last", retryable=True) == "dead"
    make_all_due(file)
    assert jobs.claim_due_jobs(file, kind, owner=ANNE, limit=1) == []


def test_deliveries_are_tried_over_more_than_a_day() -> None:
    """The contract's schedule."""
    assert jobs.list_waits_s("deliver") == (5, 30, 5 * 60, 30 * 60, 2 * 3600, 8 * 3600, 24 * 3600)


def test_the_waits_are_spread(file: Connection) -> None:
    """Many jobs that fail together do not come back together."""
    for number in range(50):
        jobs.enqueue_job(file, "extract", f"c{number}")
    for job in claim(file, limit=50):
        jobs.fail_job(file, job, "boom", retryable=True)
    waits_s = [due_in_s(job) for job in jobs.list_jobs(file)]
    assert max(waits_s) - min(waits_s) > 0.5


def test_the_far_ends_own_wish_is_never_undercut(file: Connection) -> None:
    """Retry-After counts when it is longer than ours, up to a month."""
    for asked_s, least_s, most_s in ((1.0, 4, 6), (1000.0, 990, 1000), (1e300, 2_591_000, 2_592_000)):
        jobs.enqueue_job(file, "extract", "c1", due_in_s=-1, replace=True)
        jobs.fail_job(file, claim_one(file), "boom", retryable=True, retry_after_s=asked_s)
        [job] = jobs.list_jobs(file)
        assert least_s - 1 < due_in_s(job) <= most_s
        jobs.drop_job(file, job.id)


def test_what_cannot_succeed_is_dead_at_once(file: Connection) -> None:
    """And what was asked for while it ran is a job of its own."""
    jobs.enqueue_job(file, "extract", "c1")
    job = claim_one(file)
    jobs.enqueue_job(file, "extract", "c1")
    assert jobs.fail_job(file, job, "refused", retryable=False) == "dead"
    assert {each.state for each in jobs.list_jobs(file)} == {"dead", "due"}
    fresh = claim_one(file)
    assert fresh.id != job.id
    assert fresh.attempts == 1


def test_a_failure_and_what_was_asked_meanwhile_are_one_retry(file: Connection) -> None:
    """The next attempt sees both, after its wait."""
    jobs.enqueue_job(file, "extract", "c1")
    job = claim_one(file)
    jobs.enqueue_job(file, "extract", "c1")
    jobs.fail_job(file, job, "boom", retryable=True)
    assert claim(file) == []
    make_all_due(file)
    assert claim_one(file).attempts == 2


def test_a_job_that_ends_its_process_each_time_is_dead_in_the_end(file: Connection) -> None:
    """Nobody fails it, since whoever runs it dies; so attempts count when they begin."""
    jobs.enqueue_job(file, "extract", "c1")
    for _ in range(len(jobs.list_waits_s("extract")) + 1):
        claim_one(file)
        make_all_due(file)
    assert claim(file) == []
    [job] = jobs.list_jobs(file, state="dead")
    assert job.last_error == "abandoned"


def test_crashes_cost_a_delivery_none_of_its_attempts(file: Connection) -> None:
    """A server that crashes in a loop, for whatever reason, must not use up the schedule that is for its receiver."""
    jobs.enqueue_job(file, "deliver", "d1")
    for _ in range(50):
        [job] = jobs.claim_due_jobs(file, "deliver", owner=ANNE, limit=1)
        make_all_due(file)
    assert job.attempts == 1
    assert jobs.fail_job(file, job, "boom", retryable=True) == "due"
    [job] = jobs.list_jobs(file)
    assert due_in_s(job) <= 6
    make_all_due(file)
    while found := jobs.claim_due_jobs(file, "deliver", owner=ANNE, limit=1):
        assert found[0].fence <= 200, "but it is not begun for ever"
        make_all_due(file)
    assert [job.last_error for job in jobs.list_jobs(file, state="dead")] == ["abandoned"]


# ── looking after ────────────────────────────────────────────────────────────────────────────────────────────────────


def bury(file: Connection, subject: str = "c1") -> Job:
    jobs.enqueue_job(file, "extract", subject)
    jobs.fail_job(file, claim_one(file), "refused", retryable=False)
    return jobs.list_jobs(file, state="dead")[0]


def test_a_dead_job_can_be_retried(file: Connection) -> None:
    """With all its attempts before it."""
    dead = bury(file)
    assert jobs.retry_job(file, dead.id).state == "due"
    assert claim_one(file).attempts == 1
    assert jobs.list_jobs(file, state="dead") == []


def test_retrying_a_dead_job_beside_a_live_one_leaves_one(file: Connection) -> None:
    """The live one is hastened."""
    dead = bury(file)
    jobs.enqueue_job(file, "extract", "c1", due_in_s=300)
    jobs.retry_job(file, dead.id)
    assert len(jobs.list_jobs(file)) == 1
    assert claim_one(file).subject == "c1"


def test_a_running_job_is_neither_retried_nor_dropped(file: Connection) -> None:
    """It has a holder who relies on it."""
    jobs.enqueue_job(file, "extract", "c1")
    job = claim_one(file)
    for change in (jobs.retry_job, jobs.drop_job):
        with pytest.raises(Conflict):
            change(file, job.id)
    assert jobs.complete_job(file, job)


def test_a_dropped_job_is_gone(file: Connection) -> None:
    """And so is a finished one; neither can be found."""
    dead = bury(file)
    assert jobs.drop_job(file, dead.id) == dead
    for ask in (jobs.get_job, jobs.retry_job, jobs.drop_job):
        with pytest.raises(NotFound):
            ask(file, dead.id)


def test_jobs_are_listed_newest_first_in_pages(file: Connection) -> None:
    """Filtered by state and kind."""
    for number in range(5):
        jobs.enqueue_job(file, "extract", f"c{number}")
    jobs.enqueue_job(file, "embed", "s1")
    first = jobs.list_jobs(file, kind="extract", limit=3)
    rest = jobs.list_jobs(file, kind="extract", limit=3, before=first[-1].id)
    assert [job.subject for job in (*first, *rest)] == ["c4", "c3", "c2", "c1", "c0"]
    assert [job.kind for job in jobs.list_jobs(file, state="due")] == ["embed", *["extract"] * 5]
    assert jobs.list_jobs(file, state="dead") == []


def test_the_queue_is_measured(file: Connection) -> None:
    """Waiting, due, running and dead of each kind, and since when the oldest has been due."""
    bury(file, "dead")
    jobs.enqueue_job(file, "extract", "running")
    claim_one(file)
    jobs.enqueue_job(file, "extract", "waiting", due_in_s=300)
    assert jobs.find_oldest_due(file) is None
    jobs.enqueue_job(file, "extract", "due", due_in_s=-5)
    jobs.enqueue_job(file, "embed", "left behind")
    jobs.claim_due_jobs(file, "embed", owner=Owner("gone", -1), limit=1)
    embed, extract = jobs.measure_jobs(file)
    assert (extract.waiting, extract.due, extract.running, extract.dead) == (1, 1, 1, 1)
    assert (embed.due, embed.running) == (1, 0)
    assert extract.oldest_due_at == jobs.find_oldest_due(file) == jobs.find_oldest_due(file, ["extract"])


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("SELECT min(due_at) FROM jobs WHERE kind = 'embed' AND due_at <= '2'", "jobs_by_due"),
        ("SELECT * FROM jobs WHERE kind = 'embed' AND due_at <= '2' ORDER BY due_at LIMIT 5", "jobs_by_due"),
        (f"SELECT count(*) FROM runs WHERE {runs._IS_NEXT}", "runs_queued"),
        (
            f"SELECT count(*) FROM runs WHERE {runs._IS_NEXT}",
            "runs_of_conversation (conversation_id=? AND finished_at=?",
        ),
        ("SELECT * FROM runs WHERE conversation_id = 'c' AND finished_at IS NULL", "AND finished_at=?"),
    ],
)
def test_the_rounds_look_into_an_index(statement: str, index: str) -> None:
    """What is asked every second must not cost more the more there has been."""
    with contextlib.closing(sqlite_connect(":memory:")) as connection:
        connection.executescript(read_schema())
        plan = " / ".join(row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
        assert index in plan
        assert "SCAN jobs" not in plan
        assert "SCAN runs " not in plan.replace("SCAN runs USING INDEX runs_queued", "")


# ── all of it together ───────────────────────────────────────────────────────────────────────────────────────────────

STEPS = st.lists(
    st.sampled_from(["ask", "ask later", "anne", "ben", "end", "fail", "refuse", "time", "retry"]), max_size=40
)


@given(steps=STEPS)
@settings(max_examples=150, deadline=None)
def test_nothing_asked_for_is_lost_and_nothing_runs_twice_at_once(steps: list[str]) -> None:
    """Whatever happens in whichever order: at most one live job a subject, at most one holder whose end counts, and
    work that was asked for after it was last begun is still to be done.
    """
    with contextlib.closing(sqlite_connect(":memory:")) as file:
        file.executescript(read_schema())
        held: list[Job] = []
        owed = False
        for step in steps:
            match step:
                case "ask":
                    jobs.enqueue_job(file, "extract", "c1")
                    owed = True
                case "ask later":
                    jobs.enqueue_job(file, "extract", "c1", due_in_s=300, replace=True)
                    owed = True
                case "anne" | "ben":
                    claimed = claim(file, ANNE if step == "anne" else BEN)
                    held += claimed
                    owed = owed and not claimed
                case "end":
                    ended = [job for job in held if jobs.complete_job(file, job)]
                    assert ended in ([], held[-1:])
                case "fail" | "refuse":
                    failed = [jobs.fail_job(file, job, "boom", retryable=step == "fail") for job in held]
                    owed = owed or "due" in failed
                case "time":
                    make_all_due(file)
                case "retry":
                    for job in jobs.list_jobs(file, state="dead"):
                        jobs.retry_job(file, job.id)
                        owed = True
            live = [job for job in jobs.list_jobs(file) if job.state != "dead"]
            assert len(live) <= 1
            if owed:
                assert live
                assert live[0].state == "due" or live[0].again_at
