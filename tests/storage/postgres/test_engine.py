"""PostgreSQL as an engine: what it refuses, what it holds, and writers that meet each other."""

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import AsyncIterator

import psycopg
import pytest
from pydantic import SecretStr

from staffstream.domain import Owner, Run, Scope
from staffstream.errors import NotFound, SetupError, StorageUnavailable
from staffstream.storage import conversations, jobs, keys, memories, messages, meta, runs, staff
from staffstream.storage.database import Connection, Database
from staffstream.storage.engines import choose_engine
from staffstream.storage.postgres.tables import prepare_tables
from staffstream.storage.postgres.translation import translate
from tests.tools.postgres import Cluster
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with choose_engine(SecretStr(url)).open() as database:
        yield database


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://nobody:s3cret@127.0.0.1:1/x", "127.0.0.1:1/x cannot be reached"),
        ("postgresql://u:s3cret@host:port/x", "no usable address|cannot be reached"),
        ("postgresql://u:s3cret@/x?nonsense=1", "no usable address"),
    ],
)
def test_a_wrong_url_is_one_clear_line_without_its_password(url: str, words: str) -> None:
    with pytest.raises(SetupError, match=words) as caught:
        prepare_tables(url)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_role_that_may_not_create_tables_is_refused(cluster: Cluster, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN")
        schema = connection.execute("SELECT current_schema()").fetchone()
        assert schema is not None
        connection.execute(f"GRANT USAGE ON SCHEMA {schema[0]} TO reader".encode())
    with pytest.raises(SetupError, match="may not create tables"):
        prepare_tables(url.replace("postgres@", "reader@"))


def test_a_newer_schema_is_refused(url: str) -> None:
    prepare_tables(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE schema_version SET version = 999")
    with pytest.raises(SetupError, match="newer staffstream"):
        prepare_tables(url)


async def test_many_that_start_at_once_make_one_database(url: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(prepare_tables, url) for _ in range(6)))


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_any_unicode_is_kept_whole(database: Database) -> None:
    """U+0000 too, which PostgreSQL's text cannot hold, and what stands for it."""
    text = "a\0b \U0010ffff \U0010ffff0 👩‍👩‍👧 \u2028"
    await database.write(lambda tx: meta.set_note(tx, "k", text))
    assert await database.read(lambda conn: meta.find_note(conn, "k")) == text


@pytest.mark.logs_errors
async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(StorageUnavailable):
        await database.read(lambda conn: meta.set_note(conn, "k", "v"))


async def test_a_write_that_fails_leaves_no_trace(database: Database) -> None:
    def fail(tx: Connection) -> None:
        meta.set_note(tx, "k", "v")
        raise NotFound("no")

    with pytest.raises(NotFound):
        await database.write(fail)
    assert await database.read(lambda conn: meta.find_note(conn, "k")) is None


@pytest.mark.logs_errors
async def test_a_lost_connection_is_opened_again(cluster: Cluster, database: Database) -> None:
    """By the next piece of work, which goes through."""
    await database.write(lambda tx: meta.set_note(tx, "k", "1"))
    assert await database.read(lambda conn: meta.find_note(conn, "k")) == "1"
    for number in range(3):
        assert cluster.cut() > 0
        await database.write(lambda tx, number=number: meta.set_note(tx, "k", str(number)))  # type: ignore[misc]
        assert await database.read(lambda conn: meta.find_note(conn, "k")) == str(number)


@pytest.mark.logs_errors
async def test_a_write_whose_connection_is_lost_at_its_commit_is_not_run_again(database: Database) -> None:
    """It may have been committed: whoever asked is told that it is not known to be."""
    calls = 0

    def write(tx: Connection) -> None:
        nonlocal calls
        calls += 1
        meta.set_note(tx, "k", "v")
        commit = tx.driver.execute  # type: ignore[attr-defined]

        def cut(statement: str, *given: object) -> object:
            if statement == "COMMIT":
                tx.driver.execute = commit  # type: ignore[attr-defined]
                tx.driver.close()  # type: ignore[attr-defined]
            return commit(statement, *given)

        tx.driver.execute = cut  # type: ignore[attr-defined]

    with pytest.raises(StorageUnavailable):
        await database.write(write)
    assert calls == 1


def test_parameters_are_put_in_order() -> None:
    """By number and by name, each once; a question mark in quotes is none."""
    text, sources = translate("SELECT '?' WHERE a = ?2 AND b = ?1 AND c = ?2 LIMIT +?")
    assert (text, [source for source, _ in sources]) == (
        "SELECT '?' WHERE a = $1 AND b = $2 AND c = $1 LIMIT nullif($3, -1)",
        [1, 0, 0],
    )


# ── writers that meet ────────────────────────────────────────────────────────────────────────────────────────────────


def _accept(tx: Connection, staff_id: str, user: str, owner: Owner) -> Run:
    _, scope = staff.get_or_create_scope(tx, staff_id, user)
    conversation = conversations.ensure_conversation(tx, scope, None)
    message = messages.append_user_message(tx, scope, conversation, "Where is the boat?")
    memories.add_episode(tx, scope, message, speaker=user, embed=None)
    busy = runs.find_active_run(tx, scope, conversation.id)
    return runs.insert_run(tx, scope, conversation, message, mode="stream", owner=None if busy else owner)


def _end(tx: Connection, run: Run, owner: Owner) -> Run | None:
    assert runs.end_run(tx, run, "done", message_id=run.id)
    messages.append_reply(tx, run, "In the harbour.", status="complete")
    jobs.enqueue_job(tx, "extract", run.conversation_id, scope_id=run.scope_id, due_in_s=60, replace=True)
    return runs.claim_next_run(tx, owner=owner, conversation_id=run.conversation_id)[0]


@pytest.mark.parametrize(("scopes", "each"), [(4, 25), (64, 2)])
async def test_no_reply_is_lost_doubled_out_of_order_or_left_queued(
    url: str, database: Database, scopes: int, each: int
) -> None:
    """Two nodes with eight writers each accept and end replies of the same few, or many, scopes."""
    async with choose_engine(SecretStr(url)).open() as other:
        ada = (await database.write(lambda tx: staff.create_staff(tx, {"name": "Ada"}))).id

        async def talk(node: Database, name: str, user: str) -> None:
            owner = Owner(name, 60.0)
            run = await node.write(lambda tx: _accept(tx, ada, user, owner))
            going = run if run.state == "building" else None
            while going:
                going = await node.write(functools.partial(_end, run=going, owner=owner))

        talks = [
            talk(node, name, f"user {number}")
            for number in range(scopes)
            for _ in range(each)
            for node, name in ((database, "a"), (other, "b"))
        ]
        await asyncio.gather(*talks)
        states = await database.read(
            lambda conn: Counter(row["state"] for row in conn.execute("SELECT state FROM runs").fetchall())
        )
        assert states == {"done": 2 * scopes * each}
        for number in range(scopes):
            await _check_order(database, ada, f"user {number}", 2 * each)


async def _check_order(database: Database, staff_id: str, user: str, turns: int) -> None:
    def load(conn: Connection) -> list[list[str]]:
        scope = staff.find_scope(conn, staff_id, user)
        conversation = conversations.find_default_conversation(conn, scope)
        assert conversation is not None
        found = messages.load_turns(conn, scope, conversation.id, after_turn=0, before_turn=10**9, limit=10**6)
        return [[message.message_type for message in turn] for turn in found]

    assert await database.read(load) == [["user", "assistant"]] * turns


async def test_a_key_is_made_once_for_the_first_admin(database: Database) -> None:
    """Of two made at once only one can be the first."""
    made = await asyncio.gather(*(database.write(lambda tx, name=name: keys.create_key(tx, name)[0]) for name in "ab"))  # type: ignore[misc]
    assert sorted(key.role for key in made) == ["admin", "member"]


# ── presence and wake-ups ────────────────────────────────────────────────────────────────────────────────────────────


async def test_only_the_first_is_alone_until_it_shares(url: str) -> None:
    """A process that ends, however, takes its presence with it."""
    engine = choose_engine(SecretStr(url))
    engine.prepare()
    with contextlib.closing(engine.join()) as first:
        assert first.alone
        with contextlib.closing(engine.join()) as second:
            assert not second.alone
            entering = asyncio.create_task(second.enter())
            await first.share()
            await entering
    with contextlib.closing(engine.join()) as last:
        assert last.alone


async def test_a_process_that_lost_its_lock_takes_it_again(url: str, cluster: Cluster) -> None:
    """Whoever comes meanwhile must not take itself for the only one."""
    engine = choose_engine(SecretStr(url))
    engine.prepare()
    with contextlib.closing(engine.join()) as first:
        await first.share()
        async with first.kept():
            for _ in range(2):
                assert cluster.cut(of="query LIKE '%advisory%'") > 0

                def is_known() -> bool:
                    with contextlib.closing(engine.join()) as second:
                        return not second.alone

                await until(is_known)


async def test_who_starts_right_after_the_server_waits_for_the_others(url: str, cluster: Cluster) -> None:
    """All of them lost their locks with it, and come back within a moment."""
    engine = choose_engine(SecretStr(url))
    engine.prepare()
    with contextlib.closing(engine.join()) as first:
        await first.share()
        async with first.kept():
            cluster.stop()
            cluster.start()
            with contextlib.closing(engine.join()) as second:
                await second.enter()
                assert not second.alone


async def test_other_processes_are_woken_and_oneself_is_not(url: str, cluster: Cluster) -> None:
    """Also after the connections were cut: they come back."""
    engine = choose_engine(SecretStr(url))
    engine.prepare()
    async with engine.open_wakeups() as here, engine.open_wakeups() as there:

        async def announce_until_woken() -> None:
            waiting = asyncio.create_task(there.wait(30.0))
            while not waiting.done():
                here.announce({"run"})
                await asyncio.wait([waiting], timeout=0.05)

        loop = asyncio.get_running_loop()
        for _ in range(2):
            started = loop.time()
            await announce_until_woken()
            assert loop.time() - started < 20.0
            assert cluster.cut(of="query LIKE 'LISTEN%'") > 0


def test_scopes_of_two_users_are_apart(url: str) -> None:
    """Words of one scope are not found in another."""
    engine = choose_engine(SecretStr(url))
    engine.prepare()
    with contextlib.closing(engine.connect()) as connection, connection.transact():
        ada = staff.create_staff(connection, {"name": "Ada"}).id
        kim, bo = (staff.ensure_scope(connection, ada, user) for user in ("kim", "bo"))
        memories.add_memory(connection, kim, memories.NewMemory(text="Kim owns boats"), None)
        assert _find(connection, kim, "boat") == 1
        assert _find(connection, bo, "boat") == 0
        assert connection.search.has_phrase(connection, kim, "owns boats")
        assert not connection.search.has_phrase(connection, bo, "owns boats")


def _find(connection: Connection, scope: Scope, word: str) -> int:
    return sum(len(numbers) for numbers in connection.search.find_words(connection, scope, [word], most=10))
