"""What every endpoint works with, and who is calling."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast, get_args

from starlette.requests import Request

from staffstream.api.join_tokens import JoinTokens
from staffstream.api.key_ring import OpenStreams
from staffstream.api.rate_limits import RateLimits
from staffstream.api.request_body import BodyBudget
from staffstream.background.events import LiveEvents
from staffstream.background.follow import Subscriptions
from staffstream.background.imports import Importer
from staffstream.background.purge import Purger
from staffstream.background.worker import Worker
from staffstream.background.write_probe import WriteProbe
from staffstream.domain import Caller, Role
from staffstream.errors import NotStarted, Unauthorized
from staffstream.memory.learning import Learning
from staffstream.pipeline import Pipeline
from staffstream.settings import Settings
from staffstream.storage.database import Database

LOCAL_USER = "local"

Identify = Callable[[Request], Awaitable[Caller | str | None]]
"""Names the user of a request; None, or raising Unauthorized, refuses it. Given by a host app that knows its users.
A bare name may do what an admin may: a host that wants less answers `Caller(name, "member")`.
"""


@dataclass(slots=True)
class Services:
    """The parts of the app that endpoints use. They live as long as its lifespan."""

    settings: Settings
    database: Database
    pipeline: Pipeline
    subscriptions: Subscriptions
    learning: Learning
    identify: Identify
    limits: RateLimits
    worker: Worker
    open_streams: OpenStreams
    purger: Purger
    importer: Importer
    bodies: BodyBudget
    join_tokens: JoinTokens
    write_probe: WriteProbe
    events: LiveEvents


def get_services(request: Request) -> Services:
    """The running app's parts. Raises NotStarted outside its lifespan."""
    services = getattr(request.app.state, "services", None)
    if services is None:
        raise NotStarted
    return cast(Services, services)


async def identify_local(request: Request) -> Caller:
    """Everyone is the same user: what a server without keys on a loopback address does."""
    return Caller(LOCAL_USER, "admin")


async def identify_caller(request: Request, *, join_token: str | None = None) -> Caller:
    """Who calls, by the request or by a join token, counted against the caller's limit of requests. Raises Unauthorized
    or TooManyRequests.
    """
    services = get_services(request)
    if join_token is None:
        found = await services.identify(request)
    else:
        found = await services.join_tokens.identify(request.path_params["run_id"], join_token)
    caller = Caller(found, "admin") if isinstance(found, str) else found
    if caller is None or not _is_somebody(caller):
        raise Unauthorized
    if name := name_limited(services, caller):
        services.limits.count_request(name)
    return caller


def _is_somebody(caller: Caller) -> bool:
    """Whether a caller has a name and a role: a host may have made it from a session that has no user."""
    user_id: object = caller.user_id
    return isinstance(user_id, str) and bool(user_id.strip()) and user_id >= " " and caller.role in get_args(Role)


def name_limited(services: Services, caller: Caller) -> str | None:
    """Under which name a caller's requests and streams are counted: its key, or the user whom the host named. None
    where everybody is the same user.
    """
    if services.identify is identify_local:
        return None
    return caller.key_id or caller.user_id
