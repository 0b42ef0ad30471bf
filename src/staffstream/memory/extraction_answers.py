"""The background model's answer about a batch, checked: what of it may be saved.

A statement is accepted only with a quote that stands in one of the batch's messages. Whatever the shape of the answer,
nothing is raised.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from staffstream.domain import Message, Staff
from staffstream.memory.extraction import Batch
from staffstream.memory.fact_changes import fold
from staffstream.storage import graph
from staffstream.storage.memories import Memory, NewMemory

_MAX_FACTS = 60
_USER_TOO = frozenset({"i", "me", "myself", "the user"})


@dataclass(frozen=True, slots=True)
class Statement:
    """An accepted fact, and the known one that it makes untrue. `by_user` says whether the user wrote its quote."""

    fact: NewMemory
    replaces: Memory | None
    by_user: bool


@dataclass(frozen=True, slots=True)
class Extraction:
    """What is accepted of the answers about a batch, and how many statements were rejected."""

    facts: Sequence[Statement]
    entities: Sequence[dict[str, Any]]
    relations: Sequence[tuple[dict[str, Any], Message]]
    rejected: int


def check_answers(batch: Batch, answers: Sequence[object], *, staff: Staff) -> Extraction:
    """What is accepted of the model's answers, one for each question about the batch."""
    checked = [_check_answer(batch, answer, staff) for answer in answers]
    return Extraction(
        facts=[fact for each in checked for fact in each.facts],
        entities=[entity for each in checked for entity in each.entities],
        relations=[relation for each in checked for relation in each.relations],
        rejected=sum(each.rejected for each in checked),
    )


def _check_answer(batch: Batch, answer: object, staff: Staff) -> Extraction:
    parts = answer if isinstance(answer, dict) else {}
    facts: list[Statement] = []
    rejected = 0
    for statement in _objects(parts.get("facts"))[:_MAX_FACTS]:
        if (fact := _check_fact(batch, statement, staff)) is None:
            rejected += 1
        else:
            facts.append(fact)
    relations = []
    for statement in _objects(parts.get("relations"))[:_MAX_FACTS]:
        source = _find_source(batch, statement)
        if source is None or not all(read_text(statement, end) for end in ("subject", "predicate", "object")):
            rejected += 1
        else:
            relations.append((statement, source))
    return Extraction(facts, _objects(parts.get("entities"))[:_MAX_FACTS], relations, rejected)


def _check_fact(batch: Batch, statement: dict[str, Any], staff: Staff) -> Statement | None:
    source = _find_source(batch, statement)
    parts = [read_text(statement, name) for name in ("subject", "predicate", "object", "text")]
    if source is None or not all(parts):
        return None
    subject, predicate, object, text = parts
    by_user, user_name = source.message_type == "user", batch.conversation.user_name
    if not by_user and _is_of_persona(staff, subject, object):
        return None
    importance = statement.get("importance")
    known = isinstance(importance, int | float) and not isinstance(importance, bool)
    fact = NewMemory(
        kind="fact",
        text=text,
        subject=graph.USER_NAME if subject.casefold() in {user_name.casefold(), *_USER_TOO} else subject,
        predicate=predicate.casefold().replace(" ", "_"),
        object=object,
        category=read_text(statement, "kind") or "other",
        quote=read_text(statement, "quote"),
        importance=min(1.0, max(0.0, float(importance))) if known else 0.5,  # type: ignore[arg-type]
        speaker=user_name if by_user else staff.name,
        conversation_id=batch.conversation.id,
        source_message_id=source.id,
        occurred_at=source.created_at,
    )
    return Statement(fact, _find_replaced(batch, statement) if by_user else None, by_user)


def _is_of_persona(staff: Staff, subject: str, object: str) -> bool:
    """Whether a statement of the staff member says of itself what it was told to be."""
    told = fold(f"{staff.role} {staff.persona}")
    return fold(subject) == fold(staff.name) and fold(object) in told


def _find_source(batch: Batch, statement: dict[str, Any]) -> Message | None:
    """The message that holds the quote: the one that is named, or else another of the batch."""
    quote = _squeeze(read_text(statement, "quote"))
    if len(quote) < 2:
        return None
    number = statement.get("message")
    named = batch.messages[number - 1 : number] if isinstance(number, int) and number > 0 else []
    return next((message for message in (*named, *batch.messages) if quote in _squeeze(message.content)), None)


def _find_replaced(batch: Batch, statement: dict[str, Any]) -> Memory | None:
    """The known fact that a statement says it makes untrue; fact_changes.py decides whether it may."""
    number = statement.get("replaces")
    return batch.known[number - 1] if isinstance(number, int) and 1 <= number <= len(batch.known) else None


def _squeeze(text: str) -> str:
    """The text as quotes are compared: white space and typographic forms do not count, letters and case do."""
    return " ".join(unicodedata.normalize("NFKC", text).replace("’", "'").replace("“", '"').replace("”", '"').split())


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def read_text(statement: dict[str, Any], name: str) -> str:
    value = statement.get(name)
    return value.strip()[:2000] if isinstance(value, str) else ""
