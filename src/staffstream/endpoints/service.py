"""What every endpoint works with, and who is calling."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode

from starlette.requests import Request

from staffstream.database import Database
from staffstream.errors import NotStarted
from staffstream.pipeline import Pipeline
from staffstream.settings import Settings

LOCAL_USER = "local"

Identify = Callable[[Request], Awaitable[str]]
"""Names the user of a request, or raises Unauthorized. Given by a host app that knows its users."""


@dataclass(slots=True)
class Service:
    """The parts that live as long as the app."""

    settings: Settings
    database: Database
    pipeline: Pipeline
    identify: Identify


def get_service(request: Request) -> Service:
    """The running app's parts. Raises NotStarted outside its lifespan."""
    service = getattr(request.app.state, "service", None)
    if service is None:
        raise NotStarted
    return cast(Service, service)


async def identify_local(request: Request) -> str:
    """Everyone is the same user: what a server without keys on a loopback address does."""
    return LOCAL_USER


async def get_caller(request: Request) -> tuple[Service, str]:
    """The service and the id of the user who calls. Raises Unauthorized."""
    service = get_service(request)
    return service, await service.identify(request)


def write_path(request: Request, *parts: str, query: Mapping[str, Any] | None = None) -> str:
    """A path of this API as the client sees it, under whatever prefix the app is mounted."""
    path = "/".join([request.scope.get("root_path", ""), "api/v1", *(quote(part, safe="") for part in parts)])
    return f"{path}?{urlencode(query)}" if query else path
