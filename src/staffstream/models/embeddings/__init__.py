"""Embedders: texts to vectors. The default is a static table; MiniLM and remote embedders are optional and have the
same protocol.

One setting names the embedder: `static`, `minilm` (or `minilm:DIRECTORY`), `voyage:MODEL` or `openai:MODEL`. Its name
and dimensions are stored with the vectors: vectors of two embedders cannot be compared.
"""

from pathlib import Path

from staffstream.errors import SetupError
from staffstream.models.embeddings.static import StaticEmbedder, load_static_embedder
from staffstream.models.embeddings.vectors import Embedder, EmbedderUnavailable, Kind, Vectors
from staffstream.settings import Settings

__all__ = [
    "Embedder",
    "EmbedderUnavailable",
    "Kind",
    "StaticEmbedder",
    "Vectors",
    "load_static_embedder",
    "make_embedder",
]


def make_embedder(settings: Settings) -> Embedder:
    """The embedder that the settings name. Raises SetupError. Reads files: call it in a thread."""
    kind, _, rest = settings.embedder.partition(":")
    url, dimensions = settings.embedder_url, settings.embedder_dimensions
    key = settings.embedder_key.get_secret_value() if settings.embedder_key else None
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
