"""Errors in the shape that each dialect's clients read. The words are those of our own errors."""

from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from staffstream.errors import StaffstreamError
from staffstream.support.sse import encode_json

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def describe_openai_error(code: str, detail: str, status: int, param: str | None = None) -> dict[str, Any]:
    """OpenAI's shape."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": detail, "type": kind, "param": param, "code": code}}


def shape_error(scope: Scope, error: StaffstreamError, headers: dict[str, str]) -> Response | None:
    """The error as a client of the path's dialect reads it; None where the path is our own API's."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if path.startswith("/v1/"):
        status = 400 if error.status == 422 else error.status
        body = describe_openai_error(error.code, error.detail, status, error.extra.get("param") or _find_param(error))
        return Response(encode_json(body), status, headers, "application/json")
    if _is_chat(path):  # these clients show the body of a failed request as it is
        return Response(error.detail, error.status, headers, "text/plain; charset=utf-8")
    return None


def _is_chat(path: str) -> bool:
    parts = path.split("/")
    return parts[1:4] == ["api", "v1", "staff"] and len(parts) > 5 and parts[5] in ("chat", "ag-ui")


def _find_param(error: StaffstreamError) -> str | None:
    errors = error.extra.get("errors")
    return errors[0]["pointer"].strip("/").replace("/", ".") or None if errors else None
