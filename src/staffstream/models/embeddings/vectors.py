"""The protocol of every embedder, and the scaling of vectors. sqlite-vec accepts NaN and ranks it above all real
neighbours, so no vector that is not finite may pass.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from staffstream.errors import Unavailable

Kind = Literal["document", "query"]
Vectors = np.ndarray[Any, np.dtype[np.float32]]


class EmbedderUnavailable(Unavailable):
    """The embedder cannot answer now. The work that needs it will be tried again."""

    code, title = "embedder_unavailable", "Embedder unavailable"


class EmbedderRefused(EmbedderUnavailable):
    """The embedder refuses the request, and would refuse it again."""

    code, title, retryable = "embedder_refused", "Embedder refused", False


class Embedder(Protocol):
    """Turns texts into vectors; the dot product of two vectors is the similarity of their texts. The name and the
    dimensions are stored with the vectors.
    """

    @property
    def name(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Vectors:
        """Float32 (len(texts), dimensions). Rows have length 1, or are zero for a text that the embedder does not know.

        Raises EmbedderUnavailable when a remote embedder cannot answer.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections. Idempotent."""
        ...


def scale_rows(rows: Vectors) -> Vectors:
    """The rows scaled to length 1. A row of zeros stays zero; a row that is not finite becomes zero."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]  # half of what linalg.norm costs for one row
    good = np.isfinite(lengths) & (lengths > 0)
    scaled: Vectors = np.divide(rows, lengths, out=np.zeros_like(rows), where=good)
    return scaled
