"""BERT's uncased WordPiece tokenizer in plain Python. It returns the same ids as the `tokenizers` library.

The pieces of a word are cached, since few words make up most text. A long text is cut first: only its beginning counts.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

CHARS_A_PIECE = 16  # of a long text only limit × this many characters are read; English has about 4 a piece
LONGEST_WORD = 100  # BERT's own limit, in characters; a longer word is unknown

_ASCII_TOKEN = re.compile(r"[0-9a-z]+|[!-/:-@\[-`{-~]")
_CJK = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
        (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))  # fmt: skip


class WordPiece:
    """Text to the ids of its pieces, without [CLS] and [SEP]."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {piece: number for number, piece in enumerate(vocabulary)}
        self.size = len(vocabulary)
        self.start, self.end, self.unknown = (self._ids[name] for name in ("[CLS]", "[SEP]", "[UNK]"))
        self._split_word = lru_cache(maxsize=32_768)(self._split_word_uncached)

    def encode(self, text: str, *, limit: int) -> list[int]:
        """At most `limit` ids, in the text's order; a word that cannot be split into known pieces is `unknown`."""
        ids: list[int] = []
        for word in split_basic_tokens(text[: limit * CHARS_A_PIECE]):
            ids += self._split_word(word)
            if len(ids) >= limit:
                return ids[:limit]
        return ids

    def _split_word_uncached(self, word: str) -> tuple[int, ...]:
        """The ids of a word's pieces. Each piece is the longest known one at its position."""
        if len(word) > LONGEST_WORD:
            return (self.unknown,)
        ids, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                number = self._ids.get(prefix + word[start:end])
                if number is not None:
                    break
            else:
                return (self.unknown,)
            ids.append(number)
            start = end
        return tuple(ids)


def split_basic_tokens(text: str) -> Iterator[str]:
    """BERT's basic tokens: lower-case words without accents; each punctuation mark and CJK character is one token."""
    if text.isascii():
        # ASCII control characters are dropped; they do not separate words
        return iter(_ASCII_TOKEN.findall(text.lower().translate(_ASCII_CONTROLS)))
    cleaned = "".join(map(_clean_char, text))
    bare = "".join(char for char in unicodedata.normalize("NFD", cleaned) if unicodedata.category(char) != "Mn")
    # character by character: str.lower() of a whole word changes a final sigma, BERT does not
    lowered = "".join(map(str.lower, bare))
    spaced = "".join(f" {char} " if _is_punctuation(char) else char for char in lowered)
    return iter(spaced.split())


@lru_cache(maxsize=8_192)
def _clean_char(char: str) -> str:
    code = ord(char)
    if char in "\t\n\r" or unicodedata.category(char) == "Zs":
        return " "
    if code in (0, 0xFFFD) or unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co"):
        return ""
    return f" {char} " if any(low <= code <= high for low, high in _CJK) else char


@lru_cache(maxsize=8_192)
def _is_punctuation(char: str) -> bool:
    return (
        "!" <= char <= "/"
        or ":" <= char <= "@"
        or "[" <= char <= "`"
        or "{" <= char <= "~"
        or (unicodedata.category(char).startswith("P"))
    )


_ASCII_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127])
