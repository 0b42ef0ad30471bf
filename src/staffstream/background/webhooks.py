"""Sending webhooks as the Standard Webhooks specification has them.

An attempt is one signed POST that has to be answered with 2xx within 15 s. It goes through httpcore itself, which
follows no redirect and knows no proxy variable, over connections to checked addresses only (public_addresses.py). A
message's own URL, which a member may choose, leads to public addresses only; a staff member's, which an admin chose,
also to the private hosts that the operator named. Every attempt is logged before the job that caused it learns how it
ended.
"""

import asyncio
import base64
import contextlib
import functools
import hashlib
import hmac
import logging
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import httpcore

from staffstream.background.public_addresses import CheckedBackend, Resolve, resolve_host
from staffstream.domain import now_text
from staffstream.errors import DeliveryError, ReceiverGone, ReceiverRefused, ReceiverTimeout, ReceiverUnreachable
from staffstream.storage import deliveries, staff
from staffstream.storage.database import Connection, Database
from staffstream.storage.deliveries import Delivery
from staffstream.storage.jobs import Job
from staffstream.support.timers import read_retry_after

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)
Pool = httpcore.AsyncConnectionPool

ATTEMPT_S = 15.0
MAX_LOOKUPS = 32  # at the same time
_CONNECT_S = 5.0  # for each address of the host
_MAX_READ_BYTES = 16 * 1024
_READ_S = 1.0
_UNREACHABLE = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    OSError,
    httpcore.UnsupportedProtocol,
)


def sign_webhook(secrets: Iterable[str], webhook_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header: an HMAC-SHA256 by each secret, since a receiver may know any one of them."""
    signed = b"%s.%d.%s" % (webhook_id.encode(), timestamp, body)
    keys = (base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets)
    return " ".join("v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)


@dataclass(frozen=True, slots=True)
class ReceiverResponse:
    """What is read of a receiver's answer: its status, and its Retry-After in seconds."""

    status: int
    retry_after_s: float | None


class Webhooks:
    """Delivers. Made by `Webhooks.open`, which also closes its connections."""

    def __init__(
        self,
        database: Database,
        open_pool: Callable[[Collection[str]], Awaitable[Pool]],
        private_hosts: Collection[str],
    ) -> None:
        self._database = database
        self._open_pool = open_pool  # at the first delivery: most servers have no webhook
        self._private_hosts = private_hosts
        self._opening = asyncio.Lock()
        self._pools: dict[bool, Pool] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        database: Database,
        *,
        private_hosts: Collection[str] = (),
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> AsyncIterator["Webhooks"]:
        """`resolve` and `ssl_context` stand in for the system's resolver and the known certificate authorities."""
        async with contextlib.AsyncExitStack() as stack:
            threads = stack.enter_context(_open_threads())
            resolve = resolve or functools.partial(resolve_host, threads=threads)

            async def open_pool(allowed: Collection[str]) -> Pool:
                pool = httpcore.AsyncConnectionPool(
                    ssl_context=ssl_context or await asyncio.to_thread(_trust_authorities),
                    max_connections=None,
                    max_keepalive_connections=0,  # every attempt checks the address it goes to
                    network_backend=CheckedBackend(private_hosts=allowed, resolve=resolve),
                )
                return await stack.enter_async_context(pool)

            yield cls(database, open_pool, private_hosts)

    async def deliver(self, job: Job) -> Callable[[Connection], None]:
        """Send the delivery that the job is about, once; returns the transaction that marks it as delivered.

        Raises DeliveryError when it was not, after that has been logged; NotFound when the delivery was erased.
        """
        delivery, secrets = await self._database.read(lambda conn: _load(conn, job.subject))
        started_at, started = now_text(), time.monotonic()
        answer, failure = await self._attempt(delivery, secrets)
        add_attempt = functools.partial(
            deliveries.add_attempt,
            delivery=delivery,
            started_at=started_at,
            duration_ms=round((time.monotonic() - started) * 1000),
            status=answer.status if answer else None,
            error=failure.code if failure else None,
        )
        if failure is None:
            return add_attempt

        def log_failure(tx: Connection) -> None:
            add_attempt(tx)
            if isinstance(failure, ReceiverGone) and staff.disable_webhook(tx, delivery.staff_id, delivery.url):
                deliveries.drop_pending(tx, delivery.staff_id, delivery.url)

        await self._database.write(log_failure)
        raise failure

    async def _attempt(
        self, delivery: Delivery, secrets: tuple[str, ...]
    ) -> tuple[ReceiverResponse | None, DeliveryError | None]:
        """What the receiver answered, and what keeps the delivery from being delivered."""
        pool = await self._reach_pool(may_be_private=not delivery.is_own)
        try:
            answer = await self._post(pool, delivery, secrets)
        except (TimeoutError, httpcore.TimeoutException):
            return None, ReceiverTimeout()
        except DeliveryError as error:
            return None, error
        except _UNREACHABLE as error:
            log.info("delivery %s: %s", delivery.id, type(error.__cause__ or error).__name__)
            return None, ReceiverUnreachable()
        return answer, _judge(answer)

    @staticmethod
    async def _post(pool: Pool, delivery: Delivery, secrets: tuple[str, ...]) -> ReceiverResponse:
        """The receiver's status, for which alone it has its time. Raises TimeoutError, or what httpcore raises."""
        import httpx

        try:
            url = httpx.URL(delivery.url)
        except httpx.InvalidURL as error:  # an imported staff member's may be none that we would take
            raise ReceiverUnreachable from error
        posting = pool.stream(
            "POST",
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=_write_headers(url, delivery, secrets),
            content=delivery.body.encode(),
            extensions={"timeout": {"connect": _CONNECT_S}, "sni_hostname": url.raw_host.decode().rstrip(".")},
        )
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(ATTEMPT_S):
                response = await stack.enter_async_context(posting)
            await _read_a_little(response)
            headers = {name.lower(): value for name, value in response.headers}
            return ReceiverResponse(
                response.status, read_retry_after(headers.get(b"retry-after", b"").decode("latin-1"))
            )

    async def _reach_pool(self, *, may_be_private: bool) -> Pool:
        async with self._opening:
            if may_be_private not in self._pools:
                allowed = self._private_hosts if may_be_private else ()
                self._pools[may_be_private] = await self._open_pool(allowed)
            return self._pools[may_be_private]


def _trust_authorities() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()


@contextlib.contextmanager
def _open_threads() -> Iterator[Executor]:
    """For lookups of names; one that still lasts at the end is not waited for."""
    threads = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="webhook-names")
    try:
        yield threads
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _load(conn: Connection, delivery_id: str) -> tuple[Delivery, tuple[str, ...]]:
    delivery = deliveries.get_delivery(conn, delivery_id)
    return delivery, staff.get_staff(conn, delivery.staff_id).webhook_secrets


def _write_headers(url: "httpx.URL", delivery: Delivery, secrets: tuple[str, ...]) -> dict[bytes | str, bytes | str]:
    timestamp = int(time.time())
    return {
        "Host": url.netloc,  # httpcore's own would lack the brackets of an IPv6 address
        "Content-Type": "application/json",
        "User-Agent": "staffstream",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign_webhook(secrets, delivery.id, timestamp, delivery.body.encode()),
    }


async def _read_a_little(response: httpcore.Response) -> None:
    """Read a short answer to its end. A receiver that sends more, or stops sending, is disconnected."""
    left = _MAX_READ_BYTES
    with contextlib.suppress(TimeoutError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        chunks = cast(AsyncGenerator[bytes, None], response.aiter_stream())
        async with asyncio.timeout(_READ_S), contextlib.aclosing(chunks):
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    return


def _judge(answer: ReceiverResponse) -> DeliveryError | None:
    if 200 <= answer.status < 300:
        return None
    if answer.status == 410:
        return ReceiverGone()
    return ReceiverRefused(retry_after_s=answer.retry_after_s)
