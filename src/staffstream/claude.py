"""Claude: the only room that knows the Anthropic SDK.

Requests go through the SDK's own async client; of a streamed answer we read the SDK's byte stream and parse the few
events that a reply is made of ourselves, which costs less than half of building the SDK's event objects
(bench/relay.py) and makes every way in which a stream can break one of our own errors. A reply counts as finished
only after `message_stop`: the SDK raises nothing when the upstream ends cleanly without it.
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import anthropic
import httpx2
import orjson

from staffstream import traces
from staffstream.domain import clean_text
from staffstream.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamIncomplete,
    UpstreamKeyRefused,
    UpstreamMalformed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnfinished,
)
from staffstream.logs import text_log
from staffstream.timing import SilenceWatch, read_retry_after

log = logging.getLogger(__name__)

_MOST_PENDING_BYTES = 32 * 1024 * 1024  # an event larger than this is no event


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to Claude, in the Messages API's own shapes."""

    model: str
    max_tokens: int
    system: list[dict[str, Any]]
    messages: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Accepted:
    """Claude has taken the request: its `message_start`."""

    model: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """A sign of life that is no text for the user: thinking, a tool call, a block of an unknown kind."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Claude's `message_stop`, with what was said about the reply before it. `usage` holds token counts by name."""

    stop_reason: str | None
    usage: dict[str, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question for JSON got: the value, and what it took."""

    value: Any
    model: str
    usage: dict[str, int]


Event = str | Accepted | Thinking | Finished
"""A `str` is text for the user."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait for Claude, in seconds."""

    connect_s: float
    first_event_s: float
    silence_s: float


class EventReader:
    """The bytes of a Messages stream in, events out; no I/O. `failure` is set by whatever cannot be a reply."""

    def __init__(self) -> None:
        self.accepted = False
        self.finished = False
        self.model = ""
        self.failure: UpstreamError | None = None
        self._pending = b""
        self.stop_reason: str | None = None
        self.usage: dict[str, int] = {}
        self._half = ""  # a high surrogate whose other half comes with the next delta

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete, none after `message_stop` or after what broke the reply: text that came
        in one chunk with an error has been said.
        """
        self._pending += data
        *blocks, self._pending = _split_blocks(self._pending)
        events: list[Event] = []
        try:
            for block in blocks:
                if self.finished or self.failure:
                    break
                payload = _read_data(block)
                if payload and (event := self._read_event(payload)) is not None:
                    events.append(event)
            if len(self._pending) > _MOST_PENDING_BYTES:
                raise UpstreamMalformed
        except UpstreamError as error:
            self.failure = error
        return events

    def end(self) -> None:
        """The bytes are over. Raises what broke the reply; UpstreamIncomplete when it has no end."""
        if self.failure:
            raise self.failure
        if not self.finished:
            raise UpstreamIncomplete

    def _read_event(self, payload: bytes) -> Event | None:
        event = _load_object(payload)
        kind = event.get("type")
        if kind == "content_block_delta":
            return self._read_delta(event)
        if kind == "message_start":
            return self._read_start(event)
        if kind == "message_delta":
            self.stop_reason = _as_text(_as_object(event.get("delta")).get("stop_reason")) or self.stop_reason
            self._keep_usage(event.get("usage"))
        elif kind == "message_stop":
            if not self.accepted:
                raise UpstreamMalformed
            self.finished = True
            return Finished(self.stop_reason, self.usage)
        elif kind == "error":
            raise _read_error(event)
        elif kind == "content_block_start" and self.accepted:
            block = _as_object(event.get("content_block"))
            return (_as_text(block.get("text")) or None) if block.get("type") == "text" else Thinking()
        return None

    def _read_start(self, event: dict[str, Any]) -> Event | None:
        message = _as_object(event.get("message"))
        self._keep_usage(message.get("usage"))
        if self.accepted:
            return None
        self.accepted = True
        self.model = _as_text(message.get("model"))
        return Accepted(self.model)

    def _read_delta(self, event: dict[str, Any]) -> Event | None:
        if not self.accepted:
            raise UpstreamMalformed
        delta = event.get("delta")
        if not isinstance(delta, dict):
            raise UpstreamMalformed
        if delta.get("type") != "text_delta":
            return Thinking()
        text = delta.get("text")
        if text is None:
            return None
        if not isinstance(text, str):
            raise UpstreamMalformed
        return text if text.isascii() and not self._half else self._join_halves(text)

    def _join_halves(self, text: str) -> str | None:
        """Put a character together whose surrogates came in two deltas; one without its other half is replaced."""
        text = self._half + text
        self._half = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return clean_text(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")) or None

    def _keep_usage(self, usage: object) -> None:
        """Later counts replace earlier ones: the API's are cumulative."""
        self.usage |= _read_usage(usage)


def _split_blocks(data: bytes) -> list[bytes]:
    """Event blocks, the last one incomplete. LF is what Claude sends; CRLF may be a proxy's."""
    if b"\r" in data:
        held = b"\r" if data.endswith(b"\r") else b""  # its LF may still come
        data = data[: len(data) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, rest = data.split(b"\n\n")
        return [*blocks, rest + held]
    return data.split(b"\n\n")


def _read_data(block: bytes) -> bytes:
    """The data of one event block; an event's name says nothing that its JSON does not."""
    start = block.find(b"data:")
    if start >= 0 and block.find(b"\n", start) < 0 and (start == 0 or block[start - 1] == 10):
        return block[start + 5 :]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def _load_object(payload: bytes) -> dict[str, Any]:
    event = _load_json(payload)
    if not isinstance(event, dict):
        raise UpstreamMalformed
    return event


def _load_json(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return _load_leniently(payload)  # orjson refuses lone surrogates


def _load_leniently(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise UpstreamMalformed from error


def _as_object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_usage(usage: object) -> dict[str, int]:
    """The token counts of a usage object, by name."""
    return {
        name: value
        for name, value in _as_object(usage).items()
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    }


def _as_word(value: object) -> str:
    """What may stand in the log: a name of the API's, and no sentence that could quote a message."""
    return value if isinstance(value, str) and re.fullmatch(r"\w{1,64}", value, re.ASCII) else "(no name)"


def _as_text(value: object) -> str:
    return clean_text(value) if isinstance(value, str) else ""


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_BY_TYPE: dict[str, type[UpstreamError]] = {
    "authentication_error": UpstreamKeyRefused,
    "permission_error": UpstreamKeyRefused,
    "billing_error": UpstreamKeyRefused,
    "rate_limit_error": UpstreamRateLimited,
    "overloaded_error": UpstreamOverloaded,
    "timeout_error": UpstreamTimeout,
    "api_error": UpstreamBroken,
}
_BY_STATUS: dict[int, type[UpstreamError]] = {
    401: UpstreamKeyRefused,
    402: UpstreamKeyRefused,
    403: UpstreamKeyRefused,
    408: UpstreamTimeout,
    429: UpstreamRateLimited,
    503: UpstreamOverloaded,
    504: UpstreamTimeout,
    529: UpstreamOverloaded,
}


def _read_error(event: dict[str, Any]) -> UpstreamError:
    kind = _as_text(_as_object(event.get("error")).get("type"))
    log.warning("Claude broke off its reply: %s", _as_word(kind))
    return _BY_TYPE.get(kind, UpstreamRefused if kind.endswith("_error") else UpstreamBroken)()


def _translate_status(error: anthropic.APIStatusError) -> UpstreamError:
    status = error.status_code
    kind = _BY_STATUS.get(status) or (UpstreamBroken if status >= 500 else UpstreamRefused)
    log.warning("Claude answered %d %s (request %s)", status, _as_word(error.type), _as_word(error.request_id))
    text_log.debug("Claude answered %d: %.300s", status, error.message)
    return kind(retry_after_s=read_retry_after(error.response.headers.get("retry-after", "")))


@contextlib.contextmanager
def _translated_errors() -> Any:
    """Whatever the SDK and the transports beneath it raise, as our own errors."""
    try:
        yield
    except anthropic.APIStatusError as error:
        raise _translate_status(error) from error
    except (anthropic.APITimeoutError, httpx2.TimeoutException) as error:
        raise UpstreamTimeout from error
    except (anthropic.APIError, httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OSError) as error:
        log.warning("the connection to Claude broke: %s", type(error).__name__)
        raise UpstreamBroken from error


# ── the client ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Claude:
    """A far end to ask. Made by `Claude.open`, which also closes it."""

    client: anthropic.AsyncAnthropic = field(repr=False)
    limits: Limits
    places: asyncio.Semaphore  # requests beyond these wait

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        limits: Limits,
        *,
        api_key: str | None,
        base_url: str | None = None,
        concurrency: int = 2000,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> AsyncIterator["Claude"]:
        """A client over the SDK's aiohttp transport, or over the one given.

        Redirects are not followed, since they could carry the key elsewhere, and the SDK's own retries are off: it
        would sleep through any Retry-After and could repeat half a reply.
        """
        options: dict[str, Any] = {
            "follow_redirects": False,
            "limits": httpx2.Limits(max_connections=0, keepalive_expiry=30),  # 0: `places` sets the limit
        }
        http = httpx2.AsyncClient(transport=transport) if transport else anthropic.DefaultAioHttpClient(**options)
        client = anthropic.AsyncAnthropic(
            api_key=api_key or "",
            base_url=base_url,
            http_client=http,
            max_retries=0,
            timeout=None,
            open_telemetry=False,  # traces.py has spans of its own
        )
        async with client:
            yield cls(client, limits, asyncio.Semaphore(concurrency))

    async def stream_reply(self, prompt: Prompt, take: Callable[[list[Event]], None]) -> None:
        """Ask Claude and hand every batch of events to `take` as it arrives, `Finished` last.

        Returns after `Finished`. Raises an UpstreamError for every other end, among them UpstreamTimeout when nothing
        but pings came for too long. What `take` raises goes through.
        """
        with traces.trace_chat(prompt.model, prompt.max_tokens, self.client.base_url.host) as span:
            try:
                async with self.places, asyncio.timeout(None) as deadline:
                    loop = asyncio.get_running_loop()
                    watch = SilenceWatch(self.limits.first_event_s, lambda: deadline.reschedule(loop.time()))
                    try:
                        reader = await self._relay(prompt, take, watch)
                    finally:
                        watch.close()
            except TimeoutError as error:
                raise UpstreamTimeout from error
            traces.note_answer(span, reader.model, reader.stop_reason, reader.usage)

    async def ask_json(
        self, *, model: str, system: str, question: str, schema: dict[str, Any], max_tokens: int
    ) -> Answer:
        """The background model's answer as the JSON that the schema describes; its shape is not checked here.

        Raises an UpstreamError; UpstreamUnfinished when the answer was refused or did not fit into `max_tokens`.
        """
        with traces.trace_chat(model, max_tokens, self.client.base_url.host) as span:
            async with self.places:
                with _translated_errors():
                    message = await self.client.messages.create(
                        model=model,
                        max_tokens=max_tokens,
                        system=system,
                        messages=[{"role": "user", "content": question}],
                        output_config={"format": {"type": "json_schema", "schema": anthropic.transform_schema(schema)}},
                        timeout=httpx2.Timeout(self.limits.silence_s, connect=self.limits.connect_s),
                    )
            usage = _read_usage(message.usage.to_dict())
            traces.note_answer(span, message.model, message.stop_reason, usage)
        if message.stop_reason in ("refusal", "max_tokens", "model_context_window_exceeded"):
            raise UpstreamUnfinished
        text = "".join(block.text for block in message.content if block.type == "text")
        return Answer(_load_json(clean_text(text).encode()), message.model, usage)

    async def _relay(self, prompt: Prompt, take: Callable[[list[Event]], None], watch: SilenceWatch) -> EventReader:
        reader = EventReader()
        with _translated_errors():
            async with self.client.messages.with_streaming_response.create(
                model=prompt.model,
                max_tokens=prompt.max_tokens,
                system=prompt.system or anthropic.omit,  # type: ignore[arg-type]
                messages=prompt.messages,  # type: ignore[arg-type]
                stream=True,
                timeout=httpx2.Timeout(None, connect=self.limits.connect_s),
            ) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    raise UpstreamMalformed
                async with _open_body(response.http_response) as read:
                    while chunk := await read():
                        if events := reader.feed(chunk):
                            if type(events[0]) is Accepted:
                                watch.change_limit(self.limits.silence_s)
                            else:
                                watch.note()
                            take(events)
                        if reader.finished:
                            return reader
                        if reader.failure:
                            raise reader.failure
        reader.end()
        return reader


@contextlib.asynccontextmanager
async def _open_body(response: httpx2.Response) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """What reads the next bytes of a response, none at its end.

    Under the aiohttp transport that is aiohttp's own reader: the four async generators that httpx2 and the transport
    put on top of it cost a tenth of a relayed token (bench/relay.py). Anything else, a compressed body among it, is
    read through them.
    """
    if (reader := find_reader(response)) is not None and "content-encoding" not in response.headers:
        yield reader.readany
        return
    async with contextlib.aclosing(response.aiter_bytes()) as chunks:
        yield lambda: anext(chunks, b"")


def find_reader(response: httpx2.Response) -> aiohttp.StreamReader | None:
    """aiohttp's reader beneath a response, if it came through that transport."""
    beneath = getattr(response.stream, "_stream", None)
    answer = getattr(beneath, "_aiohttp_response", None)
    return answer.content if isinstance(answer, aiohttp.ClientResponse) else None
