"""What the stand-in says. It quotes: the sentences of its context that share most words with the question,
each with where it has them from. It repeats what it is told, and says so when it knows nothing.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from staffstream.models.offline.facts import find_facts
from staffstream.models.offline.prompts import Chat, Evidence, asks, read_chat, read_text, split_sentences
from staffstream.models.offline.structured import fill_schema

NOTICE = "(This is the offline stand-in, not Claude: it can only repeat what it was told.)"
MAX_QUOTES = 3
MAX_MEMORIES = 10
LONGEST_QUOTE = 300
LONGEST_REPLY = 100_000
MIN_SHARE = 0.3
"""Of the question's words, weighted by how rare they are in the context, that a sentence must have to be
quoted.
"""


def write_text(prompt: Mapping[str, Any]) -> str:
    """The whole reply to a request that `refuse` let through, before any limit on its length."""
    shape = (prompt.get("output_config") or {}).get("format")
    if shape:
        return json.dumps(fill_schema(shape["schema"], read_text(prompt)), ensure_ascii=False)
    chat = read_chat(prompt)
    said = write_reply(chat, min(prompt["max_tokens"], LONGEST_REPLY))
    return f"{NOTICE} {said}" if chat.is_first else said


def write_reply(chat: Chat, max_words: int) -> str:
    """What to say to the user; asked for something long, up to `max_words`."""
    if (found := _COUNT.search(chat.said)) is not None:
        return _count(int(found[1] or 1), int(found[2]), max_words)
    if (found := _LONG.search(chat.said)) is not None:
        return _ramble(min(int(found[1] or 600), max_words))
    greeting = _GREETING.match(chat.said)
    rest = chat.said[greeting.end() :] if greeting else chat.said
    hello = _introduce(chat) if greeting else ""
    if greeting and not _list_terms(rest):
        return f"{hello} Tell me something, and ask me about it later."
    return f"{hello} {_answer(chat, rest)}".strip()


_GREETING = re.compile(
    r"\W*(?:hi|hello|hey|good (?:morning|afternoon|evening|day)|greetings|who are you"
    r"|what(?: is|'s|’s) your name)\b(?: there)?[\W_]*",
    re.IGNORECASE,
)
_COUNT = re.compile(r"\bcount (?:up |down )?(?:from (\d{1,9}) )?(?:up |down )?to (\d{1,9})\b", re.IGNORECASE)
_LONG = re.compile(
    r"\b(?:write|tell|give|compose|make|say)\b(?=.*\b(?:long|story|essay|poem|article|novel|words)\b)"
    r"(?:.*?\b(\d{1,6}) words\b)?",
    re.IGNORECASE | re.DOTALL,
)


def _introduce(chat: Chat) -> str:
    return f"Hello! I am {chat.staff_name}." if chat.staff_name else "Hello!"


def _answer(chat: Chat, said: str) -> str:
    """To a question, quotes or an honest no; to a statement, that it was heard."""
    is_asking = any(asks(sentence) for sentence in split_sentences(said))
    if is_asking and not _list_terms(said):
        return _recite(chat.evidence) if _REMEMBER.search(said) else _IGNORANCE
    quotes = _find_quotes(said, chat.evidence)
    facts = find_facts(said)
    if facts and not is_asking:
        told = " ".join(dict.fromkeys(f"“{_shorten(fact.quote)}”" for fact in facts))
        return f"Thank you for telling me. I have noted: {told}"
    if quotes:
        return " ".join(_quote(evidence) for evidence in quotes)
    nearest = next((each for each in chat.evidence if each.source == "memory"), None)
    if is_asking and nearest:
        return f"I am not sure. The nearest that I remember: {_quote(nearest)}"
    if _ERRAND.match(said):
        return _INABILITY
    return _IGNORANCE if is_asking else _HEARD


_REMEMBER = re.compile(r"\b(?:know|remember|recall|told|learn(?:ed|t)|say|said)\b", re.IGNORECASE)
_ERRAND = re.compile(r"\W*(?:please\b|help\b|(?:can|could|will|would) you\b|write\b|explain\b)", re.IGNORECASE)
_INABILITY = "That takes the real Claude, which this server has no key for. I can quote what you have told me."
_IGNORANCE = "I know nothing about that: it is not in anything you have told me."
_BLANK = "Nothing comes to my mind. Ask me about one thing that you told me."
_HEARD = "I will remember that. Ask me about it whenever you like."


def _recite(evidence: tuple[Evidence, ...]) -> str:
    """Asked what it knows: what states something before the rest, each once, without greetings."""
    once = {each.text.casefold(): each for each in evidence if not _GREETING.fullmatch(each.text)}
    known = sorted(once.values(), key=lambda each: not find_facts(each.text))
    return " ".join(_quote(each) for each in known[:MAX_MEMORIES]) or _BLANK


def _find_quotes(said: str, evidence: tuple[Evidence, ...]) -> list[Evidence]:
    """The sentences with the greatest share of the question's words, all of nearly the best one's share."""
    terms = _list_terms(said)
    held = [_list_terms(each.text) for each in evidence]
    for each in held:
        if each & _KIN:
            each.add("family")
    if terms == {"nam"}:  # whose, if nobody is named: the user's own
        own = [any(fact.predicate == "name" for fact in find_facts(each.text)) for each in evidence]
        held = [each if mine else set() for each, mine in zip(held, own, strict=True)] if any(own) else held
    spread = Counter(term for each in held for term in each & terms)
    weights = {term: 1 / math.sqrt(1 + spread[term]) for term in terms}
    total = sum(weights.values()) or 1.0
    shares = [sum(weights[term] for term in each & terms) / total for each in held]
    order = sorted(range(len(evidence)), key=lambda n: (-shares[n], len(held[n]), n))
    floor = max(MIN_SHARE, max(shares, default=0) * 0.8)
    best = {evidence[n].text.casefold(): evidence[n] for n in reversed(order) if shares[n] >= floor}
    return list(reversed(best.values()))[:MAX_QUOTES]


def _quote(evidence: Evidence) -> str:
    day = f" on {evidence.day}" if evidence.day else ""
    match evidence.source:
        case "relation":
            return f"I also know: {_shorten(evidence.text).rstrip('.')}."
        case "summary":
            return f"From earlier in our talk: “{_shorten(evidence.text)}”"
        case "turn":
            return f"Earlier you said: “{_shorten(evidence.text)}”"
        case "memory":
            return f"You told me{day}: “{_shorten(evidence.text)}”"


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 1].rstrip() + "…"


def _list_terms(text: str) -> set[str]:
    """The words of a text that mean something, without their endings, like words as one."""
    text = _PHRASES.sub(lambda found: _PLAINLY[" ".join(found[0].lower().split())], text)
    words = (word.split("'")[0] for word in re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.casefold().replace("’", "'")))
    stems = {_ENDING.sub(r"\1", word) for word in words if word not in _STOP_WORDS}
    return {_ALIKE.get(stem, stem) for stem in stems}


_ENDING = re.compile(r"^(.{3,}?)(?:ing|ed|es|s|e)$")
_STOP_WORDS = frozenset(
    """
    a about again all also always am an and any are as ask at be been but by can could did do does don
    ever for from give had has have he her here his how i if in into is it its just know last let me
    mean my no not now of off on or our out please re recall remember said say she should so some still
    tell than that the their them then there they this to today told too up us use very was we were what
    when where which who whom whose why will with would yes you your
    """.split()  # noqa: SIM905 - a list of so many words reads better without quotes
)
_ALIKE = {
    alike: words.split()[0]
    for words in (
        "liv mov resid hom addres hous city town",
        "work job employer profession occupation company career",
        "lik lov enjoy favourit favorit prefer best hobby hobbi",
        "dislik hat loath",
        "nam call",
        "birthday born birth age",
        "marri wif husband spous partner",
        "colour color",
        "mother mum mom",
        "father dad",
        "child kid daughter son children",
        "pet dog cat horse rabbit hamster puppy kitten",
        "film movi cinema",
        "car driv vehicl",
        "holiday vacation trip fly travel journey",
        "bos manager",
        "sport run exercis jog swim gym train",
        "allergic allergy allergi avoid",
        "smok cigarett",
        "study studi learn cours",
    )
    for alike in words.split()
}


_PLAINLY = {
    "for a living": "job",
    "who am i": "name",
    "how old": "age",
    "years old": "age",
    "year old": "age",
    "can't stand": "hate",
    "cannot stand": "hate",
    "grow up": "grew",
    "grown up": "grew",
}
"""Phrases whose words say something else than the phrase."""
_PHRASES = re.compile("|".join(phrase.replace(" ", r"\s+") for phrase in _PLAINLY), re.IGNORECASE)
_KIN = frozenset(
    {"sister", "brother", "mother", "father", "marri", "child", "aunt", "uncle", "cousin", "niec", "nephew"}
)


def _count(first: int, last: int, most: int) -> str:
    step = 1 if first <= last else -1
    return ", ".join(str(n) for n in range(first, last + step, step)[: most + 1]) + "."


def _ramble(words: int) -> str:
    """Numbered sentences, so that a reader who stops, leaves and comes back sees whether any is missing."""
    sentences = (
        f"{n}. This is sentence {n} of a long reply made only to be watched." for n in range(1, words // 13 + 2)
    )
    return "\n".join(sentences)
