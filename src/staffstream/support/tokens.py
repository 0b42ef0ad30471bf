"""Counts the tokens of a text, and cuts a text to a number of tokens.

tiktoken counts with Claude's published vocabulary, which is bundled: `tiktoken.get_encoding` would download one, with
no timeout. The vocabulary is of 2023; newer models count more tokens. The ratio is measured from each reply's `usage`
(see `replies/token_ratios.py`). A text is counted in pieces of at most 65,536 characters: a very long run of the same
kind of character makes tiktoken raise a BaseException.
"""

import base64
import functools
import importlib.resources
from collections.abc import Iterator

import orjson
import tiktoken

_PIECE_CHARS = 64 * 1024
_CACHED_TEXTS, _CACHED_CHARS = 2048, 2000  # each reply counts the turns of its conversation again


@functools.cache
def _encoding() -> tiktoken.Encoding:
    source = importlib.resources.files("staffstream").joinpath("data", "claude-vocab.json")
    vocabulary = orjson.loads(source.read_bytes())
    _first, start, *words = vocabulary.pop("bpe_ranks").split(" ")
    ranks = {base64.b64decode(word): number for number, word in enumerate(words, int(start))}
    encoding = tiktoken.Encoding(
        name="claude",
        pat_str=vocabulary["pat_str"],
        mergeable_ranks=ranks,
        special_tokens=vocabulary["special_tokens"],
    )
    ranks.clear()  # frees 8 MB: the encoding keeps this dict, but counts with its own copy
    return encoding


def warm_up() -> None:
    """Build the encoding now (about 50 ms), not at the first reply."""
    _encoding()


def count_tokens(text: str) -> int:
    """The number of tokens. A text of more than one piece counts at most one token too many per cut."""
    return _count_cached(text) if len(text) <= _CACHED_CHARS else _count_uncached(text)


def _count_uncached(text: str) -> int:
    return sum(len(_encoding().encode_ordinary(piece)) for piece in _pieces(text))


_count_cached = functools.lru_cache(maxsize=_CACHED_TEXTS)(_count_uncached)


def trim_to_tokens(text: str, limit_tokens: int) -> str:
    """The longest beginning of the text with at most `limit_tokens` tokens; never cut inside a character."""
    if limit_tokens <= 0:
        return ""
    kept: list[str] = []
    left = limit_tokens
    for piece in _pieces(text):
        tokens = _encoding().encode_ordinary(piece)
        if len(tokens) > left:
            kept.append(_decode_whole(tokens[:left]))
            break
        kept.append(piece)
        left -= len(tokens)
    return "".join(kept)


def _decode_whole(tokens: list[int]) -> str:
    return _encoding().decode_bytes(tokens).decode("utf-8", errors="ignore")


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _PIECE_CHARS):
        yield text[start : start + _PIECE_CHARS]
