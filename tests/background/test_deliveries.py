"""Webhooks as their user meets them: which ends of runs are told, the log, sending again, rotation, crashes."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from staffstream.background import public_addresses
from staffstream.background.webhooks import ATTEMPT_S
from staffstream.storage.jobs import MAX_RUNNING_PER_QUEUE
from staffstream.storage.staff import make_webhook_secret
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import CASES
from tests.tools.provider_script import Gate, Reply, http_error
from tests.tools.receiver import Got, Receiver, ScriptedResponse
from tests.tools.server import Api, ServerProcess, make_keys, serve_here, start_server
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio

SECRET = make_webhook_secret()


@pytest.fixture
async def api(db: Path, provider: ScriptedProvider) -> AsyncIterator[Api]:
    async with serve_here(db, provider, webhook_allow_private=("127.0.0.1",), upstream_retries=0) as api:
        yield api


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def ada(api: Api, receiver: Receiver) -> str:
    """A staff member whose webhook is the receiver."""
    return await api.make_staff(webhook_url=receiver.url, webhook_secret=SECRET)


async def settled(api: Api, ada: str, state: str, count: int = 1) -> list[Any]:
    """The deliveries, once there are so many and all have this state."""

    async def find() -> list[Any] | None:
        found: list[Any] = await api.get(f"/staff/{ada}/deliveries")
        return found if len(found) == count and all(each["state"] == state for each in found) else None

    found: list[Any] = await until(find)
    return found


def check(got: Got, secret: str = SECRET) -> Any:
    """The event's data, after the reference library has verified it."""
    event = Webhook(secret).verify(got.body, got.headers)
    assert event.keys() == {"type", "timestamp", "data"}
    return event["data"]


# ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_asynchronous_reply_is_told(
    api: Api, ada: str, provider: ScriptedProvider, receiver: Receiver
) -> None:
    """All that a receiver needs without asking back."""
    provider.default = Reply(["Good", " morning 🌞\u2028."])
    sent = await api.send(ada, "Hi")
    got = await receiver.arrived()
    assert got.event["type"] == "message.completed"
    data = check(got)
    assert data == {
        "run_id": sent["run_id"],
        "message_id": sent["run_id"],
        "staff_id": ada,
        "conversation_id": sent["conversation_id"],
        "in_reply_to": sent["message_id"],
        "status": "complete",
        "content": "Good morning 🌞\u2028.",
    }
    message = await api.get(f"/staff/{ada}/messages/{data['message_id']}")
    assert message["content"] == data["content"]
    [delivery] = await settled(api, ada, "delivered")
    assert delivery["id"] == got.id
    assert delivery["run_id"] == sent["run_id"]


async def test_a_streamed_reply_is_told_too(api: Api, ada: str, receiver: Receiver) -> None:
    """The staff member's webhook hears of every reply, whichever mode it came by."""
    received = await api.ask(ada, "Hi")
    data = check(await receiver.arrived())
    assert (data["run_id"], data["content"]) == (received.run_id, received.text)


async def test_a_messages_own_url_goes_before_the_staff_members(
    api: Api, ada: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One delivery, to the one that asked for it, signed with the same secret."""
    monkeypatch.setattr(public_addresses, "is_public", lambda address: address == "127.0.0.1")
    async with Receiver() as own:
        await api.send(ada, "Hi", webhook_url=own.url + "/own")
        got = await own.arrived()
        assert got.line.startswith("POST /hook/own ")
        check(got)
        await settled(api, ada, "delivered")
    assert receiver.got == []


async def test_a_messages_own_url_leads_to_public_addresses_only(api: Api, ada: str, receiver: Receiver) -> None:
    """Also where the operator lets the staff members' webhooks go to that host: a member may choose it."""
    await api.send(ada, "Hi", webhook_url=receiver.url)
    assert await first_error(api, ada) == "address_not_public"
    assert receiver.got == []


async def test_members_learn_nothing_of_the_network_from_deliveries(
    db: Path, provider: ScriptedProvider, receiver: Receiver
) -> None:
    """Neither what stands behind a staff member's webhook, nor whether a name or an address exists inside."""
    headers = make_keys(db, ada="admin", bob="member")
    receiver.script(ScriptedResponse(503))
    async with serve_here(db, provider, webhook_allow_private=("127.0.0.1",), auth="keys") as api:
        api.http.headers.update(headers["ada"])
        staff = await api.make_staff(webhook_url=receiver.url + "?token=secret")
        api.http.headers.update(headers["bob"])
        await api.send(staff, "Hi")
        for url in ("http://127.0.0.1:9/x", "http://10.0.0.1/x", "http://no.such.name.invalid/x"):
            await api.send(staff, "Hi", webhook_url=url)

        async def are_tried() -> bool:
            found = await api.get(f"/staff/{staff}/deliveries")
            return len(found) == 4 and all(delivery["attempts"] for delivery in found)

        await until(are_tried)
        *own, inside = await api.get(f"/staff/{staff}/deliveries")
        shown = [[attempt | {"started_at": ""} for attempt in delivery["attempts"]] for delivery in own]
        assert shown[0] == [
            {"number": 1, "started_at": "", "duration_ms": 0, "status": None, "error": "receiver_unreachable"}
        ]
        assert shown[0] == shown[1] == shown[2]
        assert {delivery["state"] for delivery in own} == {"pending"}
        [attempt] = inside["attempts"]
        assert (attempt["status"], attempt["error"], attempt["duration_ms"]) == (None, "delivery_failed", 0)
        for seen in (inside, await api.get(f"/staff/{staff}"), (await api.get("/staff"))[0]):
            assert seen.get("url", seen.get("webhook_url")) == receiver.url.removesuffix("/hook")
        api.http.headers.update(headers["ada"])
        assert (await api.get(f"/staff/{staff}"))["webhook_url"] == receiver.url + "?token=secret"


async def test_without_a_url_nothing_is_sent(api: Api) -> None:
    """Nor logged."""
    bob = await api.make_staff("Bob")
    sent = await api.send(bob, "Hi")
    await api.ended_run(bob, sent["run_id"])
    assert await api.get(f"/staff/{bob}/deliveries") == []
    assert "deliver" not in [job["kind"] for job in await api.get("/jobs")]


async def test_a_failure_is_told_with_its_code(
    api: Api, ada: str, provider: ScriptedProvider, receiver: Receiver
) -> None:
    """In our words, with no message."""
    provider.default = http_error(400)
    await api.send(ada, "Hi")
    got = await receiver.arrived()
    assert got.event["type"] == "message.failed"
    data = check(got)
    assert data["message_id"] is None
    assert "content" not in data
    assert data["error"]["code"] == "upstream_refused"
    assert data["status"] == "interrupted"


async def test_a_failure_within_the_reply_is_told_with_what_was_said(
    api: Api, ada: str, provider: ScriptedProvider, receiver: Receiver
) -> None:
    """The partial text is a message like any other."""
    provider.script(CASES["close_mid_stream"].script)
    sent = await api.send(ada, "Hi")
    got = await receiver.arrived()
    assert got.event["type"] == "message.failed"
    data = check(got)
    assert (data["content"], data["message_id"]) == (CASES["close_mid_stream"].text, sent["run_id"])
    assert data["error"]["code"] == "upstream_broken"
    assert data["error"]["retryable"] is True


async def test_a_cancelled_reply_is_completed_with_what_was_said(
    api: Api, ada: str, provider: ScriptedProvider, receiver: Receiver
) -> None:
    """A cancel is no failure; the status says what it was."""
    provider.default = Reply(["Half", " of it"], gate=(gate := Gate()))
    async with api.stream(ada, "Hi") as stream_reader:
        gate.release(1)
        await stream_reader.until("Half")
        await api.cancel(ada, stream_reader.run_id)
    got = await receiver.arrived()
    assert got.event["type"] == "message.completed"
    data = check(got)
    assert (data["status"], data["content"], data["message_id"]) == ("cancelled", "Half", data["run_id"])


async def test_a_run_cancelled_in_the_queue_is_told(
    api: Api, ada: str, provider: ScriptedProvider, receiver: Receiver
) -> None:
    """With no message, since nothing was said. Every accepted message is told of exactly once."""
    provider.default = Reply(gate=(gate := Gate()))
    first = await api.send(ada, "one")
    await provider.arrived(1)
    second = await api.send(ada, "two")
    await api.cancel(ada, second["run_id"])
    data = check(await receiver.arrived(1))
    assert (data["run_id"], data["status"], data["message_id"]) == (second["run_id"], "cancelled", None)
    assert "content" not in data
    gate.open()
    assert check(await receiver.arrived(2))["run_id"] == first["run_id"]


async def test_a_receiver_that_hangs_does_not_hold_up_others(api: Api, ada: str, receiver: Receiver) -> None:
    """However much is to be told to it: it has so many places, and no more."""
    never = Gate()
    receiver.script(*[ScriptedResponse(gate=never)] * 100)
    async with Receiver() as other:
        ben = await api.make_staff("Ben", webhook_url=other.url)
        await asyncio.gather(*(_send_in_new_conversation(api, ada) for _ in range(70)))
        await receiver.arrived(MAX_RUNNING_PER_QUEUE)
        await until(lambda: _count_ended(api, ada, 70))
        began = time.monotonic()
        await api.send(ben, "Hi")
        await other.arrived()
        assert time.monotonic() - began < ATTEMPT_S / 2
        assert len(receiver.got) == MAX_RUNNING_PER_QUEUE


async def _send_in_new_conversation(api: Api, staff_id: str) -> None:
    conversation = (await api.post(f"/staff/{staff_id}/conversations", {}, 201))["id"]
    await api.send(staff_id, "Hi", conversation_id=conversation)


async def _count_ended(api: Api, staff_id: str, count: int) -> bool:
    return len(await api.get(f"/staff/{staff_id}/deliveries", params={"limit": 100})) == count


# ── the log, and sending again ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_refused_delivery_waits_and_is_sent_again_on_call(api: Api, ada: str, receiver: Receiver) -> None:
    """Under the same id, with the same body; both attempts are in the log."""
    receiver.script(ScriptedResponse(503, {"Retry-After": "3600"}), ScriptedResponse(200))
    await api.send(ada, "Hi")
    await receiver.arrived(1)

    async def is_waiting() -> Any:
        [delivery] = await api.get(f"/staff/{ada}/deliveries")
        return delivery if delivery["attempts"] and delivery["next_attempt_at"] else None

    waiting = await until(is_waiting)
    assert waiting["state"] == "pending"
    again = await api.post(f"/staff/{ada}/deliveries/{waiting['id']}/redeliver", status=202)
    assert again["id"] == waiting["id"]
    await receiver.arrived(2)
    [delivery] = await settled(api, ada, "delivered")
    assert [(each["number"], each["status"], each["error"]) for each in delivery["attempts"]] == [
        (1, 503, "receiver_refused"),
        (2, 200, None),
    ]
    assert all(each["duration_ms"] >= 0 for each in delivery["attempts"])
    assert receiver.got[0].id == receiver.got[1].id == delivery["id"]
    assert receiver.got[0].body == receiver.got[1].body
    shown = await api.get(f"/staff/{ada}/deliveries/{delivery['id']}")
    assert shown == delivery | {"body": receiver.got[0].body.decode()}


async def test_what_was_delivered_can_be_delivered_again(api: Api, ada: str, receiver: Receiver) -> None:
    """A receiver that lost it asks for it; it knows the id."""
    await api.send(ada, "Hi")
    [delivery] = await settled(api, ada, "delivered")
    await api.post(f"/staff/{ada}/deliveries/{delivery['id']}/redeliver", status=202)
    assert (await receiver.arrived(2)).id == delivery["id"]

    async def list_attempts() -> Any:
        [again] = await settled(api, ada, "delivered")
        return again["attempts"] if len(again["attempts"]) > 1 else None

    assert [(each["number"], each["status"]) for each in await until(list_attempts)] == [(1, 204), (2, 204)]


async def test_deliveries_come_in_pages(api: Api, ada: str, receiver: Receiver) -> None:
    """Newest first, with a link to the next."""
    for text in ("one", "two", "three"):
        await api.ask(ada, text)
    newest = await settled(api, ada, "delivered", 3)
    page = await api.http.get(f"/staff/{ada}/deliveries", params={"limit": 2})
    rest = await api.http.get(f"{api.url}{page.links['next']['url']}")
    assert [each["id"] for each in page.json() + rest.json()] == [each["id"] for each in newest]
    assert "next" not in rest.links


async def test_an_unknown_delivery_is_a_404(api: Api, ada: str) -> None:
    """Whatever is asked of it."""
    await api.get(f"/staff/{ada}/deliveries/nope", 404)
    await api.post(f"/staff/{ada}/deliveries/nope/redeliver", status=404)


async def test_gone_disables_until_the_url_is_set_again(api: Api, ada: str, receiver: Receiver) -> None:
    """410 is the receiver's own word; a staff member shows it, and a PATCH of the URL ends it."""
    receiver.script(ScriptedResponse(410))
    await api.ask(ada, "one")
    await settled(api, ada, "failed")
    assert (await api.get(f"/staff/{ada}"))["webhook_disabled_at"] is not None
    await api.ask(ada, "two")
    assert len(await api.get(f"/staff/{ada}/deliveries")) == 1
    changed = await api.http.patch(f"/staff/{ada}", json={"webhook_url": receiver.url})
    assert changed.json()["webhook_disabled_at"] is None
    await api.ask(ada, "three")
    assert check(await receiver.arrived(2))["content"]


async def test_a_new_secret_is_signed_with_beside_the_old(api: Api, ada: str, receiver: Receiver) -> None:
    """By PATCH; neither is ever shown."""
    new = make_webhook_secret()
    changed = await api.http.patch(f"/staff/{ada}", json={"webhook_secret": new})
    assert new not in changed.text
    assert SECRET not in changed.text
    await api.ask(ada, "Hi")
    got = await receiver.arrived()
    check(got, SECRET)
    check(got, new)


async def test_a_private_address_is_refused_by_default(
    db: Path, provider: ScriptedProvider, receiver: Receiver
) -> None:
    """The message is answered; nothing is sent, and the log says why."""
    async with serve_here(db, provider) as api:
        ada = await api.make_staff(webhook_url=receiver.url)
        await api.ask(ada, "Hi")
        assert await first_error(api, ada) == "address_not_public"
    assert receiver.got == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "example.com",
        "http://",
        "http:///x",
        "http://user:pw@example.com/",
        "http://h:99999/",
        "http://h:0/",
        "//h/",
    ],
)
async def test_what_is_no_url_for_a_webhook_is_refused(api: Api, url: str) -> None:
    """By both calls that take one."""
    await api.post("/staff", {"name": "Ada", "webhook_url": url}, 422)
    bob = await api.make_staff("Bob")
    await api.send(bob, "Hi", 422, webhook_url=url)


@pytest.mark.parametrize("what", ["conversation", "question", "reply"])
async def test_what_is_deleted_takes_its_deliveries_along(api: Api, ada: str, receiver: Receiver, what: str) -> None:
    """What is erased is not sent any more, nor shown in the log; the job finds nothing and ends."""
    receiver.script(ScriptedResponse(503))
    sent = await api.send(ada, "Hi")
    await receiver.arrived(1)
    await api.ended_run(ada, sent["run_id"])
    paths = {
        "conversation": f"conversations/{sent['conversation_id']}",
        "question": f"messages/{sent['message_id']}",
        "reply": f"messages/{sent['run_id']}",
    }
    await api.delete(f"/staff/{ada}/{paths[what]}")
    assert await api.get(f"/staff/{ada}/deliveries") == []

    async def retry_all() -> bool:
        found = [job for job in await api.get("/jobs") if job["kind"] == "deliver"]
        for job in found:
            await api.http.post(f"/jobs/{job['id']}/retry")
        return not found

    await until(retry_all)
    assert len(receiver.got) == 1


@pytest.mark.parametrize("status", [204, 503, 410])
@pytest.mark.parametrize("what", ["conversation", "staff"])
async def test_what_is_deleted_while_it_is_sent_leaves_nothing(
    api: Api, ada: str, receiver: Receiver, what: str, status: int
) -> None:
    """Whatever its receiver then answers: no log, no job, no second attempt."""
    thinking = Gate()
    receiver.script(ScriptedResponse(status, gate=thinking))
    sent = await api.send(ada, "Hi")
    await receiver.arrived(1)
    await api.delete(f"/staff/{ada}" + (f"/conversations/{sent['conversation_id']}" if what == "conversation" else ""))
    thinking.open()

    async def is_over() -> bool:
        return "deliver" not in [job["kind"] for job in await api.get("/jobs")]

    await until(is_over)
    assert len(receiver.got) == 1
    if what == "conversation":
        assert await api.get(f"/staff/{ada}/deliveries") == []
        await api.http.patch(f"/staff/{ada}", json={"webhook_url": receiver.url})
        await api.ask(ada, "Go on")
        assert (await receiver.arrived(2)).id != receiver.got[0].id


# ── jobs by call and by command ──────────────────────────────────────────────────────────────────────────────────────


def run_command(*arguments: str, db: Path, status: int = 0) -> str:
    """What `staffstream …` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "staffstream", *arguments, "--db", str(db)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


async def bury_delivery(api: Api, ada: str, receiver: Receiver) -> tuple[Any, Any]:
    """A delivery whose job is dead: its receiver said 410."""
    receiver.script(ScriptedResponse(410))
    await api.ask(ada, "Hi")
    [delivery] = await settled(api, ada, "failed")
    [job] = await api.get("/jobs", params={"state": "dead"})
    return delivery, job


async def test_dead_jobs_are_listed_retried_and_dropped_by_call(api: Api, ada: str, receiver: Receiver) -> None:
    """A retried one is done at once; a dropped one never."""
    delivery, job = await bury_delivery(api, ada, receiver)
    assert (job["kind"], job["subject"], job["last_error"]) == ("deliver", delivery["id"], "receiver_gone")
    assert await api.get(f"/jobs/{job['id']}") == job
    assert (await api.post(f"/jobs/{job['id']}/retry", status=202))["state"] in ("due", "running")
    assert (await receiver.arrived(2)).id == delivery["id"]
    await settled(api, ada, "delivered")
    await api.http.patch(f"/staff/{ada}", json={"webhook_url": receiver.url})
    receiver.script(ScriptedResponse(410))
    await api.ask(ada, "Again")

    async def find_dead() -> Any:
        return await api.get("/jobs", params={"state": "dead", "kind": "deliver"})

    [job] = await until(find_dead)
    assert (await api.http.delete(f"/jobs/{job['id']}")).status_code == 204
    assert await find_dead() == []
    await api.get(f"/jobs/{job['id']}", 404)
    await api.post("/jobs/nope/retry", status=404)
    assert (await api.http.delete("/jobs/nope")).status_code == 404
    await api.get("/jobs", 422, params={"state": "undead"})


async def test_dead_jobs_are_listed_retried_and_dropped_by_command(
    api: Api, ada: str, db: Path, receiver: Receiver
) -> None:
    """On the file; the running server takes it up by itself."""
    delivery, job = await bury_delivery(api, ada, receiver)
    listed = await asyncio.to_thread(run_command, "jobs", "list", "--state", "dead", db=db)
    assert job["id"] in listed
    assert "receiver_gone" in listed
    assert delivery["id"] in await asyncio.to_thread(run_command, "jobs", "retry", "dead", db=db)
    assert (await receiver.arrived(2)).id == delivery["id"]
    waiting = [job["id"] for job in await api.get("/jobs", params={"state": "due"})]
    await asyncio.to_thread(run_command, "jobs", "drop", *waiting, db=db)
    assert await api.get("/jobs", params={"state": "due"}) == []
    assert "no job with this id" in await asyncio.to_thread(run_command, "jobs", "drop", "nope", db=db, status=1)


async def test_deliveries_are_listed_and_sent_again_by_command(
    api: Api, ada: str, db: Path, receiver: Receiver
) -> None:
    """With every attempt's status."""
    await api.ask(ada, "Hi")
    [delivery] = await settled(api, ada, "delivered")
    listed = await asyncio.to_thread(run_command, "deliveries", "list", ada, db=db)
    assert delivery["id"] in listed
    assert " 204" in listed
    await asyncio.to_thread(run_command, "deliveries", "redeliver", delivery["id"], db=db)
    assert (await receiver.arrived(2)).id == delivery["id"]
    assert "no staff member" in await asyncio.to_thread(run_command, "deliveries", "list", "nope", db=db, status=1)


async def first_error(api: Api, ada: str) -> str:
    """Why the first attempt at the only delivery failed, once there was one."""

    async def is_tried() -> bool:
        found = await api.get(f"/staff/{ada}/deliveries")
        return bool(found and found[0]["attempts"])

    await until(is_tried)
    return str((await api.get(f"/staff/{ada}/deliveries"))[0]["attempts"][0]["error"])


# ── shutdowns and crashes ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("received", [False, True])
async def test_a_shutdown_within_an_asynchronous_reply(
    db: Path, provider: ScriptedProvider, receiver: Receiver, received: bool
) -> None:
    """If nobody was sent any of it, it is made again by the next start, as after a crash; else it has failed with what
    was heard. Either way it is told of once.
    """
    gate = provider.hold(["Half", " of it"])
    async with serve_here(db, provider, webhook_allow_private=("127.0.0.1",)) as api:
        ada = await api.make_staff(webhook_url=receiver.url, webhook_secret=SECRET)
        sent = await api.send(ada, "Hi")
        gate.release(1)
        if received:
            async with api.join(ada, sent["run_id"]) as stream_reader:
                await stream_reader.until("Half")

        async def has_begun() -> bool:
            return bool((await api.run(ada, sent["run_id"]))["partial_text"] == "Half")

        await until(has_begun)
    provider.default = Reply(["All of it"])
    async with serve_here(db, provider, webhook_allow_private=("127.0.0.1",)) as api:
        await settled(api, ada, "delivered")
        assert await api.said(ada) == ["Hi", "Half" if received else "All of it"]
    [got] = receiver.got
    assert check(got)["content"] == ("Half" if received else "All of it")
    assert got.event["type"] == ("message.failed" if received else "message.completed")


async def test_a_crash_at_any_instant_loses_no_delivery(
    db: Path, provider: ScriptedProvider, receiver: Receiver
) -> None:
    """kill -9 between the 202 and the delivery: after the restart the reply is made, is in the list once, and is
    delivered, every time under the same id.
    """
    provider.default = Reply(["One", " reply", "."], delay_s=0.02)
    ada, said = "", []
    for instant in range(9):
        async with _start(db, provider) as server:
            if said:
                await _check_told(server.api, ada, receiver, said)
            else:
                ada = await server.api.make_staff(webhook_url=receiver.url, webhook_secret=SECRET)
            await server.api.send(ada, f"Hi {instant}")
            said += [f"Hi {instant}", "One reply."]
            await asyncio.sleep(instant * 0.016)
            await server.kill()
    async with _start(db, provider) as server:
        await _check_told(server.api, ada, receiver, said)
        assert await server.api.get("/jobs", params={"kind": "deliver"}) == []
        assert await server.stop() == 0


def _start(db: Path, provider: ScriptedProvider) -> contextlib.AbstractAsyncContextManager[ServerProcess]:
    return start_server(db, provider, variables={"STAFFSTREAM_WEBHOOK_ALLOW_PRIVATE": "127.0.0.1"})


async def _check_told(api: Api, ada: str, receiver: Receiver, said: list[str]) -> None:
    """Every reply is there once, in order, and was told under the one id of its delivery."""
    delivered = await settled(api, ada, "delivered", len(said) // 2)
    assert await api.said(ada) == said
    assert {got.id for got in receiver.got} == {delivery["id"] for delivery in delivered}
    assert len({check(got)["run_id"] for got in receiver.got}) == len(delivered)
    assert all(check(got)["content"] == "One reply." for got in receiver.got)
