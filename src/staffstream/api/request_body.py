"""Request bodies and queries: read within limits, parsed as JSON, checked against a shape."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request

from staffstream.api.json_body import parse_json
from staffstream.domain import clean_text
from staffstream.errors import (
    BadRequest,
    Invalid,
    SlowRequest,
    StaffstreamError,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
)

T = TypeVar("T")
Q = TypeVar("Q", bound=BaseModel)

FREE_BYTES = 64 * 1024  # of each body
_MAX_DISCARDED_BYTES = 16 * 1024 * 1024
_DISCARD_S = 2.0


class BodyBudget:
    """Limits the bytes of all bodies that are in flight: being read, parsed or checked. One caller may take half of
    them. The first bytes of each body are free, so that no large one keeps a message out.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._taken: Counter[str | None] = Counter()

    @property
    def taken_bytes(self) -> int:
        """What is in flight now, beside each body's free bytes."""
        return self._taken.total()

    @contextlib.contextmanager
    def open(self, name: str | None) -> Iterator[Callable[[int], None]]:
        """Gives what takes further bytes for a body of this caller, None for one whom nobody counts. It raises
        Unavailable when they are not there.
        """
        size = taken = 0

        def take(more_bytes: int) -> None:
            nonlocal size, taken
            size += more_bytes
            counted = max(0, size - FREE_BYTES) - taken
            limit = self._total_bytes - self._taken.total()
            if name is not None:
                limit = min(limit, self._total_bytes // 2 - self._taken[name])
            if counted > limit:
                raise Unavailable("The server is reading as many large bodies as it can. Try again soon.")
            taken += counted
            self._taken[name] += counted

        try:
            yield take
        finally:
            self._taken[name] -= taken


async def read_body(
    request: Request,
    shape: TypeAdapter[T],
    *,
    budget: BodyBudget,
    name: str | None,
    timeout_s: float,
    limit_bytes: int,
    empty: T | None = None,
) -> T:
    """The body as a value of the shape, `empty` for none. Raises a 4xx of our tree; an absent content type counts as
    JSON. `name` is under which name its bytes are counted.
    """
    chunks = request.stream()
    with budget.open(name) as take:
        try:
            async with asyncio.timeout(timeout_s):
                data = await _collect(request, chunks, limit_bytes, take)
        except TimeoutError as error:
            raise SlowRequest from error
        except ClientDisconnect as error:
            raise BadRequest("The body ended before it was complete.") from error
        except StaffstreamError:
            await _discard_rest(request, chunks)
            raise
        if empty is not None and not data:
            return empty
        _check_media_type(request)
        if len(data) > FREE_BYTES:
            return await asyncio.to_thread(_read_value, shape, data)
        return _read_value(shape, data)


def _read_value(shape: TypeAdapter[T], data: bytes) -> T:
    return _validate(shape.validate_python, parse_json(data))


def _check_media_type(request: Request) -> None:
    """Refuse bodies that say they are something else. Browsers' fetch calls a string text/plain; the guide's own
    example does that.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type not in ("", "application/json", "text/plain") and not media_type.endswith("+json"):
        raise UnsupportedMediaType


async def _collect(
    request: Request, chunks: AsyncIterator[bytes], limit_bytes: int, take: Callable[[int], None]
) -> bytes:
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
        take(len(chunk))
        data.append(chunk)
    return b"".join(data)


async def _discard_rest(request: Request, chunks: AsyncIterator[bytes]) -> None:
    """Read on for a while: a client that is still sending when the connection closes is told of a reset, not of our
    answer. One that said `Expect: 100-continue` waits for the answer first.
    """
    if "expect" in request.headers:
        return
    size = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_DISCARD_S):
            async for chunk in chunks:
                size += len(chunk)
                if size > _MAX_DISCARDED_BYTES:
                    return


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
