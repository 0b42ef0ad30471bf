"""Asking for a reply again and again, at little cost; which mode to take; and a server that says when it lags."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from staffstream.api.rollout import choose_mode
from staffstream.storage import jobs
from tests.tools.databases import connect, transact
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import Gate, Reply, http_error
from tests.tools.server import Api, serve_here
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio


# ── looking for the reply ────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_location_of_a_202_is_the_run_with_a_hint_when_to_ask_again(
    api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """As long as the reply is not there; then there is nothing more to wait for."""
    gate = provider.hold(["Well", "."])
    sent = await api.http.post(f"/staff/{ada}/messages", json={"content": "Hi"})
    assert sent.status_code == 202
    assert int(sent.headers["retry-after"]) >= 1
    location = f"{api.url}{sent.headers['location']}"
    asked = await api.http.get(location)
    assert asked.json()["id"] == sent.json()["run_id"]
    assert asked.json()["state"] in ("queued", "building", "streaming")
    assert int(asked.headers["retry-after"]) == 1
    gate.open()
    await api.ended_run(ada, sent.json()["run_id"])
    ended = await api.http.get(location)
    assert ended.json()["state"] == "done"
    assert "retry-after" not in ended.headers


async def test_a_run_that_waits_for_another_attempt_says_for_how_long(db: Path, provider: ScriptedProvider) -> None:
    """Claude asked to be left alone: asking us earlier is for nothing."""
    provider.default = http_error(529, headers={"retry-after": "300"})
    async with serve_here(db, provider, upstream_retries=0) as api:
        ada = await api.make_staff()
        sent = await api.send(ada, "Hi")

        async def is_waiting() -> Any:
            answer = await api.http.get(f"/staff/{ada}/runs/{sent['run_id']}")
            return answer if int(answer.headers["retry-after"]) > 1 else None

        answer = await until(is_waiting)
        assert answer.json()["state"] == "queued"
        assert 290 <= int(answer.headers["retry-after"]) <= 300


async def test_the_messages_hold_finished_ones_only_newest_first(
    api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """The guide's poller looks at messages[0] and takes an assistant's for the answer."""
    gate = provider.hold(["Half", " done"])
    sent = await api.send(ada, "Hi")
    gate.release(1)
    await provider.arrived(1)
    assert [message["message_type"] for message in await api.messages(ada)] == ["user"]
    gate.open()
    await api.ended_run(ada, sent["run_id"])
    latest = (await api.messages(ada))[0]
    assert (latest["message_type"], latest["content"]) == ("assistant", "Half done")


# ── conditional requests ─────────────────────────────────────────────────────────────────────────────────────────────


async def ask_twice(api: Api, path: str, **query: Any) -> tuple[Any, Any]:
    """The answer, and the one to a client that has it already."""
    first = await api.http.get(path, params=query)
    assert first.status_code == 200
    second = await api.http.get(path, params=query, headers={"If-None-Match": first.headers["etag"]})
    return first, second


@pytest.fixture
async def paths(api: Api, ada: str) -> dict[str, str]:
    """What a client polls."""
    received = await api.ask(ada, "Hi")
    return {
        "list": f"/staff/{ada}/messages",
        "message": f"/staff/{ada}/messages/{received.run_id}",
        "run": f"/staff/{ada}/runs/{received.run_id}",
        "conversations": f"/staff/{ada}/conversations",
        "deliveries": f"/staff/{ada}/deliveries",
    }


@pytest.mark.parametrize("name", ["list", "message", "run", "conversations", "deliveries"])
async def test_an_unchanged_answer_is_not_sent_again(api: Api, paths: dict[str, str], name: str) -> None:
    """304, with the tag and without a body; a browser's cache may keep it but has to ask."""
    first, second = await ask_twice(api, paths[name])
    assert (second.status_code, second.content) == (304, b"")
    assert second.headers["etag"] == first.headers["etag"]
    assert second.headers["cache-control"] == first.headers["cache-control"] == "private, no-cache"


@pytest.mark.parametrize("form", ["{tag}", "W/{tag}", '"x", {tag}', 'W/"x" , W/{tag},', "*"])
async def test_every_form_of_the_condition_is_understood(api: Api, paths: dict[str, str], form: str) -> None:
    """RFC 9110, 13.1.2: lists, weak tags (a proxy that compresses weakens them), and any."""
    tag = (await api.http.get(paths["list"])).headers["etag"]
    known = {"If-None-Match": form.replace("{tag}", tag)}
    assert (await api.http.get(paths["list"], headers=known)).status_code == 304


@pytest.mark.parametrize("condition", ["", '""', "x", '"0123456789abcdef"', "W/", ",,", "ü".encode().decode("latin-1")])
async def test_any_other_condition_gets_the_whole_answer(api: Api, paths: dict[str, str], condition: str) -> None:
    """Strange ones too."""
    headers = [(b"If-None-Match", condition.encode("latin-1"))]
    answer = await api.http.get(paths["list"], headers=headers)
    assert answer.status_code == 200
    assert len(answer.json()) == 2


async def test_whatever_changes_an_answer_changes_its_tag(api: Api, ada: str, paths: dict[str, str]) -> None:
    """A new message, feedback, another page."""
    tags = {(await api.http.get(paths["list"])).headers["etag"]}
    tags.add((await api.http.get(paths["list"], params={"limit": 1})).headers["etag"])
    await api.post(f"{paths['message']}/feedback", {"rating": 1})
    tags.add((await api.http.get(paths["list"])).headers["etag"])
    await api.ask(ada, "More")
    tags.add((await api.http.get(paths["list"])).headers["etag"])
    assert len(tags) == 4


async def test_a_growing_run_is_new_each_time(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Its partial text is part of what is tagged; the hint when to ask again comes with a 304 too."""
    gate = provider.hold(["One", " two"])
    async with api.stream(ada, "Hi") as stream_reader:
        path = f"/staff/{ada}/runs/{stream_reader.run_id}"
        gate.release(1)
        await stream_reader.until("One")
        first, second = await ask_twice(api, path)
        assert (second.status_code, second.headers["retry-after"]) == (304, "1")
        gate.release(1)
        await stream_reader.until("One two")
        third = await api.http.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert third.json()["partial_text"] == "One two"
        gate.open()
        await stream_reader.rest()


# ── both modes ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_both_doors_serve_one_conversation_side_by_side(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """What was asked by the one is history for the other; the run's mode is told."""
    provider.script(Reply(["first"]), Reply(["second"]), Reply(["third"]))
    one = await api.ask(ada, "stream")
    two = await api.send(ada, "async")
    await api.ended_run(ada, two["run_id"])
    three = await api.ask(ada, "stream again")
    assert await api.said(ada) == ["stream", "first", "async", "second", "stream again", "third"]
    assert [(await api.run(ada, run))["mode"] for run in (one.run_id, two["run_id"], three.run_id)] == [
        "stream",
        "async",
        "stream",
    ]
    texts = [
        block["text"] for turn in provider.requests[2].body["messages"] for block in turn["content"] if "text" in block
    ]
    for said in ("stream", "first", "async", "second"):
        assert any(said in text for text in texts)


async def test_an_asynchronous_run_is_joined_and_cancelled_like_any_other(
    api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """The same run from the same pipeline."""
    gate = provider.hold(["One", " two", " three"])
    sent = await api.send(ada, "Hi")
    async with api.join(ada, sent["run_id"]) as stream_reader:
        gate.release(2)
        await stream_reader.until("One two")
        assert (await api.cancel(ada, sent["run_id"]))["state"] == "cancelled"
        received = await stream_reader.rest()
    assert received.end == {
        "type": "done",
        "message_id": sent["run_id"],
        "stop_reason": None,
        "usage": None,
        "cancelled": True,
    }
    context = await api.get(f"/staff/{ada}/messages/{sent['run_id']}/context")
    assert context["sections"]


async def test_one_conversation_is_answered_in_order_and_others_meanwhile(db: Path, provider: ScriptedProvider) -> None:
    """Each question sees the replies before it; as many conversations at once as the setting allows."""
    provider.default = Reply(["An", " answer"], gate=(gate := Gate()))
    async with serve_here(db, provider, async_concurrency=2) as api:
        ada = await api.make_staff()
        threads = [(await api.post(f"/staff/{ada}/conversations", {}, 201))["id"] for _ in range(3)]
        for turn in range(2):
            for thread in threads:
                await api.send(ada, f"question {turn}", conversation_id=thread)
        await provider.arrived(2)
        states = [run["state"] for run in await _list_runs(db)]
        assert sorted(states).count("queued") == 4
        gate.open()

        async def all_answered() -> bool:
            return all([len(await api.said(ada, conversation_id=thread)) == 4 for thread in threads])

        await until(all_answered)
        for thread in threads:
            assert await api.said(ada, conversation_id=thread) == ["question 0", "An answer", "question 1", "An answer"]
    for request in provider.requests:
        assert [turn["role"] for turn in request.body["messages"]] in (["user"], ["user", "assistant", "user"])


async def _list_runs(db: Path) -> list[Any]:
    with contextlib.closing(connect(db, read_only=True)) as connection:
        return connection.execute("SELECT * FROM runs ORDER BY id").fetchall()


@pytest.mark.parametrize(("share", "mode"), [(0.0, "async"), (1.0, "stream")])
async def test_a_client_is_told_which_door_to_take(
    db: Path, provider: ScriptedProvider, share: float, mode: str
) -> None:
    """And the path to post to, which works as it stands."""
    async with serve_here(db, provider, stream_share=share) as api:
        ada = await api.make_staff()
        told = await api.get(f"/staff/{ada}/mode")
        assert told["mode"] == mode
        answer = await api.http.post(f"{api.url}{told['path']}", json={"content": "Hi"})
        assert answer.status_code == (200 if mode == "stream" else 202)
        await api.get("/staff/nobody/mode", 404)


def test_the_share_is_stable_and_grows_without_sending_anybody_back() -> None:
    """About the share that was asked for; whoever streams at a tenth streams at a half."""
    users = [f"user {number}" for number in range(2000)]
    streaming: set[str] = set()
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        now = {user for user in users if choose_mode(user, share) == "stream"}
        assert streaming <= now
        assert abs(len(now) / len(users) - share) < 0.04
        streaming = now
    assert choose_mode("kim", 0.5) == choose_mode("kim", 0.5)


# ── a queue that stands still ────────────────────────────────────────────────────────────────────────────────────────


async def read_checks(api: Api, name: str = "queue") -> tuple[int, Any]:
    answer = await api.http.get(f"{api.url}/readyz")
    return answer.status_code, answer.json()["checks"][name]


async def test_readiness_tells_of_a_job_that_is_due_and_not_taken(db: Path, provider: ScriptedProvider) -> None:
    """Older than the setting. Replies are fine without it, so the server is ready all the same."""
    async with serve_here(db, provider, max_queue_age_s=60) as api:
        assert await read_checks(api, "background") == (200, "ok")
        await api.app.state.services.worker.drain(0)  # nobody takes jobs any more
        with contextlib.closing(connect(db)) as other, transact(other):
            jobs.enqueue_job(other, "extract", "nothing", due_in_s=-59)
        assert await read_checks(api, "background") == (200, "ok")
        with contextlib.closing(connect(db)) as other, transact(other):
            jobs.enqueue_job(other, "extract", "nothing", due_in_s=-61)
        assert await read_checks(api, "background") == (200, "behind")
        [job] = await api.get("/jobs")
        await api.http.delete(f"/jobs/{job['id']}")
        assert await read_checks(api, "background") == (200, "ok")


async def test_readiness_fails_while_a_reply_that_could_begin_does_not(db: Path, provider: ScriptedProvider) -> None:
    """One that waits for the turn of its conversation is not stuck, however long it waits."""
    provider.default = Reply(gate=(gate := Gate()))
    async with serve_here(db, provider, async_concurrency=1, max_queue_age_s=60) as api:
        ada = await api.make_staff()
        for text in ("being made", "waiting for its turn"):
            await api.send(ada, text)
        await provider.arrived(1)
        _age_queue(db)
        assert await read_checks(api) == (200, "ok")
        other = (await api.post(f"/staff/{ada}/conversations", {}, 201))["id"]
        await api.send(ada, "could begin if there were room", conversation_id=other)
        _age_queue(db)
        assert await read_checks(api) == (503, "stuck")
        gate.open()

        async def is_ready() -> bool:
            return await read_checks(api) == (200, "ok")

        await until(is_ready)


def _age_queue(db: Path) -> None:
    with contextlib.closing(connect(db)) as other, transact(other):
        other.execute("UPDATE runs SET created_at = '2000-01-01T00:00:00.000Z' WHERE state = 'queued'")
