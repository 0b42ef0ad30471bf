"""What every endpoint works with, and who is calling."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode

from starlette.requests import Request

from staffstream.api.rate_limits import RateLimits
from staffstream.background.follow import Subscriptions
from staffstream.background.worker import Worker
from staffstream.domain import Caller, now_text
from staffstream.errors import Forbidden, NotStarted, Unauthorized
from staffstream.memory.learning import Learning
from staffstream.pipeline import Pipeline
from staffstream.settings import Settings
from staffstream.storage import keys
from staffstream.storage.database import Database

LOCAL_USER = "local"

Identify = Callable[[Request], Awaitable[Caller | str | None]]
"""Names the user of a request; None, or raising Unauthorized, refuses it. Given by a host app that knows its users.
A bare name may do what an admin may: a host that wants less answers `Caller(name, "member")`.
"""


@dataclass(slots=True)
class Service:
    """The parts that live as long as the app."""

    settings: Settings
    database: Database
    pipeline: Pipeline
    subscriptions: Subscriptions
    learning: Learning
    identify: Identify
    limits: RateLimits
    worker: Worker


def get_service(request: Request) -> Service:
    """The running app's parts. Raises NotStarted outside its lifespan."""
    service = getattr(request.app.state, "service", None)
    if service is None:
        raise NotStarted
    return cast(Service, service)


async def identify_local(request: Request) -> Caller:
    """Everyone is the same user: what a server without keys on a loopback address does."""
    return Caller(LOCAL_USER, "admin")


class KeyRing:
    """Identifies callers by the keys in the database. Each request looks its key up, so that a key revoked by another
    process is refused at once; when keys were used is collected in `used`, for housekeeping to write down.
    """

    def __init__(self, database: Database) -> None:
        self.used: dict[str, str] = {}
        self._database = database

    async def identify(self, request: Request) -> Caller:
        """The caller whose key the request carries. Raises Unauthorized."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise Unauthorized
        key = await self._database.read(lambda conn: keys.find_key(conn, text.strip()))
        if key is None:
            raise Unauthorized
        self.used[key.id] = now_text()
        return Caller(key.user_id, key.role, key.id)


async def identify_caller(request: Request) -> Caller:
    """Who calls; asked, and counted, once a request. Raises Unauthorized or TooManyRequests."""
    caller: Caller | None = request.scope.get("staffstream.caller")
    if caller is None:
        found = await get_service(request).identify(request)
        if not found:
            raise Unauthorized
        caller = request.scope["staffstream.caller"] = Caller(found, "admin") if isinstance(found, str) else found
        if holder := name_holder(request, caller):
            get_service(request).limits.count_request(holder)
    return caller


def name_holder(request: Request, caller: Caller) -> str | None:
    """Under which name a caller's requests and streams are counted: its key, or the user whom the host named. None
    where everybody is the same user.
    """
    if get_service(request).identify is identify_local:
        return None
    return caller.key_id or caller.user_id


def hold_stream(request: Request) -> contextlib.AbstractContextManager[None]:
    """A place among the caller's open streams, for as long as the block lasts. Raises TooManyStreams on entry."""
    holder = name_holder(request, request.scope["staffstream.caller"])
    return get_service(request).limits.hold_stream(holder)


async def get_caller(request: Request) -> tuple[Service, str]:
    """The service and the id of the user who calls. Raises Unauthorized."""
    return get_service(request), (await identify_caller(request)).user_id


async def get_admin(request: Request) -> tuple[Service, str]:
    """The same, for what only an admin may do. Raises Unauthorized or Forbidden."""
    if (await identify_caller(request)).role != "admin":
        raise Forbidden("Only an admin's key may do that.")
    return await get_caller(request)


def write_path(request: Request, *parts: str, query: Mapping[str, Any] | None = None) -> str:
    """A path of this API as the client sees it, under whatever prefix the app is mounted."""
    path = "/".join([request.scope.get("root_path", ""), "api/v1", *(quote(part, safe="") for part in parts)])
    return f"{path}?{urlencode(query)}" if query else path
