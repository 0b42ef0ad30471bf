"""Errors as RFC 9457 problem details, and the edge of the app where every exception ends.

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

from staffstream.domain import make_id
from staffstream.endpoints.gate import Gate, protect_page
from staffstream.errors import Forbidden, InternalError, MethodNotAllowed, NotFound, StaffstreamError
from staffstream.sse import encode_json

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
    headers = dict(error.headers)
    retry_after_s = error.retry_after_s
    if retry_after_s is None and error.status in (429, 503):
        retry_after_s = 1
    if retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(retry_after_s))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(encode_json(body | error.extra), error.status, headers, "application/problem+json")


async def handle_own_error(request: Request, error: Exception) -> Response:
    """A StaffstreamError that an endpoint raised."""
    assert isinstance(error, StaffstreamError)
    return respond_problem(error, request.scope["staffstream.request_id"])


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
    return respond_problem(known, request.scope["staffstream.request_id"])


def _list_methods(request: Request) -> list[str]:
    """Every method that some route takes at this path; Starlette's own Allow header knows one route only."""
    matching = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
    return sorted({method for route in matching for method in getattr(route, "methods", None) or ()})


class Edge:
    """Outermost: gives each request an id, answers it with X-Request-Id, lets in what the gate lets in, and turns what
    nobody caught into a 500.
    """

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self.app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = scope["staffstream.request_id"] = sent if _REQUEST_ID.fullmatch(sent) else make_id()
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                protect_page(headers)
            await send(message)

        try:
            self._gate.check(scope)
            await self.app(scope, receive, send_with_id)
        except Forbidden as error:
            await respond_problem(error, request_id)(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s to %s failed", request_id, scope["path"])
            if started:
                raise
            await respond_problem(InternalError(), request_id)(scope, receive, send_with_id)
