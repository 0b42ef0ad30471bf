"""Extraction by rules: a few simple kinds of English sentences about the user and about people whom the user names. A
model does this far better. The rules only have to be right when they match, so questions, suppositions and negations
are skipped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from staffstream.models.offline.prompts import asks, split_sentences

USER = "user"
LONGEST_SENTENCE = 400


@dataclass(frozen=True)
class Fact:
    """One statement. `subject` is "user", a name, or "user's sister". `phrase` is the rest in the third person. `quote`
    is the sentence as written. `object_type` is the type of a named object, or empty. `single`: only one such fact is
    true at a time, such as where somebody lives.
    """

    subject: str
    predicate: str
    object: str
    phrase: str
    quote: str
    category: str = "profile"
    importance: float = 0.7
    object_type: str = ""
    single: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """Equal for two statements of the same fact. For a `single` fact it leaves the object out, so that a later
        value replaces the earlier one.
        """
        return self.subject.casefold(), self.predicate, "" if self.single else self.object.casefold()


def find_facts(text: str) -> list[Fact]:
    """The facts in a user's message, each once, the latest last."""
    found: dict[tuple[str, str, str], Fact] = {}
    for sentence in split_sentences(text):
        if len(sentence) <= LONGEST_SENTENCE and not asks(sentence) and not _NOT_STATED.search(sentence):
            for fact in (
                *_find_name(sentence),
                *_find_kin(sentence),
                *_find_favourites(sentence),
                *_find_verbs(sentence),
            ):
                found.pop(fact.key, None)
                found[fact.key] = fact
    return list(found.values())


_NOT_STATED = re.compile(
    r"\b(?:if|unless|whether|suppose|imagine|wish|would|could|might|maybe|perhaps|used to|not|never|no longer"
    r"|said|says|told|thinks?|wants?)\b|n['’]t\b",
    re.IGNORECASE,
)
_NAME = r"(?!(?:I|The|This|That|It|He|She|We|They|You|My|Your|And|But|So|When|Then|Also)\b)[A-ZÀ-ÖØ-Þ][\w’'-]*"
_NAMES = rf"{_NAME}(?: {_NAME}){{0,2}}"
_PETS = ("dog", "cat")
_KIN = r"(?i:sister|brother|mother|father|wife|husband|partner|son|daughter|cousin|friend|boss|dog|cat)"
_SUBJECT = (
    rf"(?:(?P<me>\b(?:I|[Ww]e))|\b[Mm]y (?P<kin>{_KIN})(?: (?P<kin_name>{_NAMES}))?|\b(?P<name>{_NAMES})"
    r"|(?P<same>\band(?: (?:she|he))?))"
)
_BE = r"(?:am|is|are|['’]m|['’]s|['’]re)"
_VALUE = (
    r"(?P<object>[^\s,;:.!?\n][^,;:!?\n]{0,79}?)(?=\s*(?:[,;:!?()\n]|\.(?:\s|$)|$)"
    r"|\s+(?i:and|but|because|since|so|now|where|which|who|when|for|as|until|today|last|this|next)\b)"
)


@dataclass(frozen=True)
class _Verb:
    """One kind of statement: the pattern of its verb, and what it means."""

    predicate: str
    pattern: str
    phrase: str
    category: str = "profile"
    object_type: str = ""
    single: bool = False

    def find(self, sentence: str) -> Iterator[re.Match[str]]:
        return re.finditer(
            rf"{_SUBJECT}(?: (?:also|really|still|now|just|currently))*(?:\s+|(?=['’]))(?i:{self.pattern})\s+{_VALUE}",
            sentence,
        )


_VERBS = (
    _Verb("lives_in", rf"(?:lives?|{_BE} living|moved) (?:in|to)", "lives in", "profile", "place", single=True),
    _Verb("works_at", rf"(?:works?|{_BE} working) (?:at|for)", "works at", "profile", "organisation", single=True),
    _Verb("works_as", rf"(?:works?|{_BE} working) as", "works as", single=True),
    _Verb("likes", r"(?:likes?|loves?|enjoys?)", "likes", "preference"),
    _Verb("learns", rf"(?:learns?|{_BE} learning)", "is learning"),
    _Verb("plays", r"plays?", "plays", "preference"),
    _Verb("allergic_to", rf"{_BE} allergic to", "is allergic to"),
)


def _find_name(sentence: str) -> Iterator[Fact]:
    if found := re.search(rf"\b(?i:my name(?: is|['’]s)|call me) (?P<object>{_NAMES})", sentence):
        name = found["object"]
        yield Fact(USER, "name", name, f"is called {name}", sentence, importance=0.9, single=True)


def _find_kin(sentence: str) -> Iterator[Fact]:
    """ "My sister Anna …", "my dog is called Rex", "I have a cat named Tom"."""
    pattern = rf"\b(?:[Mm]y|[Aa]) (?P<kin>{_KIN})(?:['’]s name)?(?: is)?(?: called| named)? (?P<object>{_NAMES})"
    for found in re.finditer(pattern, sentence):
        kin, name = found["kin"].lower(), found["object"]
        kind = "animal" if kin in _PETS else "person"
        phrase = f"has a {kin} called {name}"
        yield Fact(USER, f"has_{kin}", name, phrase, sentence, "relationship", 0.8, kind)


def _find_favourites(sentence: str) -> Iterator[Fact]:
    for found in re.finditer(rf"\b[Mm]y (?P<key>favou?rite [a-z]+) is {_VALUE}", sentence):
        key = found["key"].replace("favorite", "favourite").replace("color", "colour")
        phrase = f"'s {key} is {found['object']}"
        yield Fact(USER, key.replace(" ", "_"), found["object"], phrase, sentence, "preference", single=True)


def _find_verbs(sentence: str) -> Iterator[Fact]:
    matches = [(found.start(), verb, found) for verb in _VERBS for found in verb.find(sentence)]
    subject = ""
    for _, verb, found in sorted(matches, key=lambda match: match[0]):
        subject = _name_subject(found) or subject
        if subject:
            value = found["object"].strip(' ."“”')
            thing = re.sub(r"^(?:an?|the) ", "", value)
            yield Fact(
                *(subject, verb.predicate, thing, f"{verb.phrase} {value}", sentence, verb.category),
                object_type=verb.object_type,
                single=verb.single,
            )


def _name_subject(found: re.Match[str]) -> str:
    """The subject of a statement; empty if it is the subject of the statement before."""
    if found["me"]:
        return USER
    if found["kin"]:
        return found["kin_name"] or f"{USER}'s {found['kin'].lower()}"
    return found["name"] or ""
