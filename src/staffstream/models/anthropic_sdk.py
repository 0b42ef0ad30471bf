"""The Anthropic SDK: its client, our prompts in the Messages API's shapes, and its errors translated to ours.

Importing it is slow (1,600 modules); claude.py imports this module in a thread.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import aiohttp
import anthropic
import httpx2

from staffstream.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamMalformed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)
from staffstream.models.aiohttp_pool import WatchedClient
from staffstream.models.chat import Block, Prompt
from staffstream.models.fast_reader import OnChunk, forward_chunks
from staffstream.support.logs import show_name, text_log
from staffstream.support.timers import read_retry_after

log = logging.getLogger(__name__)


class Sdk:
    """The SDK's client, over its aiohttp transport or over the given transport. Can be made in any thread.

    Redirects are not followed: they could send the key to another host. The SDK's own retries are off: it would sleep
    for any Retry-After, however long, and could repeat half a reply.
    """

    def __init__(
        self, *, api_key: str, base_url: str | None, transport: httpx2.AsyncBaseTransport | None, fast: bool
    ) -> None:
        """With `fast`, bodies are read from aiohttp's own reader where possible (see fast_reader.py)."""
        self._fast = fast
        http = (
            httpx2.AsyncClient(transport=transport)
            if transport
            else WatchedClient(keepalive_s=30, follow_redirects=False)
        )
        self._client = anthropic.AsyncAnthropic(
            api_key=api_key,
            base_url=base_url,
            http_client=http,
            max_retries=0,
            timeout=None,
            open_telemetry=False,  # traces.py has spans of its own
        )
        # in the constructor, which runs in a thread: this attribute imports many modules
        self._streams = self._client.messages.with_streaming_response

    @property
    def host(self) -> str:
        """The provider's host name."""
        return self._client.base_url.host

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def stream(self, prompt: Prompt, *, connect_s: float, on_chunk: OnChunk) -> None:
        """Pass the bytes of a reply to `on_chunk` as they arrive, until it returns True or the body ends. Raises an
        UpstreamError.
        """
        with _translated_errors():
            async with self._streams.create(
                **write_request(prompt),
                stream=True,
                timeout=httpx2.Timeout(None, connect=connect_s),
            ) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    raise UpstreamMalformed
                await _read_body(response.http_response, on_chunk, fast=self._fast)

    async def create(
        self,
        *,
        model: str,
        max_tokens: int,
        system: str,
        question: str,
        schema: dict[str, Any],
        connect_s: float,
        silence_s: float,
    ) -> anthropic.types.Message:
        """The whole answer, not streamed; its text is JSON that fits the schema. Raises an UpstreamError."""
        with _translated_errors():
            return await self._client.messages.create(
                model=model,
                max_tokens=max_tokens,
                system=system,
                messages=[{"role": "user", "content": question}],
                output_config={"format": {"type": "json_schema", "schema": anthropic.transform_schema(schema)}},
                timeout=httpx2.Timeout(silence_s, connect=connect_s),
            )


def write_request(prompt: Prompt) -> dict[str, Any]:
    """The prompt as the parameters of a Messages API request."""
    messages = [{"role": message.role, "content": _write_blocks(message.blocks)} for message in prompt.messages]
    request: dict[str, Any] = {"model": prompt.model, "max_tokens": prompt.max_tokens, "messages": messages}
    if prompt.thinking_tokens:
        request["thinking"] = {"type": "enabled", "budget_tokens": prompt.thinking_tokens}
    return request | ({"system": _write_blocks(prompt.system)} if prompt.system else {})


def _write_blocks(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": block.text} | (_CACHE_POINT if block.cache_point else {}) for block in blocks]


_CACHE_POINT = {"cache_control": {"type": "ephemeral"}}


async def _read_body(response: httpx2.Response, on_chunk: OnChunk, *, fast: bool) -> None:
    """Read the body from aiohttp's own reader where possible. httpx2 and its transport put four async generators on
    top of that reader, which cost a tenth of a relayed token (bench/relay.py). A compressed body, and the body of
    another transport, is read through them.
    """
    reader = find_reader(response) if fast and "content-encoding" not in response.headers else None
    if reader is not None:
        await forward_chunks(reader, on_chunk)
        return
    async with contextlib.aclosing(response.aiter_bytes()) as chunks:
        async for chunk in chunks:
            if on_chunk(chunk):
                return


def find_reader(response: httpx2.Response) -> aiohttp.StreamReader | None:
    """The aiohttp reader under a response; None for another transport."""
    beneath = getattr(response.stream, "_stream", None)
    answer = getattr(beneath, "_aiohttp_response", None)
    return answer.content if isinstance(answer, aiohttp.ClientResponse) else None


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

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


def _translate_status(error: anthropic.APIStatusError) -> UpstreamError:
    status = error.status_code
    kind = _BY_STATUS.get(status) or (UpstreamBroken if status >= 500 else UpstreamRefused)
    log.warning("Claude answered %d %s (request %s)", status, show_name(error.type), show_name(error.request_id))
    text_log.debug("Claude answered %d: %.300s", status, error.message)
    return kind(retry_after_s=read_retry_after(error.response.headers.get("retry-after", "")))


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise the errors of the SDK and its transports as our own errors."""
    try:
        yield
    except anthropic.APIStatusError as error:
        raise _translate_status(error) from error
    except (anthropic.APITimeoutError, httpx2.TimeoutException) as error:
        raise UpstreamTimeout from error
    except (anthropic.APIError, httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OSError) as error:
        log.warning("the connection to Claude broke: %s", type(error).__name__)
        raise UpstreamBroken from error
