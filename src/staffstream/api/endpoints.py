"""The declaration of an endpoint: its route, who may call it, what it takes and what it answers.

A resource module declares each endpoint beside its handler. The routes of the app and /openapi.json both come from
these declarations. A handler's parameters `body` and `query` are the request's, checked against their annotations:

    endpoints = Endpoints("staff", "/api/v1/staff")

    @endpoints.post("", access="admin", status=201, response=NEW_STAFF, sends=["Location"])
    async def create(call: Call, body: NewStaff) -> Result: ...

A handler gets a `Call`, or the bare `Request` if its endpoint is open to everybody. It returns what is written as JSON,
an `Result` if headers go with that, or an ASGI response if the endpoint declares no response model.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_type_hints
from urllib.parse import quote, urlencode

from pydantic import BaseModel, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from staffstream.api.auth import Services, get_services, identify_caller, name_limited
from staffstream.api.json_responses import respond_fresh, respond_json
from staffstream.api.request_body import read_body, read_query
from staffstream.domain import Caller, Scope
from staffstream.errors import Forbidden
from staffstream.storage import staff

Access = Literal["open", "user", "admin"]
Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Any]])
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request: who sent it, and the parts of the app that answer it."""

    request: Request
    services: Services
    caller: Caller

    @property
    def user_id(self) -> str:
        return self.caller.user_id

    @property
    def is_admin(self) -> bool:
        return self.caller.role == "admin"

    def param(self, name: str) -> str:
        """A parameter of the path, such as `staff_id`."""
        return str(self.request.path_params[name])

    async def find_scope(self) -> Scope:
        """The caller's scope with the path's staff member, for reading. Raises NotFound."""
        staff_id = self.param("staff_id")
        return await self.services.database.read(lambda conn: staff.find_scope(conn, staff_id, self.user_id))

    def write_path(self, *parts: str) -> str:
        """A path of this API as the client sees it, under whatever prefix the app is mounted."""
        root = self.request.scope.get("root_path", "")
        return "/".join([root, "api/v1", *(quote(part, safe="") for part in parts)])


@dataclass(frozen=True, slots=True)
class Result:
    """A value to write as JSON, and the headers that go with it."""

    value: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class PageQuery(Protocol):
    """The query of a list that is read in pages."""

    limit: int


def make_page(call: Call, found: list[Item], query: PageQuery, show: Callable[[Item], dict[str, Any]]) -> Result:
    """A page of a list, from up to `query.limit + 1` items: with one more than fit, a Link leads on (RFC 8288)."""
    shown = [show(item) for item in found[: query.limit]]
    if len(found) <= query.limit:
        return Result(shown)
    parameters = dict(call.request.query_params) | {"limit": str(query.limit), "before": shown[-1]["id"]}
    path = quote(call.request.scope["path"])
    return Result(shown, {"Link": f'<{path}?{urlencode(parameters)}>; rel="next"'})


class Endpoint(Route):
    """A route with its declaration.

    `takes` and `sends` name headers of the request and of the answer; `problems` are the statuses of errors besides
    those that every endpoint of its kind has; `also` are further statuses under which it answers the same. With `etag`
    the answer has one, and a client that sends it back gets 304. `is_import` allows the larger bodies of imports;
    `takes_join_token` lets a run's token in the query stand for a key; one that is not `is_described` is left out of
    /openapi.json.
    """

    def __init__(
        self,
        method: str,
        path: str,
        handler: Callable[..., Awaitable[Any]],
        *,
        tag: str,
        access: Access = "user",
        status: int = 200,
        response: Any = None,
        media_type: str = "application/json",
        takes: Sequence[str] = (),
        sends: Sequence[str] = (),
        problems: Sequence[int] = (),
        also: Mapping[int, str] | None = None,
        etag: bool = False,
        is_import: bool = False,
        takes_join_token: bool = False,
        is_described: bool = True,
    ) -> None:
        super().__init__(path, self._answer, methods=[method])
        self.method = method
        self.handler = handler
        self.tag = tag
        self.access: Access = access
        self.status = status
        self.response = response
        self.media_type = media_type
        self.takes = takes
        self.sends = sends
        self.problems = problems
        self.also = also or {}
        self.etag = etag
        self._is_import = is_import
        self._takes_join_token = takes_join_token
        self.is_described = is_described
        annotations = get_type_hints(handler, include_extras=True)
        self.body: TypeAdapter[Any] | None = TypeAdapter(annotations["body"]) if "body" in annotations else None
        self.query: type[BaseModel] | None = annotations.get("query")
        default = inspect.signature(handler).parameters["body"].default if self.body else inspect.Parameter.empty
        self.body_required = default is inspect.Parameter.empty
        self._no_body = None if self.body_required else default

    async def _answer(self, request: Request) -> ASGIApp:
        """Authenticate, read what the handler takes, call it, and write what it returns."""
        first = request if self.access == "open" else await self._identify(request)
        given: dict[str, Any] = {}
        if self.query is not None:
            given["query"] = read_query(request, self.query)
        if self.body is not None:
            given["body"] = await self._read_body(request, first)
        result = await self.handler(first, **given)
        if self.status == 204:
            return Response(status_code=204, headers=result.headers if isinstance(result, Result) else None)
        if isinstance(result, Response) or self.response is None or self.media_type == "text/event-stream":
            response: ASGIApp = result
            return response
        answer = result if isinstance(result, Result) else Result(result)
        if self.etag:
            return respond_fresh(request, answer.value, answer.headers)
        return respond_json(answer.value, self.status, answer.headers)

    async def _read_body(self, request: Request, call: Call | Request) -> Any:
        assert self.body is not None
        services = get_services(request)
        settings = services.settings
        return await read_body(
            request,
            self.body,
            budget=services.bodies,
            name=name_limited(services, call.caller) if isinstance(call, Call) else None,
            timeout_s=settings.body_timeout_s,
            limit_bytes=settings.max_import_bytes if self._is_import else settings.max_body_bytes,
            empty=self._no_body,
        )

    async def _identify(self, request: Request) -> Call:
        token = request.query_params.get("token") if self._takes_join_token else None
        caller = await identify_caller(request, join_token=None if "authorization" in request.headers else token)
        if self.access == "admin" and caller.role != "admin":
            raise Forbidden("Only an admin's key may do that.")
        return Call(request, get_services(request), caller)


class Endpoints:
    """Collects the endpoints of one resource, whose paths begin with `prefix`. Use its methods as decorators; they
    take what `Endpoint` takes, and `declaration` holds for all of them.
    """

    def __init__(self, tag: str, prefix: str = "", **declaration: Any) -> None:
        self._tag = tag
        self._prefix = prefix
        self._declaration = declaration
        self._declared: list[Endpoint] = []

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._declared)

    def get(self, path: str, **declaration: Any) -> Callable[[Handler], Handler]:
        return self._declare("GET", path, declaration)

    def post(self, path: str, **declaration: Any) -> Callable[[Handler], Handler]:
        return self._declare("POST", path, declaration)

    def patch(self, path: str, **declaration: Any) -> Callable[[Handler], Handler]:
        return self._declare("PATCH", path, declaration)

    def delete(self, path: str, **declaration: Any) -> Callable[[Handler], Handler]:
        return self._declare("DELETE", path, {"status": 204} | declaration)

    def _declare(self, method: str, path: str, declaration: dict[str, Any]) -> Callable[[Handler], Handler]:
        def declare(handler: Handler) -> Handler:
            self._declared.append(
                Endpoint(method, self._prefix + path, handler, tag=self._tag, **(self._declaration | declaration))
            )
            return handler

        return declare
