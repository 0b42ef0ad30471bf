"""Claude: asking it, and reading what it answers.

Requests go through the SDK's own async client (sdk.py); of a streamed answer we read the SDK's byte stream and parse
the few events that a reply is made of ourselves, which costs less than half of building the SDK's event objects
(bench/relay.py) and makes every way in which a stream can break one of our own errors. A reply counts as finished
only after `message_stop`: the SDK raises nothing when the upstream ends cleanly without it.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

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
from staffstream.support import traces
from staffstream.support.logs import show_word
from staffstream.support.timers import SilenceWatch

if TYPE_CHECKING:
    import httpx2

    from staffstream.models.anthropic_sdk import Sdk

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
class ProviderTimeouts:
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
            self._read_message_usage(event.get("usage"))
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
        self._read_message_usage(message.get("usage"))
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
        if text is None or text == "":  # says nothing, so it is no sign of life either
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

    def _read_message_usage(self, usage: object) -> None:
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


def _read_error(event: dict[str, Any]) -> UpstreamError:
    kind = _as_text(_as_object(event.get("error")).get("type"))
    log.warning("Claude broke off its reply: %s", show_word(kind))
    return _BY_TYPE.get(kind, UpstreamRefused if kind.endswith("_error") else UpstreamBroken)()


# ── the client ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Claude:
    """A far end to ask. Made by `Claude.open`, which also closes it."""

    def __init__(self, limits: ProviderTimeouts, concurrency: int, make_sdk: Callable[[], "Sdk"]) -> None:
        self.limits = limits
        self._places = asyncio.Semaphore(concurrency)  # requests beyond these wait
        self._make_sdk = make_sdk
        self._sdk: asyncio.Task[Sdk] | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        limits: ProviderTimeouts,
        *,
        api_key: str | None,
        base_url: str | None = None,
        concurrency: int = 2000,
        make_transport: "Callable[[], httpx2.AsyncBaseTransport] | None" = None,
    ) -> AsyncIterator["Claude"]:
        """A client over the SDK's aiohttp transport, or over the one that is made.

        Importing the SDK takes more than all else of a start together, so a thread does it: at `warm_up`, or when
        something is asked before that, which then waits for it.
        """

        def make_sdk() -> "Sdk":
            from staffstream.models.anthropic_sdk import Sdk

            return Sdk(api_key=api_key or "", base_url=base_url, transport=make_transport and make_transport())

        claude = cls(limits, concurrency, make_sdk)
        try:
            yield claude
        finally:
            await claude._close()

    def warm_up(self) -> None:
        """Import the SDK now, in a thread."""
        if self._sdk is None or (self._sdk.done() and self._sdk.exception()):
            self._sdk = asyncio.create_task(asyncio.to_thread(self._make_sdk), name="import the SDK")

    def is_ready(self) -> bool:
        """Whether Claude can be asked without a wait, or it is known that it cannot: asking then says why."""
        return self._sdk is not None and self._sdk.done()

    async def wait_ready(self) -> None:
        """Return once that is so."""
        self.warm_up()
        assert self._sdk is not None
        await asyncio.wait([self._sdk])

    async def _reach(self) -> "Sdk":
        self.warm_up()
        assert self._sdk is not None
        return await asyncio.shield(self._sdk)  # whoever waits may be cancelled

    async def _close(self) -> None:
        if self._sdk is not None:
            await asyncio.wait([self._sdk])
            if not self._sdk.exception():
                await self._sdk.result().aclose()

    async def stream_reply(self, prompt: Prompt, take: Callable[[list[Event]], None]) -> None:
        """Ask Claude and hand every batch of events to `take` as it arrives, `Finished` last.

        Returns after `Finished`. Raises an UpstreamError for every other end, among them UpstreamTimeout when nothing
        but pings came for too long. What `take` raises goes through.
        """
        sdk = await self._reach()
        with traces.trace_chat(prompt.model, prompt.max_tokens, sdk.host) as span:
            try:
                async with self._places, asyncio.timeout(None) as deadline:
                    loop = asyncio.get_running_loop()
                    watch = SilenceWatch(self.limits.first_event_s, lambda: deadline.reschedule(loop.time()))
                    try:
                        reader = await self._relay(sdk, prompt, take, watch)
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
        sdk = await self._reach()
        with traces.trace_chat(model, max_tokens, sdk.host) as span:
            async with self._places:
                message = await sdk.create(
                    model=model,
                    max_tokens=max_tokens,
                    system=system,
                    question=question,
                    schema=schema,
                    connect_s=self.limits.connect_s,
                    silence_s=self.limits.silence_s,
                )
            usage = _read_usage(message.usage.to_dict())
            traces.note_answer(span, message.model, message.stop_reason, usage)
        if message.stop_reason in ("refusal", "max_tokens", "model_context_window_exceeded"):
            raise UpstreamUnfinished
        text = "".join(block.text for block in message.content if block.type == "text")
        return Answer(_load_json(clean_text(text).encode()), message.model, usage)

    async def _relay(
        self, sdk: "Sdk", prompt: Prompt, take: Callable[[list[Event]], None], watch: SilenceWatch
    ) -> EventReader:
        reader = EventReader()

        def on_chunk(data: bytes) -> bool:
            if events := reader.feed(data):
                if type(events[0]) is Accepted:
                    watch.change_limit(self.limits.silence_s)
                else:
                    watch.note()
                take(events)
            return reader.finished or reader.failure is not None

        await sdk.stream(
            model=prompt.model,
            max_tokens=prompt.max_tokens,
            system=prompt.system,
            messages=prompt.messages,
            connect_s=self.limits.connect_s,
            on_chunk=on_chunk,
        )
        reader.end()
        return reader
