"""Answers in JSON, also under an ETag."""

import hashlib
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from staffstream.support.sse import encode_json


def respond_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The value as JSON, with no character in it that a client could take for a line end."""
    return Response(encode_json(value), status, headers, "application/json")


def respond_fresh(request: Request, value: Any, headers: Mapping[str, str] | None = None) -> Response:
    """The value as JSON under an ETag, or an empty 304 for a client that says it has just that (RFC 9110, 13.1.2).

    The tag is of the bytes, so whatever can change the answer changes it; browsers ask by it of their own accord.
    """
    body = encode_json(value)
    tag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    headers = {**(headers or {}), "ETag": tag, "Cache-Control": "private, no-cache"}
    known = {item.strip().removeprefix("W/") for item in request.headers.get("if-none-match", "").split(",")}
    if known & {tag, "*"}:
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, "application/json")
