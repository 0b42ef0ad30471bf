"""Texts to vectors. The built-in embedder is a static table; MiniLM and far ends are opt-in, behind the same protocol.

An embedder is named by one setting: `static`, `minilm` (or `minilm:DIRECTORY`), `voyage:MODEL` or `openai:MODEL`. Its
name and dimensions are stored beside the vectors: vectors of two embedders cannot be compared.
"""

from pathlib import Path

from staffstream.errors import SetupError
from staffstream.models.embeddings.static import StaticEmbedder, load_static_embedder
from staffstream.models.embeddings.vectors import Embedder, EmbedderUnavailable, Kind, Vectors

__all__ = [
    "Embedder",
    "EmbedderUnavailable",
    "Kind",
    "StaticEmbedder",
    "Vectors",
    "load_static_embedder",
    "make_embedder",
]


def make_embedder(
    spec: str = "static", *, url: str | None = None, key: str | None = None, dimensions: int | None = None
) -> Embedder:
    """The embedder that a setting names. `url`, `key` and `dimensions` are for far ends. Raises SetupError."""
    kind, _, rest = spec.partition(":")
    if kind == "static" and not rest:
        return load_static_embedder()
    if kind == "minilm":
        from staffstream.models.embeddings.minilm import MiniLMEmbedder  # needs the extra

        return MiniLMEmbedder(Path(rest) if rest else None)
    from staffstream.models.embeddings.remote import OpenAICompatibleEmbedder, VoyageEmbedder  # needs an HTTP client

    if kind == "voyage" and rest and key:
        return VoyageEmbedder(key=key, model=rest, dimensions=dimensions or 512)
    if kind == "openai" and rest and url and dimensions:
        return OpenAICompatibleEmbedder(url=url, model=rest, dimensions=dimensions, key=key)
    raise SetupError(
        "The embedder must be static, minilm, minilm:DIRECTORY, voyage:MODEL (with a key),"
        " or openai:MODEL (with its URL and its dimensions)."
    )
