"""What one caller may ask of the server, and whom it answers at all."""

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from staffstream.api.json_body import parse_json
from staffstream.api.rate_limits import RateLimits
from staffstream.domain import parse_time
from staffstream.errors import NotJson, TooManyRequests, TooManyStreams
from staffstream.models.prices import Spending, price_usage
from staffstream.settings import Settings, read_settings
from staffstream.storage import spending, staff
from tests.tools.databases import connect, transact
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S, Reply
from tests.tools.server import Api, make_keys, read_problem, serve_here

pytestmark = pytest.mark.anyio

BUDGETS = {"context_budget_tokens": 6000, "max_output_tokens": 4096}

# ── requests and streams ─────────────────────────────────────────────────────────────────────────────────────────────


def test_requests_are_counted_by_the_minute_and_by_holder() -> None:
    """The one that is too many is told how long to wait; another holder and the next minute are free."""
    now = 59.0
    limits = RateLimits(Settings(requests_per_minute=2), clock=lambda: now)
    limits.count_request("kim")
    now = 60.0
    limits.count_request("kim")
    limits.count_request("kim")
    now = 70.0
    with pytest.raises(TooManyRequests) as refused:
        limits.count_request("kim")
    assert refused.value.retry_after_s == 50
    limits.count_request("lee")
    now = 120.0
    limits.count_request("kim")


def test_places_for_streams_are_given_back() -> None:
    """However the stream ends; the places of all holders together are limited too."""
    limits = RateLimits(Settings(streams_per_key=1, streams=2))

    def break_off_a_stream() -> None:
        with limits.count_stream("kim"):
            with pytest.raises(TooManyStreams):
                limits.count_stream("kim").__enter__()
            with limits.count_stream(None), pytest.raises(TooManyStreams):
                limits.count_stream(None).__enter__()
            raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            break_off_a_stream()
    with limits.count_stream("kim"), limits.count_stream(None):
        assert limits.open_streams == 2
    assert limits.open_streams == 0


def test_zero_means_no_limit() -> None:
    """For each of the three."""
    limits = RateLimits(Settings(requests_per_minute=0, streams_per_key=0, streams=0))
    with contextlib.ExitStack() as stack:
        for _ in range(5000):
            limits.count_request("kim")
            stack.enter_context(limits.count_stream("kim"))
        assert limits.open_streams == 5000


async def test_a_key_that_asks_too_often_is_refused_for_a_while(db: Path, provider: ScriptedProvider) -> None:
    """429 with Retry-After; another key and the open paths are not touched."""
    keys = make_keys(db, ada="admin", bob="member")
    async with serve_here(db, provider, auth="keys", requests_per_minute=3) as api:
        answers = [await api.http.get("/staff", headers=keys["ada"]) for _ in range(7)]  # a minute may end within
        refused = next(answer for answer in answers if answer.status_code != 200)
        assert read_problem(refused)["code"] == "too_many_requests"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert (await api.http.get("/staff", headers=keys["bob"])).status_code == 200
        assert (await api.http.get(f"{api.url}/healthz")).status_code == 200


async def test_without_keys_nobody_is_counted(db: Path, provider: ScriptedProvider) -> None:
    """Everybody is the same user then."""
    async with serve_here(db, provider, requests_per_minute=1, streams_per_key=1) as api:
        for _ in range(5):
            await api.get("/staff")


@contextlib.asynccontextmanager
async def serve_two(db: Path, provider: ScriptedProvider, **settings: object) -> AsyncIterator[tuple[Api, Api, str]]:
    """A server with keys, as Ada and as Bob see it, and a staff member's id."""
    keys = make_keys(db, ada="admin", bob="member")
    async with serve_here(db, provider, auth="keys", **settings) as api:
        async with httpx.AsyncClient(base_url=api.http.base_url, headers=keys["bob"], trust_env=False) as http:
            api.http.headers.update(keys["ada"])
            yield api, Api(api.url, http), await api.make_staff()


async def test_one_key_has_so_many_open_streams_and_no_more(db: Path, provider: ScriptedProvider) -> None:
    """Joins count as well; what is refused saves nothing; a place is free again when a stream has ended."""
    async with serve_two(db, provider, streams_per_key=2) as (ada, bob, grace):
        gate = provider.hold(["one"])
        async with ada.stream(grace, "first") as first, ada.join(grace, first.run_id) as second:
            assert second.response.status_code == 200
            refused = await ada.ask(grace, "third", multitask_strategy="enqueue")
            assert (refused.status, refused.problem["code"]) == (429, "too_many_streams")
            assert (await ada.rejoin(grace, first.run_id)).status == 429
            provider.script(Reply(["hello bob"]))
            assert (await bob.ask(grace, "hi")).text == "hello bob"
            gate.open()
            await first.rest()
            await second.rest()
        assert await ada.said(grace) == ["first", "one"]
        assert (await ada.ask(grace, "again")).status == 200


async def test_a_stream_that_never_began_gives_its_place_back(db: Path, provider: ScriptedProvider) -> None:
    """Whether the question was refused, Claude refused, or the client left."""
    async with serve_two(db, provider, streams_per_key=1) as (ada, _, grace):
        for _ in range(3):
            assert (await ada.ask("nobody", "hi")).status == 404
        gate = provider.hold(["one"])
        async with ada.stream(grace, "hi") as stream_reader:
            run_id = stream_reader.run_id
        gate.open()
        while (received := await ada.rejoin(grace, run_id)).status == 429:
            await asyncio.sleep(0.01)  # until the server has noticed that its reader left
        assert received.text == "one"


async def test_requests_to_claude_beyond_the_limit_wait(db: Path, provider: ScriptedProvider) -> None:
    """The second reply is asked for when the first is whole."""
    async with serve_two(db, provider, upstream_concurrency=1) as (ada, bob, grace):
        gate = provider.hold(["one", " two"])
        gate.release()
        async with ada.stream(grace, "hi") as first:
            assert await first.token() == "one"
            provider.script(Reply(["later"]))
            async with bob.stream(grace, "hi") as second:  # answers after a second, with nothing said yet
                assert len(provider.chats) == 1
                gate.open()
                await first.rest()
                assert (await second.rest()).text == "later"
        assert len(provider.chats) == 2


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "body", ["[" * 33 + "]" * 33, '{"a":' * 33 + "1" + "}" * 33, '{"content":' + "[" * 900 + "]" * 900 + "}"]
)
async def test_json_nested_too_deep_is_refused(api: Api, ada: str, body: str) -> None:
    """Before anything looks into it."""
    answer = await api.http.post(f"/staff/{ada}/messages", content=body)
    assert (answer.status_code, read_problem(answer)["code"]) == (400, "not_json")


@pytest.mark.parametrize("number", ["1e400", "-1", "0", "9007199254740993", "18446744073709551616", "1" * 5000, "1.5"])
async def test_numbers_out_of_range_are_refused(api: Api, ada: str, number: str) -> None:
    """Whatever their size, and none becomes another number on the way."""
    answer = await api.http.patch(f"/staff/{ada}", content=f'{{"max_output_tokens": {number}}}')
    assert answer.status_code in (400, 422)
    assert (await api.get(f"/staff/{ada}"))["max_output_tokens"] is None


def test_deep_json_is_no_danger_to_the_parser() -> None:
    """Up to 32 levels there is a value, beyond that an error of ours."""
    assert parse_json(b"[" * 32 + b"]" * 32) is not None
    for depth in (33, 1000, 100_000):
        with pytest.raises(NotJson):
            parse_json(b"[" * depth + b"]" * depth)


# ── a day's caps ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_prices_go_by_the_longest_name_that_fits() -> None:
    """Dated names and future ones of a family included; a model of unknown price counts as the dearest."""
    million = {"input_tokens": 1_000_000}
    assert price_usage("claude-sonnet-5-5", million).cost_usd == 2
    assert price_usage("claude-sonnet-4-6-20260101", million).cost_usd == 3
    assert price_usage("claude-haiku-5-5", million).cost_usd == 0.1
    assert price_usage("claude-haiku-4-5-20251001", million).cost_usd == 1
    assert price_usage("another-model", million).cost_usd == 10
    assert price_usage("staffstream-offline", million).cost_usd == 0


def test_every_kind_of_token_has_its_price() -> None:
    """Input, output, written to the cache, read from it; unknown counts are no tokens."""
    usage = {
        "input_tokens": 1000, "output_tokens": 100, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 1,
        "something_new": 5,
    }  # fmt: skip
    spent = price_usage("m", usage, {"m": (1, 10, 100, 1000)})
    assert spent == Spending(1111, pytest.approx((1000 + 1000 + 1000 + 1000) / 1e6))


def test_prices_can_be_corrected_by_setting() -> None:
    """As JSON in the environment; what is no price is refused."""
    settings = read_settings({"STAFFSTREAM_PRICES": '{"claude-x": [1, 2, 3, 4]}'})
    assert settings.prices == {"claude-x": (1, 2, 3, 4)}
    for wrong in ("{", "[]", '{"m": [1]}', '{"m": [-1, 1, 1, 1]}'):
        with pytest.raises(Exception, match="STAFFSTREAM_PRICES"):
            read_settings({"STAFFSTREAM_PRICES": wrong})


@pytest.mark.parametrize(
    ("settings", "code", "bob_too"),
    [
        ({"user_tokens_per_day": 10}, "user_cap_reached", False),
        ({"user_cost_per_day": 0.0001}, "user_cap_reached", False),
        ({"staff_tokens_per_day": 10}, "staff_cap_reached", True),
        ({"staff_cost_per_day": 0.0001}, "staff_cap_reached", True),
    ],
)
async def test_a_cap_holds_for_the_day_and_over_a_restart(
    db: Path, provider: ScriptedProvider, settings: dict[str, float], code: str, bob_too: bool
) -> None:
    """What was asked before can still be had by its Idempotency-Key; another user or staff member has a cap of its
    own.
    """
    keys = make_keys(db, ada="admin", bob="member")
    async with serve_here(db, provider, auth="keys", **settings) as api:
        api.http.headers.update(keys["ada"])
        grace, other = await api.make_staff(), await api.make_staff("Linus")
        assert (await api.ask(grace, "hi", key="k")).status == 200
    async with serve_here(db, provider, auth="keys", **settings) as api:
        api.http.headers.update(keys["ada"])
        for refused in (await api.ask(grace, "more"), await api.ask(grace, "and more")):
            assert (refused.status, refused.problem["code"]) == (429, code)
            assert 1 <= int(refused.headers["retry-after"]) <= 86400
        assert (await api.send(grace, "more", 429))["code"] == code
        assert (await api.ask(grace, "hi", key="k")).status == 200
        assert len(await api.messages(grace)) == 2
        assert (await api.ask(other, "hi")).status == (200 if bob_too else 429)
        api.http.headers.update(keys["bob"])
        assert (await api.ask(grace, "hi")).status == (429 if bob_too else 200)


async def test_a_reply_that_is_broken_off_counts_too(db: Path, provider: ScriptedProvider) -> None:
    """Or cancelling every reply at its last word would be free."""
    async with serve_here(db, provider, user_tokens_per_day=20) as api:
        grace = await api.make_staff()
        provider.hold(["said", " more"]).release()
        async with api.stream(grace, "hi") as stream_reader:
            await stream_reader.token()
            await api.cancel(grace, stream_reader.run_id)
            await stream_reader.rest()
        assert (await api.ask(grace, "hi")).problem["code"] == "user_cap_reached"


async def test_asking_many_times_at_once_does_not_get_round_a_cap(db: Path, provider: ScriptedProvider) -> None:
    """A reply that is being made counts with the most it may take; when it has ended, with what it took."""
    async with serve_here(db, provider, auth="keys", user_tokens_per_day=10_000, **BUDGETS) as api:
        keys = make_keys(db, ada="admin", bob="member")
        api.http.headers.update(keys["ada"])
        grace = await api.make_staff()
        other = await api.post(f"/staff/{grace}/conversations", {}, 201)
        gate = provider.hold(["one"])
        async with api.stream(grace, "first") as first:
            refused = await api.ask(grace, "second", conversation_id=other["id"])
            assert (refused.status, refused.problem["code"]) == (429, "user_cap_reached")
            assert int(refused.headers["retry-after"]) < 60  # not until midnight
            gate.open()
            await first.rest()
        assert (await api.ask(grace, "second", conversation_id=other["id"])).status == 200


async def test_what_was_queued_before_a_cap_was_reached_waits_for_the_next_day(
    db: Path, provider: ScriptedProvider
) -> None:
    """Accepting many questions at once must not cost more than asking them one by one."""
    async with serve_here(db, provider, user_tokens_per_day=10) as api:
        grace = await api.make_staff()
        gate = provider.hold(["one"])
        sent = [await api.send(grace, f"question {number}") for number in range(3)]
        gate.open()
        await api.ended_run(grace, sent[0]["run_id"])
        with contextlib.closing(connect(db)) as connection:
            async with asyncio.timeout(DEADLINE_S):
                while not (waits := connection.execute("SELECT not_before FROM runs ORDER BY id").fetchall()[1][0]):
                    await asyncio.sleep(0.02)
        assert parse_time(waits).time() < datetime.time(0, 1)
        assert len(provider.chats) == 1


async def test_background_work_counts_too(db: Path, provider: ScriptedProvider) -> None:
    """What is learned from a conversation is paid for by its user."""
    async with serve_here(db, provider, extract_every_messages=2, user_tokens_per_day=100_000) as api:
        grace = await api.make_staff()
        provider.script(Reply(["Bergen is fine."]))
        reply = (await api.ask(grace, "I live in Bergen.")).end["usage"]
        with contextlib.closing(connect(db)) as connection:
            async with asyncio.timeout(DEADLINE_S):
                while spending.load_spending(connection, "user", "local").tokens <= sum(reply.values()):
                    await asyncio.sleep(0.01)


async def test_what_was_spent_on_other_days_does_not_count(db: Path, provider: ScriptedProvider) -> None:
    """A day begins at midnight UTC."""
    async with serve_here(db, provider, user_tokens_per_day=1000) as api:
        grace = await api.make_staff()
        with contextlib.closing(connect(db)) as connection:
            with transact(connection):
                scope = staff.ensure_scope(connection, grace, "local")
                spending.add_spending(connection, scope, Spending(999, 0.0))
                spending.sum_up_entries(connection)
                connection.execute("UPDATE spending_days SET day = '2026-01-01'")
            assert spending.load_spending(connection, "user", "local") == Spending(0, 0.0)
        assert (await api.ask(grace, "hi")).status == 200
