"""Embedders at a provider: batched, tried again, and believed in nothing that was not checked."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from staffstream.errors import SetupError
from staffstream.models.embeddings import EmbedderUnavailable
from staffstream.models.embeddings.remote import OpenAICompatibleEmbedder, VoyageEmbedder
from tests.tools.embedding_server import EmbeddingServer, ScriptedResponse, answer_well

pytestmark = pytest.mark.anyio

KEY = "sk-secret-1234"


def vectors(*rows: list[Any]) -> ScriptedResponse:
    return 200, {}, {"data": [{"index": n, "embedding": row} for n, row in enumerate(rows)]}


@contextlib.asynccontextmanager
async def embedder_at(server: EmbeddingServer) -> AsyncIterator[OpenAICompatibleEmbedder]:
    async with server.running() as url:
        embedder = OpenAICompatibleEmbedder(url=url, model="m", dimensions=3, key=KEY)
        async with contextlib.aclosing(embedder):
            yield embedder


async def test_a_far_end_gets_batches_and_its_answers_are_put_in_order() -> None:
    """100 texts are two requests; blank ones are not sent and give zeros; rows are at length 1."""
    server = EmbeddingServer(answer_well, answer_well)
    texts = ["x" * n for n in range(100)]
    async with embedder_at(server) as embedder:
        rows = await embedder.embed(texts, kind="document")
    assert [len(asked["input"]) for asked in server.asked] == [64, 35]
    assert server.asked[0]["model"] == "m"
    assert f"Bearer {KEY}" in server.headers[0]
    assert not rows[0].any()
    assert rows[1:, 0] / rows[1:, 1] == pytest.approx(np.arange(1, 100), rel=1e-5)
    assert np.linalg.norm(rows[1:], axis=1) == pytest.approx(1)


async def test_documents_are_tried_again_after_a_passing_failure() -> None:
    """429 with Retry-After and 500 are waited out."""
    server = EmbeddingServer((429, {"retry-after": "0"}, {}), (500, {}, b"<html>"), answer_well)
    async with embedder_at(server) as embedder:
        assert (await embedder.embed(["hello"], kind="document")).any()
    assert len(server.asked) == 3


async def test_a_question_is_tried_once() -> None:
    """Somebody waits for the reply: recall goes on by words."""
    server = EmbeddingServer((503, {}, {}))
    async with embedder_at(server) as embedder:
        with pytest.raises(EmbedderUnavailable, match="503"):
            await embedder.embed(["hello"], kind="query")
    assert len(server.asked) == 1


async def test_a_refusal_is_not_repeated_and_gives_nothing_away() -> None:
    """A wrong key fails at once, and neither the key nor the provider's words are in the error."""
    server = EmbeddingServer((401, {}, {"error": f"bad key {KEY}"}))
    async with embedder_at(server) as embedder:
        with pytest.raises(EmbedderUnavailable) as caught:
            await embedder.embed(["my secret"], kind="document")
    assert caught.value.detail == "The embedder answered with status 401."
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "answer",
    [
        vectors([1.0, 2.0]),
        vectors([1.0, float("nan"), 0.0]),
        vectors([1.0, float("inf"), 0.0]),
        vectors([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        vectors(),
        vectors([1.0, "x", 3.0]),
        (200, {}, {"data": [{"index": 7, "embedding": [1.0, 2.0, 3.0]}]}),
        (200, {}, {"data": None}),
        (200, {}, [1, 2]),
        (200, {}, b"not json"),
        (200, {}, b"[" * 100_000),
    ],
)
async def test_an_answer_that_is_not_the_vectors_asked_for_is_refused(answer: ScriptedResponse) -> None:
    """Wrong dimensions, NaN, too few, too many, no JSON: nothing of it is kept."""
    async with embedder_at(EmbeddingServer(answer)) as embedder:
        with pytest.raises(EmbedderUnavailable):
            await embedder.embed(["hello"], kind="query")


async def test_a_far_end_that_is_not_there_is_an_embedder_unavailable() -> None:
    """A refused connection is told in our own words."""
    async with EmbeddingServer().running() as url:
        pass
    embedder = OpenAICompatibleEmbedder(url=url, model="m", dimensions=3)
    async with contextlib.aclosing(embedder):
        with pytest.raises(EmbedderUnavailable, match="cannot be reached"):
            await embedder.embed(["hello"], kind="query")


async def test_voyage_is_told_what_kind_of_text_it_gets() -> None:
    """Questions and documents are embedded differently there, at the dimensions we ask for."""
    server = EmbeddingServer(answer_well)
    async with server.running() as url:
        embedder = VoyageEmbedder(url=url, key=KEY, model="voyage-3.5-lite", dimensions=3)
        async with contextlib.aclosing(embedder):
            await embedder.embed(["hello"], kind="query")
    asked = {"model": "voyage-3.5-lite", "input": ["hello"], "input_type": "query", "output_dimension": 3}
    assert server.asked == [asked]


@pytest.mark.parametrize("key", ["sk\nx: y", "sk-\u00e9"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(key: str) -> None:
    """A line break in a key would otherwise end up in an exception's text."""
    with pytest.raises(SetupError) as caught:
        OpenAICompatibleEmbedder(url="http://127.0.0.1:9/v1", model="m", dimensions=3, key=key)
    assert key not in str(caught.value)
