"""The stand-in's replies. It quotes the sentences of its context that share most words with the question, each with its
source. To a statement it replies with the facts that it found; without evidence it says that it knows nothing.
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
"""The least share of the question's words, weighted by their rarity in the context, that a quoted sentence contains."""


def write_text(prompt: Mapping[str, Any]) -> str:
    """The whole reply to a valid request, before it is cut to `max_tokens`."""
    shape = (prompt.get("output_config") or {}).get("format")
    if shape:
        return json.dumps(fill_schema(shape["schema"], read_text(prompt)), ensure_ascii=False)
    chat = read_chat(prompt)
    reply = write_reply(chat, min(prompt["max_tokens"], LONGEST_REPLY))
    return f"{NOTICE} {reply}" if chat.is_first else reply


def write_reply(chat: Chat, max_words: int) -> str:
    """The reply to a chat request. A request for a long text gets up to `max_words` words."""
    if (found := _COUNT.search(chat.message)) is not None:
        return _count(int(found[1] or 1), int(found[2]), max_words)
    if (found := _LONG.search(chat.message)) is not None:
        return _write_long_text(min(int(found[1] or 600), max_words))
    greeting = _GREETING.match(chat.message)
    rest = chat.message[greeting.end() :] if greeting else chat.message
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


def _answer(chat: Chat, text: str) -> str:
    """A question gets quotes, or the reply that nothing is known; a statement gets a confirmation."""
    is_asking = any(asks(sentence) for sentence in split_sentences(text))
    if is_asking and not _list_terms(text):
        return _list_known(chat.evidence) if _REMEMBER.search(text) else _UNKNOWN
    quotes = _find_quotes(text, chat.evidence)
    facts = find_facts(text)
    if facts and not is_asking:
        noted = " ".join(dict.fromkeys(f"“{_shorten(fact.quote)}”" for fact in facts))
        return f"Thank you for telling me. I have noted: {noted}"
    if quotes:
        return " ".join(_quote(evidence) for evidence in quotes)
    nearest = next((each for each in chat.evidence if each.source == "memory"), None)
    if is_asking and nearest:
        return f"I am not sure. The nearest that I remember: {_quote(nearest)}"
    if _TASK.match(text):
        return _CANNOT_DO
    return _UNKNOWN if is_asking else _CONFIRMATION


_REMEMBER = re.compile(r"\b(?:know|remember|recall|told|learn(?:ed|t)|say|said)\b", re.IGNORECASE)
_TASK = re.compile(r"\W*(?:please\b|help\b|(?:can|could|will|would) you\b|write\b|explain\b)", re.IGNORECASE)
_CANNOT_DO = "That takes the real Claude, which this server has no key for. I can quote what you have told me."
_UNKNOWN = "I know nothing about that: it is not in anything you have told me."
_NOTHING_KNOWN = "Nothing comes to my mind. Ask me about one thing that you told me."
_CONFIRMATION = "I will remember that. Ask me about it whenever you like."


def _list_known(evidence: tuple[Evidence, ...]) -> str:
    """The reply to "What do you know?": quotes of facts first, then of the rest, each once, without greetings."""
    once = {each.text.casefold(): each for each in evidence if not _GREETING.fullmatch(each.text)}
    known = sorted(once.values(), key=lambda each: not find_facts(each.text))
    return " ".join(_quote(each) for each in known[:MAX_MEMORIES]) or _NOTHING_KNOWN


def _find_quotes(text: str, evidence: tuple[Evidence, ...]) -> list[Evidence]:
    """The sentences with the greatest share of the question's words. Each has at least 80 % of the best share."""
    terms = _list_terms(text)
    held = [_list_terms(each.text) for each in evidence]
    for each in held:
        if each & _RELATIVES:
            each.add("family")
    if terms == {"nam"}:  # whose name is not said, so it is the user's
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
    """The words of a text without stop words and endings; synonyms become one word."""
    text = _PHRASES.sub(lambda found: _PHRASE_MEANINGS[" ".join(found[0].lower().split())], text)
    words = (word.split("'")[0] for word in re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.casefold().replace("’", "'")))
    stems = {_ENDING.sub(r"\1", word) for word in words if word not in _STOP_WORDS}
    return {_SYNONYMS.get(stem, stem) for stem in stems}


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
_SYNONYMS = {
    synonym: words.split()[0]
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
    for synonym in words.split()
}


_PHRASE_MEANINGS = {
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
"""Phrases whose meaning their single words do not show."""
_PHRASES = re.compile("|".join(phrase.replace(" ", r"\s+") for phrase in _PHRASE_MEANINGS), re.IGNORECASE)
_RELATIVES = frozenset(
    {"sister", "brother", "mother", "father", "marri", "child", "aunt", "uncle", "cousin", "niec", "nephew"}
)


def _count(first: int, last: int, max_words: int) -> str:
    step = 1 if first <= last else -1
    return ", ".join(str(n) for n in range(first, last + step, step)[: max_words + 1]) + "."


def _write_long_text(words: int) -> str:
    """Numbered sentences, so that a user who joins the stream again sees whether one is missing."""
    sentences = (
        f"{n}. This is sentence {n} of a long reply made only to be watched." for n in range(1, words // 13 + 2)
    )
    return "\n".join(sentences)
