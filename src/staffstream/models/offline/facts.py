"""Learning by rules: what a few plain kinds of English sentence say about the one who writes them and about
the people they name. A model does this far better; these rules only have to be right when they speak, so a
sentence that asks, supposes or denies is passed over.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from staffstream.models.offline.prompts import is_question, split_sentences

USER = "user"
LONGEST_SENTENCE = 400


@dataclass(frozen=True)
class Fact:
    """One statement. `subject` is "user", a name, or "user's sister"; `phrase` says the rest in the third
    person; `quote` is the sentence as it was written; `object_type` is what kind of thing the object is, if
    one with a name. Of a `single` kind only one holds at a time: who moves no longer lives where they did.
    """

    subject: str
    predicate: str
    object: str
    phrase: str
    quote: str
    category: str = "profile"
    importance: float = 0.6
    object_type: str = ""
    single: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two statements the same; of a `single` kind, also what makes the later take the place."""
        return self.subject.casefold(), self.predicate, "" if self.single else self.object.casefold()


def find_facts(text: str) -> list[Fact]:
    """What a user's message states, each once, the latest last."""
    found: dict[tuple[str, str, str], Fact] = {}
    for sentence in split_sentences(text):
        if len(sentence) <= LONGEST_SENTENCE and not is_question(sentence) and not _SUPPOSES.search(sentence):
            for fact in _read_sentence(sentence):
                found.pop(fact.key, None)
                found[fact.key] = fact
    return list(found.values())


@dataclass(frozen=True)
class _Verb:
    """A kind of statement: the words that make it, and what they mean."""

    predicate: str
    pattern: str
    says: str
    category: str = "profile"
    importance: float = 0.6
    object_type: str = ""


_SUPPOSES = re.compile(
    r"\b(?:if|unless|whether|suppose|imagine|pretend|wish|would|could|might|maybe|perhaps|probably|used to)\b"
    r"|\b(?:said|says|told|asked|thinks?|thought|wants?|hopes?) ",
    re.IGNORECASE,
)
_NO_NAME = (
    "I|The|This|That|These|Those|It|He|She|We|They|You|My|Your|Our|His|Her|Their|There|Here|What|Who|Where|And|But|So"
    "|When|While|Then|Yes|No|Not|Today|Yesterday|Tomorrow|Everyone|Someone|Nobody|Also|Please|Oh|Well|Hi|Hello|Hey"
)
_NAME = rf"(?!(?:{_NO_NAME})\b)[A-ZÀ-ÖØ-ÞĀŁŚŠŽČΑ-ΩА-Я][\w-]*(?:['’](?!s\b)[\w-]+)?"
_NAMES = rf"{_NAME}(?: {_NAME}){{0,3}}"
_PETS = "dog|cat|horse|parrot|rabbit|hamster|pet"
_KIN = (
    r"(?i:(?:(?:older|elder|younger|little|big|best|twin) )?(?:sister|brother|mother|mum|mom|father|dad|wife"
    r"|husband|partner|girlfriend|boyfriend|fianc[ée]e?|son|daughter|friend|boss|manager|colleague|neighbou?r|aunt|uncle"
    rf"|cousin|niece|nephew|grand(?:mother|father|ma|pa)|room-?mate|flat-?mate|teacher|doctor|dentist|{_PETS}))"
)
_SUBJECT = (
    rf"(?:(?P<me>\b(?:I|[Ww]e))|\b[Mm]y (?P<kin>{_KIN})(?:,? (?P<kin_name>{_NAMES}),?)?"
    rf"|\b(?P<owner>{_NAMES})['’]s (?P<owner_kin>{_KIN})|\b(?P<name>{_NAMES})"
    r"|(?P<same>\b(?:and|but)\b(?: (?:she|he|they))?|, (?:she|he|they)))"
)
_ADVERBS = (
    r"(?: (?:also|really|still|now|just|currently|recently|always|usually|actually|absolutely|only|mostly"
    r"|already|finally|both|do))*"
)
_JOINT = r"(?:\s+|(?=['’]))"
_BE = r"(?:am|is|are|['’]m|['’]s|['’]re)"
_HAVE = r"(?:(?:have|has|['’]ve|['’]s) (?:just |recently |now )?)?"
_NUMBERS = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen"
_END = (
    r"(?=\s*(?:[,;:!?()\n]|\.(?:\s|$)|$)|\s+(?i:and|but|because|since|so|now|where|which|who|when|while"
    r"|although|though|with (?:my|his|her)|right now|these days|at the moment"
    rf"|for (?:an?|\d+|{_NUMBERS}|many|some|over)"
    r"|as an?|until|today|yesterday|(?:last|this|next) (?:week|month|year|summer|spring|autumn|winter))\b)"
)
_VALUE = rf"(?P<object>[^\s,;:.!?\n][^,;:!?\n]{{0,79}}?){_END}"
_VERBS = (
    _Verb(
        "lives_in",
        rf"(?:lives?|resides?|{_BE} (?:living|based)|{_HAVE}(?:moved|relocated)) (?:in|to|near)",
        *("lives in", "profile", 0.8, "place"),
    ),
    _Verb(
        "works_at",
        rf"(?:works?|{_BE} working|{_HAVE}started)(?: as an? [\w -]{{1,40}}?)? (?:at|for)",
        *("works at", "profile", 0.7, "organisation"),
    ),
    _Verb("works_as", rf"(?:works?|{_BE} working|{_BE} employed) as", "works as", importance=0.7),
    _Verb("comes_from", rf"(?:comes?|{_BE}|{_BE} originally) from", "comes from", object_type="place"),
    _Verb("grew_up_in", r"grew up (?:in|near)", "grew up in", object_type="place"),
    _Verb(
        "goes_to",
        rf"{_BE} (?:going|flying|travell?ing|driving|sailing) to",
        *("is going to", "plan", 0.6, "place"),
    ),
    _Verb("born_on", r"was born (?:on|in)(?=[^,;.!?]*\d)", "was born on", importance=0.8),
    _Verb("born_in", r"was born in(?![^,;.!?]*\d)", "was born in", object_type="place"),
    _Verb("age", rf"{_BE}(?= (?:\d{{1,3}}|{_NUMBERS})(?: years old)?{_END})", "is"),
    _Verb("allergic_to", rf"{_BE} allergic to", "is allergic to", importance=0.9),
    _Verb("speaks", r"speaks?", "speaks"),
    _Verb("studies", rf"(?:study|studies|{_BE} studying)", "studies"),
    _Verb("learns", rf"(?:{_BE} learning|learns?)", "is learning"),
    _Verb("teaches", r"teach(?:es)?", "teaches"),
    _Verb("plays", r"plays?", "plays", "preference", 0.4),
    _Verb("runs", r"runs?", "runs", "preference", 0.4),
    _Verb("drives", r"drives?", "drives", importance=0.5),
    _Verb("owns", r"owns?", "owns"),
    _Verb(
        "dislikes",
        r"(?:hates?|dislikes?|(?:can['’]?t|cannot) stand|do(?:es)?(?:n['’]t| not) (?:really )?like)",
        *("dislikes", "preference", 0.5),
    ),
    _Verb("prefers", r"prefers?", "prefers", "preference", 0.5),
    _Verb(
        "likes",
        rf"(?:likes?|loves?|enjoys?|adores?|{_BE} (?:an? (?:big |huge |great )?fan of|fond of|keen on|into))",
        *("likes", "preference", 0.5),
    ),
    _Verb("married_to", rf"{_BE} married to", "is married to", "relationship", 0.9, "person"),
    _Verb(
        "is_a",
        rf"{_BE}(?= an? (?!(?:bit|little|lot|few|(?:big |huge |great )?fan|person|man|woman) ))",
        *("is", "profile", 0.7),
    ),
    _Verb(
        "has",
        r"(?:have|has|['’]ve got|have got|has got)(?= (?:an?|two|three|four|five|\d+) "
        r"(?!(?:\w+ )?(?:question|problem|idea|feeling|look|point|doubt|minute|moment|lot|bit|meeting)s?\b)"
        r"(?!\w+ (?:called|named)\b))",
        "has",
    ),
)
_SINGLE = frozenset({"lives_in", "works_at", "works_as", "comes_from", "born_on", "born_in", "age", "married_to"})
_NAMED = (
    re.compile(rf"\b(?i:my (?:full |first )?name(?: is|['’]s)) (?P<object>{_NAMES}|[\w-]+)"),
    re.compile(rf"\b(?:[Cc]all me|I(?: am|['’]m) called|I go by) (?P<object>{_NAMES})"),
    re.compile(rf"^(?:(?:Hi|Hello|Hey)\b[, ]*(?:there[, ]+)?)?I(?: am|['’]m) (?P<object>{_NAMES})\W*$"),
)
_NATIONALITY = re.compile(
    r"(?:.*(?:ish|ese|ian|ean|can)|German|French|Dutch|Greek|Thai|Czech|Swiss|Muslim|Hindu|Sorry|OK)$"
)
_NAMED_KIN = rf"(?P<kin>{_KIN}),? (?:called|named) (?P<object>{_NAMES})"
_KIN_NAMED = (
    re.compile(rf"\b[Mm]y (?P<kin>{_KIN})(?:['’]s name)? is (?:called |named )?(?P<object>{_NAMES}){_END}"),
    re.compile(rf"\bI(?:['’]ve| have)(?: got)? an? {_NAMED_KIN}"),
    re.compile(rf"\b(?P<object>{_NAMES}) is [Mm]y (?P<kin>{_KIN})\b"),
    re.compile(rf"\b(?P<object>{_NAMES}) is (?P<owner>{_NAMES})['’]s (?P<kin>{_KIN})\b"),
)
_OF = re.compile(
    rf"(?:\b[Mm]y|\b[Oo]ur|\b[Tt]he(?= (?:[\w-]+ ){{0,2}}(?:passwords?|code|pin|keys?|address|combination)\b)"
    rf"|\b(?P<owner>{_NAMES})['’]s) (?P<key>[a-z][\w-]*(?: [a-z][\w-]*){{0,2}}?) (?:is|are)"
    rf" (?:on (?=the \d|\d))?{_VALUE}"
)
_NO_KEY = re.compile(rf"(?i:name|question|point|problem|guess|answer|opinion|idea|plan|bad|apologies|turn|{_KIN})$")
_NO_VALUE = re.compile(
    r"(?i:that|not|to|very|so|too|really|just|quite|almost|the (?:same|best|fact|only)|in|at|here|there)\b"
)
_BRITISH = {"favorite": "favourite", "color": "colour", "colors": "colours"}


def _read_sentence(sentence: str) -> Iterator[Fact]:
    yield from _find_name(sentence)
    yield from _find_kin(sentence)
    yield from _find_belongings(sentence)
    yield from _find_statements(sentence)


def _find_name(sentence: str) -> Iterator[Fact]:
    for pattern in _NAMED:
        if (found := pattern.search(sentence)) and not _NATIONALITY.match(found["object"]):
            name = found["object"]
            yield Fact(USER, "name", name, f"is called {name}", sentence, importance=0.9, single=True)
            return


def _find_kin(sentence: str) -> Iterator[Fact]:
    for pattern in _KIN_NAMED:
        for found in pattern.finditer(sentence):
            if not _NATIONALITY.match(found["object"]):
                yield _make_kin(found.groupdict().get("owner") or USER, found["kin"], found["object"], sentence)


def _make_kin(owner: str, kin: str, name: str, sentence: str) -> Fact:
    kind = "animal" if kin.lower() in _PETS.split("|") else "person"
    phrase = f"has a {kin.lower()} called {name}"
    return Fact(owner, f"has_{_slug(kin)}", name, phrase, sentence, "relationship", 0.8, kind)


def _find_belongings(sentence: str) -> Iterator[Fact]:
    """ "My favourite colour is green", "Kari's birthday is 3 May"."""
    for found in _OF.finditer(sentence):
        key = " ".join(_BRITISH.get(word, word) for word in found["key"].lower().split())
        if _NO_KEY.match(key) or _NO_VALUE.match(found["object"]):
            continue
        value = found["object"].strip(' ."“”')
        category = "preference" if key.startswith("favourite") else "profile"
        phrase = f"'s {key} is {value}"
        yield Fact(found["owner"] or USER, _slug(key), value, phrase, sentence, category, 0.7, single=True)


@functools.cache
def _compile_verbs() -> list[tuple[_Verb, re.Pattern[str]]]:
    """Compiled at the first use: it takes 100 ms, which a server with a key never has to spend."""
    return [(verb, re.compile(rf"{_SUBJECT}{_ADVERBS}{_JOINT}(?i:{verb.pattern})\s*{_VALUE}")) for verb in _VERBS]


def _find_statements(sentence: str) -> Iterator[Fact]:
    matches = [(found.start(), verb, found) for verb, each in _compile_verbs() for found in each.finditer(sentence)]
    kin = [fact.object for fact in _find_kin(sentence)]
    subject = kin[0] if len(kin) == 1 else ""
    for _, verb, found in sorted(matches, key=lambda match: match[0]):
        if found["kin_name"]:
            yield _make_kin(USER, found["kin"], found["kin_name"], sentence)
        if subject == USER and (found["same"] or "").endswith(("he", "they")):
            continue  # "I love Kari, but she …": that is not the user any more
        subject = _name_subject(found) or subject
        value = _trim_value(found["object"], verb)
        if subject and value:
            thing = re.sub(r"^(?:an?|the) ", "", value)
            says = f"{verb.says} {value}"
            yield Fact(
                *(subject, verb.predicate, thing, says, sentence),
                *(verb.category, verb.importance, verb.object_type),
                single=verb.predicate in _SINGLE,
            )


def _trim_value(value: str, verb: _Verb) -> str:
    """A job ends where its place begins; one goes to a place that has a name, or is only going to do something."""
    if verb.predicate == "goes_to" and not value[:1].isupper():
        return ""
    if verb.predicate == "works_as":
        value = re.split(r" (?:at|for|in|with) ", value)[0]
    return value.strip(' ."“”')


def _name_subject(found: re.Match[str]) -> str:
    """Who a statement is about; empty if it goes on about the one before."""
    if found["me"]:
        return USER
    if found["owner_kin"]:
        return f"{found['owner']}'s {found['owner_kin'].lower()}"
    if found["kin"]:
        return found["kin_name"] or f"{USER}'s {found['kin'].lower()}"
    return found["name"] or ""


def _slug(words: str) -> str:
    return re.sub(r"\W+", "_", words.lower()).strip("_")
