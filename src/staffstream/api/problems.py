"""Errors as RFC 9457 problem details, and the outermost middleware, where every exception ends.

No text of an exception reaches a client: an error of our own tree brings its own words, anything else becomes a plain
500 under a request id that finds the traceback in the log.
"""

import logging
import math
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from staffstream.api.dialects.error_shapes import shape_error
from staffstream.api.host_check import HostCheck, protect_page
from staffstream.domain import make_id
from staffstream.errors import Forbidden, InternalError, MethodNotAllowed, NotFound, StaffstreamError
from staffstream.support import logs, traces
from staffstream.support.sse import encode_json

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


def respond_problem(error: StaffstreamError, request_id: str) -> Response:
    """The error as application/problem+json."""
    body = {
        "type": f"urn:staffstream:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "retryable": error.retryable,
        "request_id": request_id,
    }
    return Response(encode_json(body | error.extra), error.status, _list_headers(error), "application/problem+json")


def _list_headers(error: StaffstreamError) -> dict[str, str]:
    headers = dict(error.headers)
    retry_after_s = error.retry_after_s
    if retry_after_s is None and error.status in (429, 503):
        retry_after_s = 1
    if retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(retry_after_s))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


async def handle_own_error(request: Request, error: Exception) -> Response:
    """A StaffstreamError that an endpoint raised."""
    assert isinstance(error, StaffstreamError)
    return _answer(request.scope, error)


async def handle_routing_error(request: Request, error: Exception) -> Response:
    """What Starlette's router raises: an unknown path, or a method that a path does not take."""
    assert isinstance(error, HTTPException)
    known: StaffstreamError
    if error.status_code == 405:
        known = MethodNotAllowed(headers={"Allow": ", ".join(_list_methods(request))})
    elif error.status_code == 404:
        known = NotFound("There is nothing at this path; /openapi.json lists what there is.")
    else:
        log.error("unexpected HTTPException %d", error.status_code)
        known = InternalError()
    return _answer(request.scope, known)


def _answer(scope: Scope, error: StaffstreamError) -> Response:
    scope["app"].metrics.problems.labels(error.status, error.code).inc()
    shaped = shape_error(scope, error, _list_headers(error))
    return shaped or respond_problem(error, scope["staffstream.request_id"])


def _list_methods(request: Request) -> list[str]:
    """Every method that some route takes at this path; Starlette's own Allow header knows one route only."""
    matching = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
    return sorted({method for route in matching for method in getattr(route, "methods", None) or ()})


class RequestMiddleware:
    """The outermost middleware: gives each request an id, which the answer has as X-Request-Id, checks its host and
    origin, and turns what nobody caught into a 500.
    """

    def __init__(self, app: ASGIApp, host_check: HostCheck, root_path: str = "") -> None:
        self.app = app
        self._root_path = root_path
        self._host_check = host_check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._root_path:
            scope = _add_root(scope, self._root_path)
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = scope["staffstream.request_id"] = sent if _REQUEST_ID.fullmatch(sent) else make_id()
        token = logs.request_id.set(request_id)
        try:
            with traces.trace_request(scope) as span:
                status = await self._serve(scope, receive, send)
                if span.is_recording():
                    traces.name_request(span, scope["method"], _find_path(scope), status)
        finally:
            logs.request_id.reset(token)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> int:
        """The status that was answered, 0 if there was no answer."""
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = scope["staffstream.request_id"]
                protect_page(headers)
            await send(message)

        try:
            self._host_check.check(scope)
            await self.app(scope, receive, send_with_id)
        except Forbidden as error:
            await _answer(scope, error)(scope, receive, send_with_id)
        except Exception:
            log.exception("%s %r failed", scope["method"], scope["path"])
            if status:
                raise
            await _answer(scope, InternalError())(scope, receive, send_with_id)
        return status


def _add_root(scope: Scope, root: str) -> Scope:
    """The scope as if the app were mounted at the prefix that a proxy has cut off. One that has it still is let be."""
    path = scope["path"]
    if not (path + "/").startswith(root + "/"):
        path = root + path
    return {**scope, "root_path": root + scope.get("root_path", ""), "path": path}


def _find_path(scope: Scope) -> str:
    """The path of the route that answered, with its parameters' names; empty if none did."""
    if (endpoint := scope.get("endpoint")) is None:
        return ""
    return next((route.path for route in scope["app"].routes if getattr(route, "endpoint", None) is endpoint), "")
