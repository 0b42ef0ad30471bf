"""Cuts a message into passages, each of which is one memory: found, shown and counted against the budget on its own."""

import re

from staffstream.support.tokens import trim_to_tokens

PASSAGE_CHARACTERS = 1500
PASSAGE_TOKENS = 400  # 1,500 characters are about 340 tokens of English and 3,200 of Thai

_SENTENCE_END = re.compile(r"[.!?؟।](?=\s)|[。！？]")


def split_passages(text: str) -> list[str]:
    """The text in passages of at most PASSAGE_CHARACTERS and PASSAGE_TOKENS, cut where a paragraph, a line, a sentence
    or at least a word ends. A blank text has none.
    """
    passages: list[str] = []
    rest = text.strip()
    while rest:
        window = rest[:PASSAGE_CHARACTERS]
        window = trim_to_tokens(window, PASSAGE_TOKENS) or window[:1]
        end = len(window) if len(window) == len(rest) else _find_cut(window)
        passages.append(rest[:end].strip())
        rest = rest[end:].strip()
    return [passage for passage in passages if passage]


def _find_cut(window: str) -> int:
    sentences = [found.end() for found in _SENTENCE_END.finditer(window)]
    ends = (window.rfind("\n\n"), window.rfind("\n"), max(sentences, default=0))
    cut = max((end for end in ends if end > len(window) // 3), default=window.rfind(" "))
    return cut if cut > 0 else len(window)
