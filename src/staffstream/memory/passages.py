"""The passage of a memory that answers a question: the sentences around the words that both have."""

import re
from collections.abc import Collection

from staffstream.support.words import fold_text, list_forms

MAX_BYTES = 480  # in UTF-8, which grows with the tokens of a text better than its characters do
_SENTENCE = re.compile(r".+?(?:[.!?؟।](?=\s)|[。！？]|\n|$)", re.DOTALL)


def find_passage(text: str, words: Collection[str]) -> str:
    """The text whole if it is short; else neighbouring sentences, together at most MAX_BYTES, that have most of the
    words, with … where something was left out. One sentence that is longer is cut.
    """
    if len(text.encode()) <= MAX_BYTES:
        return text
    sentences = [each for each in _SENTENCE.findall(text) if each.strip()]
    wanted = [list_forms(word)[-1] for word in words]
    found = [{form for form in wanted if form in folded} for folded in map(fold_text, sentences)]
    first, last = _choose_window([len(each.encode()) for each in sentences], found)
    passage = "".join(sentences[first:last]).strip()
    cut = passage.encode()[:MAX_BYTES].decode(errors="ignore") if len(passage.encode()) > MAX_BYTES else passage
    ends = last == len(sentences) and cut == passage
    return ("… " if first else "") + cut + ("" if ends else " …")


def _choose_window(sizes: list[int], found: list[set[str]]) -> tuple[int, int]:
    """The run of sentences within MAX_BYTES with the most different words, of equal ones the first."""
    best, chosen = -1.0, (0, 1)
    for first in range(len(sizes)):
        last, size, words = first, 0, set[str]()
        while last < len(sizes) and (last == first or size + sizes[last] <= MAX_BYTES):
            size += sizes[last]
            words |= found[last]
            last += 1
        if len(words) > best:
            best, chosen = len(words), (first, last)
    return chosen
