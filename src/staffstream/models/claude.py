"""Claude as a chat model: limits the number of requests and their silence, and traces them.

Requests go through the SDK's own async client (anthropic_sdk.py); anthropic_events.py parses the bytes of a reply.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from staffstream.domain import clean_text
from staffstream.errors import UpstreamTimeout, UpstreamUnfinished
from staffstream.models.anthropic_events import EventReader, load_json, read_usage
from staffstream.models.chat import JsonAnswer, OnEvents, Prompt, ProviderTimeouts, Started
from staffstream.support import traces
from staffstream.support.timers import SilenceWatch, limit_silence

if TYPE_CHECKING:
    import httpx2

    from staffstream.models.anthropic_sdk import Sdk


class Claude:
    """A `ChatModel` over the SDK's aiohttp transport, or over the transport that `make_transport` returns.

    Importing the SDK takes longer than the rest of a start, so a thread does it: at `warm_up`, or at the first request
    if that comes earlier. The request waits for the import.
    """

    def __init__(
        self,
        timeouts: ProviderTimeouts,
        *,
        api_key: str | None,
        base_url: str | None = None,
        concurrency: int = 2000,
        make_transport: "Callable[[], httpx2.AsyncBaseTransport] | None" = None,
        fast: bool = True,
    ) -> None:
        self._timeouts = timeouts
        self._places = asyncio.Semaphore(concurrency)  # requests beyond these wait
        self._sdk: asyncio.Task[Sdk] | None = None

        def make_sdk() -> "Sdk":
            from staffstream.models.anthropic_sdk import Sdk

            transport = make_transport and make_transport()
            return Sdk(api_key=api_key or "", base_url=base_url, transport=transport, fast=fast)

        self._make_sdk = make_sdk

    def warm_up(self) -> None:
        """Import the SDK now, in a thread."""
        if self._sdk is None or (self._sdk.done() and self._sdk.exception()):
            self._sdk = asyncio.create_task(asyncio.to_thread(self._make_sdk), name="import the SDK")

    def is_ready(self) -> bool:
        """Whether the import has ended. If it failed, the next request raises the error."""
        return self._sdk is not None and self._sdk.done()

    async def wait_ready(self) -> None:
        """Return when `is_ready` is true."""
        self.warm_up()
        assert self._sdk is not None
        await asyncio.wait([self._sdk])

    async def _get_sdk(self) -> "Sdk":
        self.warm_up()
        assert self._sdk is not None
        return await asyncio.shield(self._sdk)  # a cancelled request must not cancel the import

    async def aclose(self) -> None:
        """Close all connections."""
        if self._sdk is not None:
            await asyncio.wait([self._sdk])
            if not self._sdk.exception():
                await self._sdk.result().aclose()

    async def stream_reply(self, prompt: Prompt, on_events: OnEvents) -> None:
        """Request a reply and pass its events to `on_events` as they arrive: `Started` first, `Finished` last.

        Returns after `Finished`. Raises an UpstreamError in every other case; UpstreamTimeout when only pings arrived
        for too long. Exceptions of `on_events` are not caught.
        """
        sdk = await self._get_sdk()
        with traces.trace_chat(prompt.model, prompt.max_tokens, sdk.host) as span:
            try:
                async with self._places, limit_silence(self._timeouts.first_event_s) as watch:
                    reader = await self._relay(sdk, prompt, on_events, watch)
            except TimeoutError as error:
                raise UpstreamTimeout from error
            traces.note_answer(span, reader.model, reader.stop_reason, reader.usage)

    async def _relay(self, sdk: "Sdk", prompt: Prompt, on_events: OnEvents, watch: SilenceWatch) -> EventReader:
        reader = EventReader()

        def on_chunk(data: bytes) -> bool:
            if events := reader.feed(data):
                if type(events[0]) is Started:
                    watch.change_limit(self._timeouts.silence_s)
                else:
                    watch.note()
                on_events(events)
            return reader.finished or reader.failure is not None

        await sdk.stream(prompt, connect_s=self._timeouts.connect_s, on_chunk=on_chunk)
        reader.end()
        return reader

    async def ask_json(
        self, *, model: str, system: str, question: str, schema: dict[str, Any], max_tokens: int
    ) -> JsonAnswer:
        """The answer to `question` as JSON that fits the schema. It is parsed, but not checked against the schema.

        Raises an UpstreamError; UpstreamUnfinished when the answer was refused or did not fit into `max_tokens`.
        """
        sdk = await self._get_sdk()
        with traces.trace_chat(model, max_tokens, sdk.host) as span:
            async with self._places:
                message = await sdk.create(
                    model=model,
                    max_tokens=max_tokens,
                    system=system,
                    question=question,
                    schema=schema,
                    connect_s=self._timeouts.connect_s,
                    silence_s=self._timeouts.silence_s,
                )
            usage = read_usage(message.usage.to_dict())
            traces.note_answer(span, message.model, message.stop_reason, usage)
        if message.stop_reason in ("refusal", "max_tokens", "model_context_window_exceeded"):
            raise UpstreamUnfinished
        text = "".join(block.text for block in message.content if block.type == "text")
        return JsonAnswer(load_json(clean_text(text).encode()), message.model, usage)
