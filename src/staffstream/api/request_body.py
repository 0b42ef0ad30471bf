"""Request bodies and queries: read within limits, parsed as JSON, checked against a shape."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request

from staffstream.api.auth import get_services
from staffstream.domain import clean_text
from staffstream.errors import (
    BadRequest,
    Invalid,
    NotJson,
    SlowRequest,
    StaffstreamError,
    TooLarge,
    UnsupportedMediaType,
)

T = TypeVar("T")
Q = TypeVar("Q", bound=BaseModel)

_MOST_NESTED = 32
_MOST_VALUES = 50_000  # the largest import of a conversation has 20,000
_MOST_MEMBERS = 1000  # of one object: each that is not known would be a mistake to describe
_MOST_BRACKETS = 1_000_000  # in text too, where there are never so many; each empty list or object takes 64 bytes
_MOST_DISCARDED_BYTES = 16 * 1024 * 1024


async def read_body(request: Request, shape: TypeAdapter[T], *, limit_bytes: int, empty: T | None = None) -> T:
    """The body as a value of the shape, `empty` for none. Raises a 4xx of our tree; an absent content type counts as
    JSON.
    """
    chunks = request.stream()
    try:
        async with asyncio.timeout(get_services(request).settings.body_timeout_s):
            try:
                data = await _collect(request, chunks, limit_bytes)
            except StaffstreamError:
                await _discard_rest(request, chunks)
                raise
    except TimeoutError as error:
        raise SlowRequest from error
    except ClientDisconnect as error:
        raise BadRequest("The body ended before it was complete.") from error
    if empty is not None and not data:
        return empty
    _check_media_type(request)
    if data.count(b"[") + data.count(b"{") > _MOST_BRACKETS:
        raise TooLarge("The body holds too many lists and objects.")
    value = parse_json(data)
    _check_size(value)
    return _validate(shape.validate_python, value)


def _check_media_type(request: Request) -> None:
    """Refuse bodies that say they are something else. Browsers' fetch calls a string text/plain; the guide's own
    example does that.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type not in ("", "application/json", "text/plain") and not media_type.endswith("+json"):
        raise UnsupportedMediaType


async def _collect(request: Request, chunks: AsyncIterator[bytes], limit_bytes: int) -> bytes:
    too_large = TooLarge(f"The body is larger than {limit_bytes} bytes.", headers={"Connection": "close"})
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit_bytes:
        raise too_large
    data: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit_bytes:
            raise too_large
        data.append(chunk)
    return b"".join(data)


async def _discard_rest(request: Request, chunks: AsyncIterator[bytes]) -> None:
    """Read on for a while: a client that is still sending when the connection closes is told of a reset, not of our
    answer. One that said `Expect: 100-continue` waits for the answer first.
    """
    size = 0
    if "expect" not in request.headers:
        async for chunk in chunks:
            size += len(chunk)
            if size > _MOST_DISCARDED_BYTES:
                return


def parse_json(data: bytes) -> Any:
    """The JSON value with lone surrogates replaced. Raises NotJson."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:  # orjson refuses lone surrogates, which JavaScript's JSON.stringify may send as escapes
        return _clean(json.loads(data.decode("utf-8"), parse_constant=_refuse_constant))
    except (ValueError, RecursionError) as error:
        raise NotJson from error


def _check_size(value: Any) -> None:
    """Refuse what is so deep or has so many parts that checking it, and describing each mistake in it, would cost more
    than it can be worth: a second for each half megabyte of `1,1,1,…`, during which nobody else is served.
    """
    level, seen = [value], 0
    for _ in range(_MOST_NESTED):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return
        seen += sum(map(len, containers))
        if seen > _MOST_VALUES or any(isinstance(item, dict) and len(item) > _MOST_MEMBERS for item in containers):
            raise TooLarge("The body holds too many values.")
        level = [inner for outer in containers for inner in (outer.values() if isinstance(outer, dict) else outer)]
    raise NotJson(f"The body is nested more than {_MOST_NESTED} levels deep.")


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


def _validate(check: Callable[[Any], T], value: Any) -> T:
    """The checked value. Raises Invalid with one entry a mistake: a JSON pointer and what is expected there."""
    try:
        return check(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise _describe_mistakes([(e["loc"], e["msg"].removeprefix("Value error, ")) for e in found]) from None


def _describe_mistakes(found: list[tuple[tuple[int | str, ...], str]]) -> Invalid:
    errors = [{"pointer": _write_pointer(place), "detail": message} for place, message in found[:50]]
    first = errors[0]
    return Invalid(f"{first['pointer'] or 'The body'}: {first['detail']}"[:500], extra={"errors": errors})


def _write_pointer(place: tuple[int | str, ...]) -> str:
    """RFC 6901. A key the client made up is cut short: it is shown back only to find the mistake."""
    return "".join("/" + str(part)[:64].replace("~", "~0").replace("/", "~1") for part in place)


def read_query(request: Request, shape: type[Q]) -> Q:
    """The query parameters in their shape; ones it does not know are ignored. Raises Invalid."""
    values: Mapping[str, str] = request.query_params
    return _validate(shape.model_validate, {name: clean_text(value) for name, value in values.items()})
