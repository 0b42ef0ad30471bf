"""Structured output by rules. The schema decides what is made: facts with entities and relations, or a summary."""

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
"""Facts in one answer, the most important first: more may not fit into `max_tokens`."""


def fill_schema(schema: Json, text: str) -> dict[str, Any]:
    """The answer to a background request: an object that fits its schema, made from its text."""
    if "facts" in schema["properties"]:
        return extract_batch(read_batch(text), read_known(text))
    return {"summary": digest_batch(read_summary(text), read_batch(text))}


def extract_batch(batch: list[Spoken], known: list[Known]) -> dict[str, list[dict[str, Any]]]:
    """The facts in the user's messages of a batch, and the known fact that each one replaces. A repeated statement
    appears once, with its last message.
    """
    facts = {fact.key: (fact, spoken) for spoken in batch if spoken.role == USER for fact in find_facts(spoken.text)}
    found = sorted(facts.values(), key=lambda pair: -pair[0].importance)[:MAX_FACTS]
    return {
        "facts": [_write_fact(fact, spoken) | {"replaces": _find_replaced(fact, known)} for fact, spoken in found],
        "entities": _list_entities(found),
        "relations": [_write_relation(fact, spoken) for fact, spoken in found if _names_thing(fact)],
    }


def digest_batch(earlier: str, batch: list[Spoken]) -> str:
    """The most important lines of the earlier summary and of the user's messages since then, in order.

    At most `SUMMARY_CHARS` characters, so that repeated summaries do not grow.
    """
    lines = list(dict.fromkeys([*_split_lines(earlier), *_list_lines(batch)]))
    weights = [_weigh_line(line) for line in lines]
    by_weight = sorted((n for n in range(len(lines)) if weights[n]), key=lambda n: (-weights[n], -n))
    chosen: list[int] = []
    left = SUMMARY_CHARS
    for n in by_weight:
        if len(lines[n]) + 1 <= left:
            chosen.append(n)
            left -= len(lines[n]) + 1
    return "\n".join(lines[n] for n in sorted(chosen)) or "Nothing of note was said."


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
    """The number of the known fact that this fact replaces, 0 if there is none: another value of a `single` fact, or
    the opposite preference.
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
    """Whether the object is an entity with a name: a person, a place, an organisation."""
    return bool(fact.object_type) and any(word[:1].isupper() for word in fact.object.split())


def _list_entities(found: list[tuple[Fact, Spoken]]) -> list[dict[str, Any]]:
    """All entities that a relation or a fact names."""
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
    """The user's sentences, each with the user's name and the date."""
    for spoken in batch:
        if spoken.role == USER:
            day = f" ({spoken.day[:10]})" if spoken.day else ""
            for sentence in split_sentences(spoken.text):
                yield f"- {spoken.name or 'User'}{day}: {sentence[:LONGEST_LINE]}"


def _weigh_line(line: str) -> int:
    """3 for a fact, 2 for a line with a name or a number, 0 for a question or a very short line, else 1."""
    sentence = line.partition(": ")[2] or line
    if asks(sentence) or len(sentence.split()) < 3:
        return 0
    if find_facts(sentence):
        return 3
    return 2 if re.search(r"\d|(?<=\w )[A-ZÀ-Þ]", sentence) else 1
