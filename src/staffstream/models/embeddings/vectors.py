"""What every embedder promises, and the checks on vectors: sqlite-vec takes NaN and ranks it above all real
neighbours.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from staffstream.errors import Unavailable

Kind = Literal["document", "query"]
Vectors = np.ndarray[Any, np.dtype[np.float32]]


class EmbedderUnavailable(Unavailable):
    """The embedder cannot answer now. What waits for it will be tried again."""

    code, title = "embedder_unavailable", "Embedder unavailable"


class EmbedderRefused(EmbedderUnavailable):
    """The embedder refuses what it is asked; the same request would be refused again."""

    code, title, retryable = "embedder_refused", "Embedder refused", False


class Embedder(Protocol):
    """Turns texts into vectors whose dot product is their likeness. The name and dimensions are stored with the
    vectors.
    """

    @property
    def name(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Vectors:
        """Float32 (len(texts), dimensions); unit rows, or zero where the text holds nothing the embedder knows.

        Raises EmbedderUnavailable when a far end cannot answer.
        """
        ...

    async def aclose(self) -> None:
        """Lets go of connections. Idempotent."""
        ...


def scale_rows(rows: Vectors) -> Vectors:
    """The rows at length 1; rows of zeros stay so, and one that is not finite becomes zeros."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]  # half of what linalg.norm costs for one row
    good = np.isfinite(lengths) & (lengths > 0)
    scaled: Vectors = np.divide(rows, lengths, out=np.zeros_like(rows), where=good)
    return scaled
