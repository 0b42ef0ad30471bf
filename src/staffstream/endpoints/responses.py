"""Plain answers: JSON, and pages of it."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from staffstream.endpoints.service import write_path
from staffstream.sse import encode_json


def respond_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The value as JSON, with no character in it that a client could take for a line end."""
    return Response(encode_json(value), status, headers, "application/json")


def respond_page(
    request: Request, items: list[dict[str, Any]], *, limit: int, more: bool, path: tuple[str, ...]
) -> Response:
    """A JSON array, with a Link to the next page (RFC 8288) when there is one."""
    headers = {}
    if more:
        query = dict(request.query_params) | {"limit": str(limit), "before": items[-1]["id"]}
        headers["Link"] = f'<{write_path(request, *path, query=query)}>; rel="next"'
    return respond_json(items, headers=headers)
