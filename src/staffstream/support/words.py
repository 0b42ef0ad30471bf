"""The words of a text in any script, as they are indexed and searched.

A text is folded first: NFKC, lower case, without accents and optional vowel signs. Scripts without spaces between words
give bigrams. Other words are stemmed: English words by Snowball, words of other languages by a cut after the fifth
letter. The cut finds inflected forms in most languages and needs no tables.
"""

import re
import unicodedata
from functools import lru_cache

import Stemmer

MAX_TERMS = 4000  # of one text
_LONGEST_TERM = 64  # characters; a longer word is data, and its beginning is enough to find it
_STEM_LETTERS = 5
_SHORT_TEXT = 4  # words: too few to detect a language

# of scripts in which they belong to the word
_MARKS = "\u0900-\u0963\u0966-\u0dff\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
_RUN = re.compile(rf"(?:[^\W_]|[{_MARKS}])+")
_CASE_CHANGE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_DROPPED = dict.fromkeys(
    [
        *range(0x0300, 0x0370),  # Latin, Greek and Cyrillic accents, after decomposition
        *range(0x0591, 0x05C8),  # Hebrew points
        *range(0x0610, 0x061B), 0x0640, *range(0x064B, 0x0660), 0x0670,  # Arabic vowel signs and tatweel
    ]
)  # fmt: skip
_ALIKE = str.maketrans("أإآٱىةؤئ", "ااااىهوي".replace("ى", "ي"))
_ENGLISH_WORDS = """
    a about am an and are as at be but by can could did do does for from had has have he her his how i if in is it its
    just like me my not of on or our she so some that the their them there they this to was we were what when where
    which who why will with would you your
"""
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
_ARABIC_ARTICLE = re.compile("[وفبك]?ال(?=...)|لل(?=...)")
_stemmer = Stemmer.Stemmer("english")


def fold_text(text: str) -> str:
    """The text in lower case, without accents and optional signs, so that all spellings of a word are equal."""
    if text.isascii():
        return text.casefold()
    decomposed = unicodedata.normalize("NFKD", text).casefold().translate(_DROPPED).translate(_ALIKE)
    return unicodedata.normalize("NFKC", decomposed)


def split_words(text: str) -> list[str]:
    """The folded words in order. A script without spaces gives bigrams, and a camel-case name its parts."""
    words: list[str] = []
    for run in _RUN.findall(_split_camel_case(text)):
        folded = fold_text(run)
        if folded.isascii():
            words.append(folded)
            continue
        for part in re.findall(rf"{_UNSPACED.pattern}|[^\W_]+(?:[{_MARKS}]+[^\W_]*)*", folded) or [folded]:
            words += _split_bigrams(part) if _UNSPACED.match(part) else [part]
    return [word[:_LONGEST_TERM] for word in words[:MAX_TERMS]]


def list_terms(text: str) -> list[str]:
    """The terms by which a text is indexed: its words, stemmed, in order."""
    words = split_words(text)
    english = is_english(words)
    return [_cut_english(word) if english else _cut_ending(word) for word in words]


def list_forms(word: str) -> tuple[str, ...]:
    """The terms by which a word may be indexed, in whatever language the text is."""
    return tuple(dict.fromkeys((_cut_english(word), _cut_ending(word))))


def is_english(words: list[str]) -> bool:
    """Whether folded words look like an English text. Very few words count as English if they are ASCII."""
    if len(words) < _SHORT_TEXT:
        return all(map(str.isascii, words))
    sample = words[:200]
    return sum(word in _ENGLISH for word in sample) * 8 >= len(sample)


def _split_camel_case(text: str) -> str:
    """The text with a space between the parts of each camel-case name; an underscore separates words anyway."""
    return _CASE_CHANGE.sub(" ", text)


def _split_bigrams(run: str) -> list[str]:
    letters = _join_marks(run)
    return ["".join(letters[i : i + 2]) for i in range(max(1, len(letters) - 1))]


def _join_marks(run: str) -> list[str]:
    """The letters, each joined with its combining marks."""
    letters: list[str] = []
    for character in run:
        if letters and unicodedata.category(character)[0] == "M":
            letters[-1] += character
        else:
            letters.append(character)
    return letters


@lru_cache(maxsize=8192)
def _cut_english(word: str) -> str:
    return _stemmer.stemWord(word) if word.isascii() and word.isalpha() else _cut_ending(word)


def _cut_ending(word: str) -> str:
    if match := _ARABIC_ARTICLE.match(word):
        word = word[match.end() :]
    if len(word) <= _STEM_LETTERS or any(map(str.isdigit, word)) or _UNSPACED.match(word):
        return word
    return word[:_STEM_LETTERS]
