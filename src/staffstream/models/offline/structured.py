"""Structured output by rules. The schema tells the purpose: facts with entities and relations are extracted, or a
summary is written.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from staffstream.models.offline.facts import USER, Fact, find_facts
from staffstream.models.offline.prompts import (
    Known,
    Spoken,
    asks,
    read_batch,
    read_known,
    read_summary,
    split_sentences,
)

Json = Mapping[str, Any]

SUMMARY_CHARS = 1_200
LONGEST_LINE = 240
MAX_FACTS = 40
"""In one answer, the most important first: more might not fit into the tokens that are asked for."""


def fill_schema(schema: Json, text: str) -> dict[str, Any]:
    """The answer to a background request: what its schema asks for, made from its text."""
    if "facts" in schema["properties"]:
        return extract_batch(read_batch(text), read_known(text))
    return {"summary": digest_batch(read_summary(text), read_batch(text))}


def extract_batch(batch: list[Spoken], known: list[Known]) -> dict[str, list[dict[str, Any]]]:
    """What the user's messages of a batch state, and which known fact each makes untrue. A statement made twice
    is given once, where it was made last.
    """
    facts = {fact.key: (fact, spoken) for spoken in batch if spoken.role == USER for fact in find_facts(spoken.text)}
    found = sorted(facts.values(), key=lambda pair: -pair[0].importance)[:MAX_FACTS]
    return {
        "facts": [_write_fact(fact, spoken) | {"replaces": _find_replaced(fact, known)} for fact, spoken in found],
        "entities": _list_entities(found),
        "relations": [_write_relation(fact, spoken) for fact, spoken in found if _names_thing(fact)],
    }


def digest_batch(earlier: str, batch: list[Spoken]) -> str:
    """The weightiest sentences of the earlier summary and of what the user said since, in order, one a line.

    At most `SUMMARY_CHARS`, so that a summary of summaries stays one.
    """
    lines = list(dict.fromkeys([*_split_lines(earlier), *_list_lines(batch)]))
    weights = [_weigh_line(line) for line in lines]
    by_weight = sorted((n for n in range(len(lines)) if weights[n]), key=lambda n: (-weights[n], -n))
    kept: list[int] = []
    room = SUMMARY_CHARS
    for n in by_weight:
        if len(lines[n]) + 1 <= room:
            kept.append(n)
            room -= len(lines[n]) + 1
    return "\n".join(lines[n] for n in sorted(kept)) or "Nothing of note was said."


def _write_fact(fact: Fact, spoken: Spoken) -> dict[str, Any]:
    subject = re.sub(rf"^{USER}\b", lambda _: spoken.name or "The user", fact.subject)
    joint = "" if fact.phrase.startswith("'s") else " "
    return {
        "subject": fact.subject,
        "predicate": fact.predicate,
        "object": fact.object,
        "text": f"{subject}{joint}{fact.phrase}.",
        "kind": fact.category,
        "importance": fact.importance,
        "quote": fact.quote,
        "message": int(spoken.number),
    }


def _write_relation(fact: Fact, spoken: Spoken) -> dict[str, Any]:
    written = _write_fact(fact, spoken)
    return {key: written[key] for key in ("subject", "predicate", "object", "quote", "message")}


def _find_replaced(fact: Fact, known: list[Known]) -> int:
    """The number of the known fact that a fact makes untrue, 0 if there is none: another value of a single kind, or the
    opposite taste.
    """
    for each in known:
        if each.subject.casefold() != fact.subject.casefold():
            continue
        same_object = each.object.casefold() == fact.object.casefold()
        if same_object and _OPPOSITES.get(fact.predicate) == each.predicate:
            return int(each.number)
        if fact.single and each.predicate == fact.predicate and not same_object:
            return int(each.number)
    return 0


_OPPOSITES = {"dislikes": "likes", "likes": "dislikes"}


def _names_thing(fact: Fact) -> bool:
    """Whether the object is something that can be met again: a person, a place, an organisation."""
    return bool(fact.object_type) and any(word[:1].isupper() for word in fact.object.split())


def _list_entities(found: list[tuple[Fact, Spoken]]) -> list[dict[str, Any]]:
    """Everything that is at an end of a relation, or has a statement made about it."""
    entities: dict[str, dict[str, Any]] = {}

    def add(name: str, kind: str, aliases: tuple[str, ...] = ()) -> None:
        entities.setdefault(name, {"name": name, "type": kind, "aliases": list(aliases)})

    for fact, spoken in found:
        if _names_thing(fact):
            add(fact.object, fact.object_type)
        if fact.subject != USER:
            add(fact.subject, "person")
        elif _names_thing(fact):
            add(USER, "person", (spoken.name,) if spoken.name else ())
    return list(entities.values())


def _split_lines(summary: str) -> Iterator[str]:
    for line in summary.splitlines():
        if line.strip():
            yield line.strip()[:LONGEST_LINE]


def _list_lines(batch: list[Spoken]) -> Iterator[str]:
    """What the user said, each sentence with who and when."""
    for spoken in batch:
        if spoken.role == USER:
            day = f" ({spoken.day[:10]})" if spoken.day else ""
            for sentence in split_sentences(spoken.text):
                yield f"- {spoken.name or 'User'}{day}: {sentence[:LONGEST_LINE]}"


def _weigh_line(line: str) -> int:
    """Statements first, then what names something, then the rest; nothing for questions and very short lines."""
    said = line.partition(": ")[2] or line
    if asks(said) or len(said.split()) < 3:
        return 0
    if find_facts(said):
        return 3
    return 2 if re.search(r"\d|(?<=\w )[A-ZÀ-Þ]", said) else 1
