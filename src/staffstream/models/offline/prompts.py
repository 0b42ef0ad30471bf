"""Reads a prompt as Claude would get it: the name of the staff member, the user's new message, and the evidence to
answer from.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import unescape
from typing import Any, Literal

Json = Mapping[str, Any]
Source = Literal["memory", "relation", "summary", "turn"]


@dataclass(frozen=True)
class Evidence:
    """One sentence to answer from. `day` is its date, as "1 March 2026", or empty."""

    text: str
    source: Source
    day: str = ""


@dataclass(frozen=True)
class Chat:
    """A chat request. `evidence` starts with the most reliable: newest turns, then memories, relations, summary."""

    staff_name: str
    message: str
    is_first: bool
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Spoken:
    """One message of a batch to extract facts from or to summarise. `number` and `day` are as given."""

    number: str
    role: str
    name: str
    day: str
    text: str


@dataclass(frozen=True)
class Known:
    """One known fact in a background request."""

    number: str
    subject: str
    predicate: str
    object: str


def read_chat(prompt: Json) -> Chat:
    """The content of a request without a schema."""
    messages = prompt["messages"]
    *before, message_text = _list_texts(messages[-1])
    past = [text for message in messages[:-1] if message["role"] == "user" for text in _list_texts(message)]
    noted = [text for text in [*past[:1], *before] if _is_note(text)]
    turns = [text for text in [*past, *before] if text not in noted]
    staff_name = _find_name(prompt.get("system", ""))
    return Chat(
        staff_name=staff_name,
        message=message_text.strip(),
        is_first=all(message["role"] == "user" for message in messages) and not any(map(_find_summary, noted)),
        evidence=(*_quote_turns(turns), *(each for text in noted for each in _read_note(text, staff_name))),
    )


def read_text(prompt: Json) -> str:
    """The text of all messages of a request."""
    return "\n".join(text for message in prompt["messages"] for text in _list_texts(message))


def read_batch(text: str) -> list[Spoken]:
    """The `<message>` elements of a background request."""
    found = re.findall(r"<message\s([^>]*\bn=[^>]*)>(.*?)</message>", text, re.DOTALL)
    return [_read_spoken(_read_attributes(attributes), unescape(body)) for attributes, body in found]


def read_known(text: str) -> list[Known]:
    """The `<fact>` elements of a background request."""
    found = [_read_attributes(attributes) for attributes in re.findall(r"<fact\s([^>]*)>", text)]
    return [Known(*(each.get(key, "") for key in ("n", "subject", "predicate", "object"))) for each in found]


def read_summary(text: str) -> str:
    """The text of the `<summary>` element, empty if there is none."""
    found = _find_summary(text)
    return unescape(found[1]).strip() if found else ""


def split_sentences(text: str) -> Iterator[str]:
    """The sentences of a text, unchanged."""
    for part in re.split(r"(?<=[.!?…。！？])\s+|\s*\n\s*|(?<=[。！？])", text):
        if part and part.strip():
            yield part.strip()


def asks(sentence: str) -> bool:
    """Whether a sentence is a question or a request, not a statement."""
    return sentence.rstrip(" \"'”’)").endswith(("?", "？")) or bool(_QUESTION_START.match(sentence))


_QUESTION_START = re.compile(
    r"(?:and |but |so |please )?(?:what|where|who|whom|whose|when|why|how|which|do|does|did|is|are|am|was"
    r"|were|can|could|will|would|should|tell me|remind me|list|name)\b",
    re.IGNORECASE,
)


def _list_texts(message: Json) -> list[str]:
    content = message["content"]
    if isinstance(content, str):
        return [content]
    return [block["text"] for block in content if block["type"] == "text"] or [""]


def _is_note(text: str) -> bool:
    """Whether a block was written by the server; only the first and the last message can have one."""
    return bool(_find_summary(text) or re.match(r"\s*<(recalled|now)>.*</\1>\s*$", text, re.DOTALL))


def _find_summary(text: str) -> re.Match[str] | None:
    return re.search(r"<summary>((?:(?!<summary>).)*)</summary>", text, re.DOTALL)


def _find_name(system: str | Sequence[Json]) -> str:
    text = system if isinstance(system, str) else " ".join(block["text"] for block in system)
    found = re.search(r"\bYou are ([^\n,.;:!?]{1,80})", text)
    return found[1].strip() if found else ""


def _quote_turns(turns: Sequence[str]) -> Iterator[Evidence]:
    for text in reversed(turns):
        for sentence in split_sentences(text):
            if not asks(sentence):
                yield Evidence(sentence, "turn")


def _read_note(text: str, staff_name: str) -> Iterator[Evidence]:
    """The evidence in a summary or a recalled block, without the staff member's own messages."""
    for tag in ("memory", "relation"):
        for attributes, body in re.findall(rf"<{tag}\b([^>]*)>(.*?)</{tag}>", text, re.DOTALL):
            known = _read_attributes(attributes)
            if staff_name and known.get("from") == staff_name:
                continue
            day = _write_day(known.get("date", ""))
            for sentence in split_sentences(unescape(body)):
                if not asks(sentence):  # an earlier question is no evidence
                    yield Evidence(sentence, "memory" if tag == "memory" else "relation", day)
    for sentence in split_sentences(read_summary(text)):
        yield Evidence(sentence.removeprefix("- "), "summary")


def _read_attributes(text: str) -> dict[str, str]:
    found = re.findall(r"([\w-]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", text)
    return {name: unescape(double or single) for name, double, single in found}


def _read_spoken(attributes: Mapping[str, str], text: str) -> Spoken:
    number, role, name, day = (attributes.get(key, "") for key in ("n", "from", "name", "date"))
    return Spoken(number, role, name, day, text)


def _write_day(stamp: str) -> str:
    """For "2026-03-01T…" the text "1 March 2026"; empty if `stamp` is no date."""
    try:
        day = date.fromisoformat(stamp[:10])
    except ValueError:
        return ""
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
