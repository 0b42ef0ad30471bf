"""The built-in embedder: a table with one vector per word piece. The vector of a text is the mean of its pieces'
vectors.

The table is distilled from all-MiniLM-L6-v2 (`scripts/make_static_embedder.py`). It needs only numpy, no download, and
0.03 ms per text, so it can run inside the transaction that saves a message. Recall also compares the vectors of single
pieces (recall.py).
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import as_file, files
from typing import Any

import numpy as np

from staffstream.models.embeddings.vectors import Kind, Vectors, scale_rows
from staffstream.models.embeddings.wordpiece import WordPiece

MAX_PIECES = 512  # the rest of a longer text is ignored
CACHED_TEXTS, CACHED_CHARS = 128, 2_000  # a question is split when it is saved, embedded and recalled for

_COMPARED_AT_ONCE = 128  # pieces whose vectors as floats stay in the core's cache
_FIRST_WORD = 1996  # "the"; the pieces before it are special, or single characters

Ids = np.ndarray[Any, np.dtype[np.int32]]
Places = np.ndarray[Any, np.dtype[np.signedinteger[Any]]]


class StaticEmbedder:
    """256 dimensions. A text has the same vector on every machine: BLAS is not used for it."""

    name = "staffstream-static-1"
    dimensions = 256

    def __init__(self) -> None:
        data = files("staffstream") / "data"
        with as_file(data / "static-embedder.npy") as path:
            # int8 (pieces, 256), the direction of each piece; memory-mapped, since most of its 7.8 MB are never read
            self._codes = np.asarray(np.load(path, mmap_mode="r"))
        with (data / "static-embedder.npz").open("rb") as file, np.load(file) as table:
            self._weights = table["weights"].astype(np.float32)  # (pieces,): length of each, over 127
            self._lengths = table["lengths"]  # float32 (pieces,), of the codes
            pieces = table["vocabulary"].tobytes().decode("utf-8").split("\n")
        self.pieces = WordPiece(pieces)
        self._split_cached = lru_cache(maxsize=CACHED_TEXTS)(self._split_uncached)
        self._embed_cached = lru_cache(maxsize=CACHED_TEXTS)(self._embed_uncached)
        self.is_word = np.array([piece.strip("#").isalnum() for piece in pieces])
        self.commonness = _estimate_commonness(self.pieces.size)

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Vectors:
        """See `Embedder`. Runs on the calling thread: a switch to another thread would take longer."""
        return self.embed_now(texts)

    async def aclose(self) -> None:
        """Nothing is open."""

    def embed_now(self, texts: Sequence[str]) -> Vectors:
        """The same as `embed`, without an event loop."""
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = self._embed_cached(text) if len(text) <= CACHED_CHARS else self._embed_uncached(text)
        return rows

    def _embed_uncached(self, text: str) -> Vectors:
        ids = self.split(text)
        vector: Vectors = scale_rows(np.einsum("i,ij->j", self._weights[ids], self._codes[ids])[None, :])[0]
        return vector

    def split(self, text: str) -> Ids:
        """The ids of the text's known pieces, at most MAX_PIECES: int32 (pieces,), read-only."""
        return self._split_cached(text) if len(text) <= CACHED_CHARS else self._split_uncached(text)

    def _split_uncached(self, text: str) -> Ids:
        ids = np.array(self.pieces.encode(text, limit=MAX_PIECES), np.int32)
        known: Ids = ids[ids != self.pieces.unknown]
        known.flags.writeable = False
        return known

    def compare_pieces(self, some: Ids, others: Ids) -> Vectors:
        """The cosine of each piece in `some` with each piece in `others`: float32 (len(some), len(others)). `others`
        may repeat pieces.
        """
        distinct, place = self._number_distinct(others)  # many pieces occur more than once
        wanted = (self._codes[some].astype(np.float32) / self._lengths[some, None]).T
        cosines = np.empty((len(distinct), len(some)), np.float32)  # BLAS takes half the time for this orientation
        for start in range(0, len(distinct), _COMPARED_AT_ONCE):
            part = slice(start, start + _COMPARED_AT_ONCE)
            np.matmul(self._codes[distinct[part]].astype(np.float32), wanted, out=cosines[part])
        cosines /= self._lengths[distinct, None]
        compared: Vectors = np.ascontiguousarray(cosines.T).take(place, axis=1)
        return compared

    def _number_distinct(self, ids: Ids) -> tuple[Places, Places]:
        """The distinct ids, and for each given id its index among them. Faster than np.unique, which sorts."""
        present = np.zeros(self.pieces.size, np.bool_)
        present[ids] = True
        distinct = np.flatnonzero(present)
        place = np.empty(self.pieces.size, np.int16)
        place[distinct] = np.arange(len(distinct), dtype=np.int16)
        return distinct, place[ids]


def _estimate_commonness(size: int) -> Vectors:
    """The estimated share of English texts that contain a piece: float32 (size,). The vocabulary is sorted by
    frequency, so Zipf's law gives it.
    """
    rank = np.arange(size) - _FIRST_WORD
    share = np.minimum(1, 2 / np.maximum(rank + 1, 1))
    return np.where(rank >= 0, share, 0.01).astype(np.float32)


@lru_cache(maxsize=1)
def load_static_embedder() -> StaticEmbedder:
    """The table, read from its file at the first call; one per process."""
    return StaticEmbedder()
