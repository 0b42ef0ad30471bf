"""What a question asks for, as far as its words tell: which words to search, whom and when it is about.

Only words that say something are searched. The names of the two who talk are left out: in a turn a name is mostly that
of the one spoken to, so it would find what was said to someone; what someone said is known by its speaker instead.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from staffstream.support.words import is_english, split_words

_INSTRUCTION_CHARACTERS = 400
MAX_WORDS = 32  # of a long message, that many are searched for


def _list_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STOP_WORDS = _list_words("""
    a about after all also am an and any anything are as at be been before being but by can could did do does doing don
    for from get getting give go going got had has have having he her hers him his how i if in into is it its just ll
    many may me might mine much must my no not now of on or our ours out over please re s shall she should so some
    something t tell than that the their theirs them then there these they this those to too up us ve very was we were
    what when where which while who whom whose why will with would you your yours
""")
_MONTHS = {
    "january": 1, "february": 2, "march": 3, "april": 4, "may": 5, "june": 6,
    "july": 7, "august": 8, "september": 9, "october": 10, "november": 11, "december": 12,
}  # fmt: skip
_TIME_WORDS = _list_words("""
    yesterday today tonight tomorrow last next ago since recently week weeks month months year years day days night
    nights morning mornings weekend weekends monday tuesday wednesday thursday friday saturday sunday summer winter
    spring autumn fall
""").union(name for name in _MONTHS if name != "may")
_WHEN = re.compile(r"\b(?:when|how long|how often|(?:what|which) (?:date|day|week|month|year|time))\b", re.IGNORECASE)
_LATEST = re.compile(
    r"\b(?:latest|newest|recent|recently|lately|currently|nowadays|last time|these days|at the moment|right now)\b",
    re.IGNORECASE,
)
_ABOUT_USER = re.compile(
    r"\b(?:know|remember|recall|learn(?:ed|t)?|tell|remind|describe|summari[sz]e|everything|anything)\b.*\b(?:me|myself)\b"
    r"|\bwho (?:am i|i am)\b|\b(?:have|did) i (?:ever )?(?:told|tell) you\b",
    re.IGNORECASE | re.DOTALL,
)
_NO_TOPIC = _list_words("""
    describe far know learn learned learnt recall remember remind said summarise summarize summary told
    conversation conversations ever everything fact facts information memories memory person thing things
""")
_CODE = re.compile(r"(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{6,}(?![\w-])", re.ASCII)
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")


@dataclass(frozen=True, slots=True)
class Query:
    """`topic` is the question without codes and the names of those who talk, `words` its words that are worth a search,
    `codes` those of them that are parts of a code or an id: one that no memory has tells nothing. `people`
    are the ones it is about, as they are written in `Memory.speaker`; `months` are 1–12.
    """

    topic: str
    words: tuple[str, ...]
    codes: frozenset[str]
    people: frozenset[str]
    months: frozenset[int]
    years: frozenset[int]
    is_english: bool
    asks_when: bool
    asks_latest: bool
    asks_about_user: bool
    """For all that is known of the user, with no topic of its own: "What do you know about me?"."""


def read_query(text: str, *, user_names: Iterable[str], staff_name: str) -> Query:
    """What the question asks for. Without a name in it, it is about the user, who may have no name yet."""
    known = {name for name in (*user_names, staff_name) if name.strip()}
    named = frozenset(name for name in known if _write_name(name).search(text))
    topic = text
    for name in named:
        topic = _write_name(name).sub(" ", topic)
    codes = _CODE.findall(topic)
    words = tuple(list(dict.fromkeys(_find_words(topic)))[:MAX_WORDS])
    topic = _CODE.sub(" ", topic)
    return Query(
        topic=topic,
        words=words,
        codes=frozenset(word for code in codes for word in split_words(code)),
        people=named or frozenset((*user_names, "")),
        months=frozenset(_find_months(text)),
        years=frozenset(int(found) for found in _YEAR.findall(text)),
        is_english=is_english(split_words(topic)),
        asks_when=bool(_WHEN.search(text)),
        asks_latest=bool(_LATEST.search(text)),
        asks_about_user=_NO_TOPIC.issuperset(words) and bool(_ABOUT_USER.search(text)),
    )


_STANDING = re.compile(
    r"(?:^|[.!?:]\s+)(?:please,? )?(?:always|never|whenever|every time)\b|\bfrom now on\b"
    r"|\bi(?:'d| would)? (?:much |really )?prefer\b"
    r"|\b(?:immer|niemals?|ab jetzt|ich bevorzuge|toujours|jamais|désormais|je préfère|siempre|nunca|prefiero"
    r"|a partir de (?:ahora|agora)|sempre|d'ora in poi|preferisco|prefiro|altijd|nooit|voortaan|zawsze|nigdy|od teraz"
    r"|всегда|никогда|отныне|предпочитаю|her zaman|asla|bundan sonra|tercih ederim)\b"
    r"|いつも|必ず|今後|总是|總是|以后|以後|从不|请记住|항상|절대|앞으로|دائما|أبدا|من الآن|हमेशा|कभी नहीं|เสมอ",
    re.IGNORECASE,
)


def is_standing_instruction(text: str) -> bool:
    """Whether a text tells how things should always be done, or are preferred."""
    return _STANDING.search(text[:_INSTRUCTION_CHARACTERS]) is not None


def tells_time(text: str) -> bool:
    """Whether a text says when something was, which is what "when" asks for."""
    return not _TIME_WORDS.isdisjoint(re.findall(r"[a-z]+", text.lower()))


def is_question(text: str) -> bool:
    """Whether a text ends in a question mark, a caption in brackets after it aside: it asks rather than tells."""
    end = text[-300:]
    if "?" not in end and "？" not in end:  # most texts
        return False
    end = end.rstrip()
    if end.endswith("]"):
        end = end[: end.rfind("[")]
    return end.rstrip(" \n\t\"'”’)*_").endswith(("?", "？"))


def _find_months(text: str) -> set[int]:
    """Months by name, whatever their case, but for "may"."""
    words = re.findall(r"[A-Za-z]+", text)
    return {_MONTHS[word.lower()] for word in words if word.lower() in _MONTHS and word != "may"}


def _find_words(text: str) -> list[str]:
    return [word for word in split_words(text) if word not in _STOP_WORDS]


@lru_cache(maxsize=1024)
def _write_name(name: str) -> re.Pattern[str]:
    """The full name or its first word, possessives too."""
    forms = sorted({name.strip(), name.split()[0]}, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, forms))})(?:['’]s)?(?!\w)", re.IGNORECASE)
