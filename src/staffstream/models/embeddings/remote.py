"""Remote embedders: Voyage AI, and any server with OpenAI's `/embeddings` (Ollama, TEI, llama.cpp, vLLM).

Documents are embedded in the background and may be retried. A query is embedded while a user waits for the reply, so
it gets one short attempt; when that fails, recall uses words alone. The returned numbers are checked before they are
stored. Errors hold no text of a request or a response, and no key.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from staffstream.errors import SetupError
from staffstream.models.embeddings.vectors import EmbedderRefused, EmbedderUnavailable, Kind, Vectors, scale_rows
from staffstream.support.timers import read_retry_after

log = logging.getLogger(__name__)

BATCH = 64  # texts in a request
LONGEST_TEXT = 8_000  # characters: below every model's limit in tokens
QUERY_TIMEOUT_S = 2.0
DOCUMENT_TIMEOUT_S = 60.0
ATTEMPTS = 4
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0


class OpenAICompatibleEmbedder:
    """POST {url}/embeddings with `{model, input}`."""

    def __init__(self, *, url: str, model: str, dimensions: int, key: str | None = None) -> None:
        """`url` ends with `/v1`. `dimensions` are those of the model: they are checked, not sent.

        Raises SetupError for a key with characters that cannot be sent, and for an address that is not a URL.
        """
        self.name = f"openai:{model}"
        self.dimensions = dimensions
        self._model = model
        self._client = _open_client(url, key)

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Vectors:
        """See `Embedder`. Documents get up to four attempts a batch and wait as Retry-After asks; a query gets one
        attempt of two seconds.
        """
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        filled = [row for row, text in enumerate(texts) if text.strip()]  # servers refuse a blank text
        for start in range(0, len(filled), BATCH):
            chosen = filled[start : start + BATCH]
            answer = await self._post([texts[row][:LONGEST_TEXT] for row in chosen], kind)
            rows[chosen] = read_vectors(answer, len(chosen), self.dimensions)
        return scale_rows(rows)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _body(self, texts: list[str], kind: Kind) -> dict[str, Any]:
        return {"model": self._model, "input": texts, "encoding_format": "float"}

    async def _post(self, texts: list[str], kind: Kind) -> httpx.Response:
        """The response with status 200, after as many attempts as the kind of text allows."""
        body, attempts = self._body(texts, kind), ATTEMPTS if kind == "document" else 1
        for attempt in range(attempts):
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1)
            try:
                timeout_s = DOCUMENT_TIMEOUT_S if kind == "document" else QUERY_TIMEOUT_S
                async with asyncio.timeout(timeout_s):
                    answer = await self._client.post("embeddings", json=body)
            except (httpx.TransportError, TimeoutError) as error:
                failure = EmbedderUnavailable("The embedder cannot be reached.")
                failure.__cause__ = error
            else:
                if answer.status_code == httpx.codes.OK:
                    return answer
                reason = f"The embedder answered with status {answer.status_code}."
                if not (answer.status_code in (408, 409, 429) or answer.status_code >= 500):
                    raise EmbedderRefused(reason)
                failure = EmbedderUnavailable(reason)
                asked_s = read_retry_after(answer.headers.get("retry-after", "")) or 0.0
                pause_s = max(pause_s, min(LONGEST_PAUSE_S, asked_s))
            if attempt + 1 < attempts:
                await asyncio.sleep(pause_s)
        raise failure


class VoyageEmbedder(OpenAICompatibleEmbedder):
    """Voyage AI. Its requests name the kind of text (query or document) and the wanted dimensions."""

    def __init__(
        self,
        *,
        key: str,
        model: str = "voyage-3.5-lite",
        dimensions: int = 512,
        url: str = "https://api.voyageai.com/v1",
    ) -> None:
        super().__init__(url=url, model=model, dimensions=dimensions, key=key)
        self.name = f"voyage:{model}"

    def _body(self, texts: list[str], kind: Kind) -> dict[str, Any]:
        return {"model": self._model, "input": texts, "input_type": kind, "output_dimension": self.dimensions}


def read_vectors(answer: httpx.Response, number: int, dimensions: int) -> Vectors:
    """The answer's vectors, float32 (number, dimensions), in the order of the texts. Raises EmbedderUnavailable unless
    all are present and finite.
    """
    try:
        items = sorted(answer.json()["data"], key=lambda item: item["index"])
        rows = np.array([item["embedding"] for item in items], np.float32)
        complete = [item["index"] for item in items] == list(range(number))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise EmbedderUnavailable("The embedder's answer is not a list of vectors.") from error
    if not complete or rows.ndim != 2:
        raise EmbedderUnavailable("The embedder did not answer with one vector a text.")
    if rows.shape[1] != dimensions:
        raise EmbedderUnavailable(f"The embedder's vectors have {rows.shape[1]} dimensions, not {dimensions}.")
    if not np.isfinite(rows).all():
        raise EmbedderUnavailable("The embedder's vectors are not all finite numbers.")
    return rows


def _open_client(url: str, key: str | None) -> httpx.AsyncClient:
    key = (key or "").strip()
    if not key.isascii() or not key.isprintable():
        raise SetupError("The embedder's key has characters that cannot be sent. Copy it again.")
    try:
        address = httpx.URL(url.rstrip("/") + "/")
    except httpx.InvalidURL as error:
        raise SetupError("The embedder's address is not a URL.") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise SetupError("The embedder's address must start with http:// or https://.")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(base_url=address, headers=headers, timeout=httpx.Timeout(DOCUMENT_TIMEOUT_S, connect=5))
