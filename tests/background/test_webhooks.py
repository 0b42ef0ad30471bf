"""Sending webhooks: the signature, and what becomes of the receiver's answer."""

import asyncio
import base64
import contextlib
import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from staffstream.background import webhooks
from staffstream.background.webhooks import Webhooks, sign_webhook
from staffstream.domain import Owner
from staffstream.errors import (
    AddressNotPublic,
    DeliveryError,
    ReceiverGone,
    ReceiverRefused,
    ReceiverTimeout,
    ReceiverUnreachable,
)
from staffstream.storage import conversations, deliveries, jobs, messages, runs, staff
from staffstream.storage.database import Connection, Database
from staffstream.storage.deliveries import Delivery
from tests.tools.databases import open_database
from tests.tools.provider_script import DEADLINE_S, Gate
from tests.tools.receiver import Receiver, ScriptedResponse, answer_names

pytestmark = pytest.mark.anyio


# ── the signature ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_specifications_example_is_signed_as_it_says() -> None:
    """The published test vector of the Standard Webhooks libraries."""
    signature = sign_webhook(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(body=st.text(), keys=st.lists(st.binary(min_size=24, max_size=64), min_size=1, max_size=2))
def test_the_reference_library_takes_each_of_the_signatures(body: str, keys: list[bytes]) -> None:
    """Whatever the text and whichever of the secrets the receiver knows; with another it refuses."""
    known = ["whsec_" + base64.b64encode(key).decode() for key in keys]
    now, data = int(time.time()), body.encode()
    headers = {
        "webhook-id": "d1",
        "webhook-timestamp": str(now),
        "webhook-signature": sign_webhook(known, "d1", now, data),
    }
    for secret in known:
        Webhook(secret).verify(data, headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(staff.make_webhook_secret()).verify(data, headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(known[0]).verify(data + b" ", headers, json_parse=False)


# ── an attempt ───────────────────────────────────────────────────────────────────────────────────────────────────────


HOSTS = ["127.0.0.1", "hooks.example", "xn--bcher-kva.example", "tarpit.example", "2606:4700:4700::1111"]


class Post:
    """A database with one delivery to make, and attempts at it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.secret = ""
        self.staff_id = ""

    async def send(self, url: str, **options: Any) -> Delivery:
        """Put a delivery to this URL in, try it once, and return it. Raises what the attempt raises."""
        delivery_id = await self.enqueue(url)
        async with Webhooks.open(self.database, **{"private_hosts": HOSTS, **options}) as sender:
            await self.attempt(sender, delivery_id)
        return await self.database.read(lambda conn: deliveries.get_delivery(conn, delivery_id))

    async def enqueue(self, url: str) -> str:
        """Put a delivery to this URL in; its id."""
        return await self.database.write(lambda tx: self._enqueue(tx, url))

    async def attempt_in_vain(self, sender: Webhooks, delivery_id: str) -> None:
        """An attempt that has to fail."""
        with pytest.raises(ReceiverUnreachable):
            await self.attempt(sender, delivery_id)

    async def attempt(self, sender: Webhooks, delivery_id: str) -> None:
        """What the worker does with the job."""

        def claim(tx: Connection) -> jobs.Job:
            tx.execute("UPDATE jobs SET due_at = '' WHERE subject = ?", (delivery_id,))
            return jobs.claim_due_jobs(tx, "deliver", owner=Owner("anne", 60), limit=1)[0]

        job = await self.database.write(claim)
        try:
            save = await sender.deliver(job)
        except DeliveryError as error:
            retryable, code = error.retryable, error.code
            await self.database.write(lambda tx: jobs.fail_job(tx, job, code, retryable=retryable))
            raise
        await self.database.write(lambda tx: (jobs.complete_job(tx, job), save(tx)))

    async def last(self) -> Delivery:
        """The delivery made last."""
        return (await self.database.read(lambda conn: deliveries.list_deliveries(conn, self.staff_id, limit=1)))[0]

    def _enqueue(self, tx: Connection, url: str) -> str:
        member = staff.create_staff(tx, {"name": "Ada", "webhook_url": url})
        self.secret, self.staff_id = member.webhook_secrets[0], member.id
        scope = staff.ensure_scope(tx, member.id, "kim")
        conversation = conversations.ensure_conversation(tx, scope, None)
        question = messages.append_user_message(tx, scope, conversation, "Hi")
        run = runs.insert_run(tx, scope, conversation, question, mode="async")
        runs.end_run(tx, run, "cancelled")
        deliveries.enqueue_delivery(tx, member, runs.get_run(tx, scope, run.id), "")
        return deliveries.list_deliveries(tx, member.id)[0].id


@pytest.fixture
async def post(db: Path) -> AsyncIterator[Post]:
    async with open_database(db) as database:
        yield Post(database)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


async def test_a_delivery_is_one_signed_post(post: Post, receiver: Receiver) -> None:
    """With the headers of the specification, verified by its reference library."""
    delivery = await post.send(receiver.url + "?a=1&b=%20")
    got = await receiver.arrived()
    assert got.line == "POST /hook?a=1&b=%20 HTTP/1.1"
    assert got.id == delivery.id
    assert got.headers["content-type"] == "application/json"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 60
    assert got.body.decode() == delivery.body
    assert got.verify(post.secret)["data"]["staff_id"] == post.staff_id
    assert delivery.state == "delivered"


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_a_delivery(post: Post, receiver: Receiver, status: int) -> None:
    """What the body says does not matter."""
    receiver.script(ScriptedResponse(status, body=b"" if status == 204 else b"<html>error</html>"))
    delivery = await post.send(receiver.url)
    [attempt] = delivery.attempts
    assert (attempt.number, attempt.status, attempt.error) == (1, status, None)
    assert delivery.delivered_at is not None


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308, 400, 401, 404, 429, 500, 503])
async def test_everything_else_is_not_and_is_tried_again(post: Post, receiver: Receiver, status: int) -> None:
    """A redirect least of all is followed: it could lead anywhere."""
    receiver.script(ScriptedResponse(status, {"Location": receiver.url, "Retry-After": "77"}))
    with pytest.raises(ReceiverRefused) as caught:
        await post.send(receiver.url)
    assert caught.value.retryable
    assert caught.value.retry_after_s == 77
    delivery = await post.last()
    assert [(attempt.status, attempt.error) for attempt in delivery.attempts] == [(status, "receiver_refused")]
    assert delivery.state == "pending"
    assert delivery.next_attempt_at is not None
    assert len(receiver.got) == 1


async def test_every_attempt_is_logged_and_carries_the_same_id_and_body(post: Post, receiver: Receiver) -> None:
    """A receiver knows by the id what it has seen; each attempt is signed with its own time."""
    receiver.script(ScriptedResponse(500), ScriptedResponse(503), ScriptedResponse(200))
    with pytest.raises(ReceiverRefused):
        await post.send(receiver.url)
    delivery_id = (await post.last()).id
    async with Webhooks.open(post.database, private_hosts=HOSTS) as sender:
        with pytest.raises(ReceiverRefused):
            await post.attempt(sender, delivery_id)
        await post.attempt(sender, delivery_id)
    assert len({(got.id, got.body) for got in receiver.got}) == 1
    assert all(got.is_signed_by(post.secret) for got in receiver.got)
    delivery = await post.last()
    assert [(each.number, each.status) for each in delivery.attempts] == [(1, 500), (2, 503), (3, 200)]
    assert delivery.state == "delivered"


async def test_gone_disables_the_staff_members_webhook(post: Post, receiver: Receiver) -> None:
    """410: what waits for that URL is not sent either, until the URL is set again."""
    receiver.script(ScriptedResponse(503), ScriptedResponse(410))
    with pytest.raises(ReceiverRefused):
        await post.send(receiver.url)
    waiting = await post.last()

    def ask_again(tx: Connection) -> str:
        scope = staff.ensure_scope(tx, post.staff_id, "kim")
        run = runs.get_run(tx, scope, waiting.run_id)
        deliveries.enqueue_delivery(tx, staff.get_staff(tx, post.staff_id), run, "")
        return deliveries.list_deliveries(tx, post.staff_id)[0].id

    second = await post.database.write(ask_again)
    async with Webhooks.open(post.database, private_hosts=HOSTS) as sender:
        with pytest.raises(ReceiverGone):
            await post.attempt(sender, second)
    member = await post.database.read(lambda conn: staff.get_staff(conn, post.staff_id))
    assert member.webhook_disabled_at is not None
    found = await post.database.read(lambda conn: deliveries.list_deliveries(conn, post.staff_id))
    assert [delivery.state for delivery in found] == ["failed", "failed"]
    assert await post.database.write(ask_again) == second, "no delivery is made"
    changes = {"webhook_url": receiver.url}
    await post.database.write(lambda tx: staff.update_staff(tx, post.staff_id, changes))
    assert await post.database.write(ask_again) != second


async def test_gone_at_an_old_url_does_not_disable_the_new_one(post: Post, receiver: Receiver) -> None:
    """The answer is about the URL that it was asked at."""
    receiver.script(ScriptedResponse(503), ScriptedResponse(410))
    with pytest.raises(ReceiverRefused):
        await post.send(receiver.url)
    changes = {"webhook_url": receiver.url + "/new"}
    await post.database.write(lambda tx: staff.update_staff(tx, post.staff_id, changes))
    async with Webhooks.open(post.database, private_hosts=HOSTS) as sender:
        with pytest.raises(ReceiverGone):
            await post.attempt(sender, (await post.last()).id)
    member = await post.database.read(lambda conn: staff.get_staff(conn, post.staff_id))
    assert member.webhook_disabled_at is None


@pytest.mark.parametrize("held", ["answer", "rest of the answer", "body"])
async def test_a_receiver_that_is_silent_is_given_up(
    post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    """For its answer, be it that it says one byte now and then; once that has come, its body is not waited for."""
    monkeypatch.setattr(webhooks, "ATTEMPT_S", 1.0)
    monkeypatch.setattr(webhooks, "_READ_S", 1.2)
    if held != "body":
        receiver.script(ScriptedResponse(gate=Gate()) if held == "answer" else ScriptedResponse(204, drip_s=0.1))
        with pytest.raises(ReceiverTimeout):
            await post.send(receiver.url)
        assert [attempt.error for attempt in (await post.last()).attempts] == ["receiver_timeout"]
    else:
        receiver.script(ScriptedResponse(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nand", stays=True))
        assert (await post.send(receiver.url)).state == "delivered"


async def test_a_huge_answer_is_not_read(post: Post, receiver: Receiver) -> None:
    """It is hung up on after a little; its status has been said."""
    receiver.script(ScriptedResponse(200, body=bytes(50_000_000)))
    assert (await post.send(receiver.url)).state == "delivered"


@pytest.mark.parametrize(
    "raw", [b"", b"\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200", b"\x15\x03\x01" * 50]
)
async def test_what_is_no_http_is_unreachable(post: Post, receiver: Receiver, raw: bytes) -> None:
    """Whatever speaks there: one attempt, logged without a status, tried again."""
    receiver.script(ScriptedResponse(raw=raw))
    with pytest.raises(ReceiverUnreachable):
        await post.send(receiver.url)
    assert [(each.status, each.error) for each in (await post.last()).attempts] == [(None, "receiver_unreachable")]


@pytest.mark.parametrize("url", ["ftp://hooks.example/", "hooks.example", "http://[x/", ""])
async def test_an_imported_url_that_leads_nowhere_is_unreachable(post: Post, url: str) -> None:
    """The API would have refused it; the attempt is logged as any other."""
    with pytest.raises(ReceiverUnreachable):
        await post.send(url)
    assert [attempt.error for attempt in (await post.last()).attempts] == ["receiver_unreachable"]


async def test_nobody_listening_is_unreachable(post: Post) -> None:
    """A refused connection."""
    async with Receiver() as closed:
        url = closed.url
    with pytest.raises(ReceiverUnreachable):
        await post.send(url)


async def test_private_addresses_are_refused_by_default(post: Post, receiver: Receiver) -> None:
    """Before a byte is sent, and the log says why. It is tried again like a name that cannot be resolved."""
    with pytest.raises(AddressNotPublic):
        await post.send(receiver.url, private_hosts=())
    delivery = await post.last()
    assert delivery.state == "pending"
    assert [attempt.error for attempt in delivery.attempts] == ["address_not_public"]
    assert receiver.got == []


async def test_proxy_variables_are_ignored(post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would connect to whatever it likes."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for variable in (name, name.lower()):
            monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert (await post.send(receiver.url)).state == "delivered"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A context that trusts the test's own authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@contextlib.asynccontextmanager
async def receive_tls(authority: trustme.CA, name: str) -> AsyncIterator[Receiver]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    async with Receiver(context) as receiver:
        yield receiver


async def test_tls_is_spoken_with_the_name_though_the_address_is_connected(
    post: Post, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """SNI and Host carry the name of the URL, and the certificate is checked against it."""
    resolve, asked = answer_names(["127.0.0.1"])
    async with receive_tls(authority, "hooks.example") as receiver:
        url = f"https://hooks.example:{receiver.port}/"
        assert (await post.send(url, resolve=resolve, ssl_context=trusting)).state == "delivered"
        assert receiver.server_names == ["hooks.example"]
        assert receiver.got[0].headers["host"] == f"hooks.example:{receiver.port}"
        assert asked == [("hooks.example", receiver.port)]


async def test_the_dot_at_a_names_end_is_no_part_of_its_certificate(
    post: Post, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """`hooks.example.` is the same name, said to be whole; SNI has it without the dot (RFC 6066, section 3)."""
    async with receive_tls(authority, "hooks.example") as receiver:
        url = f"https://hooks.example.:{receiver.port}/"
        delivery = await post.send(url, resolve=answer_names(["127.0.0.1"])[0], ssl_context=trusting)
        assert delivery.state == "delivered"
        assert receiver.server_names == ["hooks.example"]


async def test_an_address_of_ipv6_stands_in_brackets_in_host(post: Post, receiver: Receiver) -> None:
    """Without them its last group could not be told from the port, and servers refuse it."""
    url = f"http://[2606:4700:4700::1111]:{receiver.port}/hook"
    await post.send(url, resolve=answer_names(["127.0.0.1"])[0])
    assert receiver.got[0].headers["host"] == f"[2606:4700:4700::1111]:{receiver.port}"


async def test_a_certificate_for_another_name_is_refused(
    post: Post, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """Nothing is sent to who cannot show that it is the one."""
    async with receive_tls(authority, "other.example") as receiver:
        url = f"https://hooks.example:{receiver.port}/"
        with pytest.raises(ReceiverUnreachable):
            await post.send(url, resolve=answer_names(["127.0.0.1"])[0], ssl_context=trusting)
        assert receiver.got == []


async def test_an_unknown_authority_is_refused(post: Post, authority: trustme.CA) -> None:
    """With the system's own trust."""
    async with receive_tls(authority, "hooks.example") as receiver:
        with pytest.raises(ReceiverUnreachable):
            await post.send(f"https://hooks.example:{receiver.port}/", resolve=answer_names(["127.0.0.1"])[0])
        assert receiver.got == []


async def test_a_name_beyond_ascii_is_asked_for_in_its_wire_form(post: Post) -> None:
    """IDNA, as the name server knows it."""
    resolve, asked = answer_names(["127.0.0.1"])
    async with Receiver() as receiver:
        await post.send(f"http://bücher.example:{receiver.port}/ä", resolve=resolve)
        assert asked == [("xn--bcher-kva.example", receiver.port)]
        assert receiver.got[0].line == "POST /%C3%A4 HTTP/1.1"


async def test_a_rotated_secret_signs_beside_the_one_before_it(post: Post, receiver: Receiver) -> None:
    """Until the next rotation, so that a receiver can change over when it likes."""
    first, second, third = ["whsec_" + base64.b64encode(secrets.token_bytes(24)).decode() for _ in range(3)]

    async def rotate(secret: str) -> None:
        await post.database.write(lambda tx: staff.update_staff(tx, post.staff_id, {}, webhook_secret=secret))

    receiver.script(*[ScriptedResponse(500)] * 9)
    with pytest.raises(ReceiverRefused):
        await post.send(receiver.url)
    delivery_id = (await post.last()).id
    async with Webhooks.open(post.database, private_hosts=HOSTS) as sender:
        for number, (new, valid, over) in enumerate(
            [
                (first, [post.secret, first], []),
                (second, [first, second], [post.secret]),
                (third, [second, third], [first]),
            ],
            2,
        ):
            await rotate(new)
            await rotate(new)  # saying it twice changes nothing
            with pytest.raises(ReceiverRefused):
                await post.attempt(sender, delivery_id)
            got = await receiver.arrived(number)
            assert all(got.is_signed_by(secret) for secret in valid)
            assert not any(got.is_signed_by(secret) for secret in over)


async def test_many_are_sent_at_the_same_time(post: Post, receiver: Receiver) -> None:
    """As many as one receiver may have at a time; one that takes its time does not hold the others up."""
    gate = Gate()
    receiver.script(*[ScriptedResponse(200, gate=gate)] * 4)
    sending: list[asyncio.Task[Delivery]] = [asyncio.create_task(_send_own(post, receiver.url)) for _ in range(4)]
    await receiver.arrived(4)
    gate.open()
    assert {delivery.state for delivery in await asyncio.gather(*sending)} == {"delivered"}


async def _send_own(post: Post, url: str) -> Delivery:
    return await Post(post.database).send(url)


async def test_a_name_that_takes_for_ever_holds_no_other_work_up(
    post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users give the names, and a name server may keep silent: the threads that the rest of the server uses, for
    Claude's name too, stay free, and so do other webhooks.
    """
    answered, look_up = threading.Event(), socket.getaddrinfo

    def look_up_slowly(host: str, *args: Any, **options: Any) -> Any:
        if host.endswith("tarpit.example"):
            answered.wait(DEADLINE_S)
            raise socket.gaierror
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_slowly)
    many = (os.cpu_count() or 1) + 4  # as many threads as the loop has at most
    async with Webhooks.open(post.database, private_hosts=HOSTS) as sender, asyncio.TaskGroup() as group:
        ids = [await post.enqueue(f"http://{number}.tarpit.example/") for number in range(many)]
        slow = [group.create_task(post.attempt_in_vain(sender, delivery_id)) for delivery_id in ids]
        async with asyncio.timeout(DEADLINE_S / 2):
            assert await asyncio.to_thread(lambda: "done") == "done"
            await post.attempt(sender, await post.enqueue(receiver.url))
        assert not any(task.done() for task in slow)
        answered.set()
