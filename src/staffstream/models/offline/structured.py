"""Structured output by rules. The schema tells the purpose: facts with entities and relations are extracted,
a summary is digested, and any other schema gets its smallest instance. What is found is then fitted to the
schema, whatever it names and limits.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from staffstream.models.offline.facts import USER, Fact, find_facts
from staffstream.models.offline.prompts import (
    Known,
    Spoken,
    is_question,
    read_batch,
    read_known,
    read_summary,
    split_sentences,
)

Json = Mapping[str, Any]

SUMMARY_CHARS = 1_200
LONGEST_LINE = 240
MOST_FACTS = 40
"""In one answer, the most important first: more might not fit into the tokens that are asked for."""


def fill_schema(schema: Json, text: str) -> Any:
    """An instance of the schema, made from the text of the request."""
    properties = resolve_schema(schema, schema).get("properties", {})
    found: Any = None
    if {"facts", "entities", "relations"} <= set(properties):
        found = extract_batch(read_batch(text), read_known(text))
    elif "summary" in properties:
        found = {"summary": digest_batch(read_summary(text), read_batch(text))}
    return fit_value(found, schema, schema)


def extract_batch(batch: list[Spoken], known: list[Known]) -> dict[str, list[dict[str, Any]]]:
    """What the user's messages of a batch state, and which known fact each makes untrue. A statement made twice
    is given once, where it was made last.
    """
    facts = {fact.key: (fact, spoken) for spoken in batch if spoken.role == USER for fact in find_facts(spoken.text)}
    found = sorted(facts.values(), key=lambda pair: -pair[0].importance)[:MOST_FACTS]
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


def resolve_schema(schema: Json, root: Json) -> Json:
    """The schema that a reference leads to, or the schema itself; the first of alternatives."""
    while "$ref" in schema or schema.get("anyOf"):
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
        else:
            schema = next((each for each in schema["anyOf"] if each.get("type") != "null"), schema["anyOf"][0])
    return schema


def fit_value(value: Any, schema: Json, root: Json) -> Any:
    """The value as the schema wants it, or the schema's smallest instance where there is none."""
    schema = resolve_schema(schema, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return value if value in schema["enum"] else schema["enum"][0]
    for part in schema.get("allOf", ()):
        schema = {**schema, **resolve_schema(part, root)}
    return _FITTERS[schema.get("type", "null")](value, schema, root)


def _fit_object(value: Any, schema: Json, root: Json) -> dict[str, Any]:
    given = value if isinstance(value, Mapping) else {}
    wanted = [name for name in schema.get("properties", {}) if name in given or name in schema.get("required", ())]
    return {name: fit_value(given.get(name), schema["properties"][name], root) for name in wanted}


def _fit_array(value: Any, schema: Json, root: Json) -> list[Any]:
    items = value if isinstance(value, list) else [None] * schema.get("minItems", 0)
    return [fit_value(item, schema.get("items", {"type": "null"}), root) for item in items]


def _fit_integer(value: Any, schema: Json, root: Json) -> int:
    """Importance is a share of 1; as a whole number it is one of 10."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() else 0
    return round(value * 10) if isinstance(value, float) else int(value or 0)


def _fit_string(value: Any, schema: Json, root: Json) -> str:
    return _EXAMPLES.get(schema.get("format", ""), "") if value is None else str(value)


_FITTERS: dict[str, Callable[[Any, Json, Json], Any]] = {
    "object": _fit_object,
    "array": _fit_array,
    "string": _fit_string,
    "integer": _fit_integer,
    "number": lambda value, schema, root: float(value or 0),
    "boolean": lambda value, schema, root: bool(value),
    "null": lambda value, schema, root: None,
}
_EXAMPLES = {
    "date-time": "1970-01-01T00:00:00Z",
    "date": "1970-01-01",
    "time": "00:00:00Z",
    "duration": "PT0S",
    "email": "nobody@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


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
        "message": spoken.number,
    }


def _write_relation(fact: Fact, spoken: Spoken) -> dict[str, Any]:
    written = _write_fact(fact, spoken)
    return {key: written[key] for key in ("subject", "predicate", "object", "quote", "message")}


def _find_replaced(fact: Fact, known: list[Known]) -> str:
    """The number of the known fact of this single kind that says otherwise, "0" if there is none."""
    for each in known:
        same = (each.subject.casefold(), each.predicate) == (fact.subject.casefold(), fact.predicate)
        if fact.single and same and each.object.casefold() != fact.object.casefold():
            return each.number
    return "0"


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
    if is_question(said) or len(said.split()) < 3:
        return 0
    if find_facts(said):
        return 3
    return 2 if re.search(r"\d|(?<=\w )[A-ZÀ-Þ]", said) else 1
