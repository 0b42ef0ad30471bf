"""Saving a learned fact: as a new one, as a repetition of a known one, or not at all because the user deleted it; and
closing the facts that it makes untrue. Nothing is overwritten: a closed fact stays in the history and can be restored.

Two things close a known fact: the statement names it in `replaces`, has the same subject and is related to it, or both
have a predicate of which only one value holds at a time. Only the user's own words do that: a reply may repeat what was
recalled.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from staffstream.domain import Scope, now_text
from staffstream.storage import facts, memories
from staffstream.storage.database import Connection
from staffstream.storage.graph import USER_NAME
from staffstream.storage.memories import Memory, NewMemory
from staffstream.storage.vectors import EmbedNow

_SINGLE_VALUED = (  # other names of one predicate, of which only one value holds at a time
    ("lives_in", "resides_in", "lives_at", "home", "residence", "moved_to", "relocated_to", "based_in"),
    ("age", "is_aged", "has_age", "years_old", "is_years_old"),
    ("name", "full_name", "has_name", "is_called", "is_named"),
    ("works_at", "works_for", "employer", "employed_by", "employed_at"),
    ("works_as", "job", "job_title", "profession", "occupation", "has_job"),
    ("born_on", "birthday", "has_birthday", "birth_date", "date_of_birth"),
    ("born_in", "birthplace", "place_of_birth"),
    ("married_to", "spouse"),
    ("marital_status", "relationship_status"),
    ("phone", "phone_number", "has_phone_number"),
    ("email", "email_address", "has_email"),
    ("address", "has_address"),
    ("height",),
    ("weight",),
)
_GROUPS = {name: group for group in _SINGLE_VALUED for name in group}
_FAVOURITE = re.compile(r"(?:has_)?favou?rite_(\w+)")

_TOMBSTONES = 100  # the newest deletions that a new fact is compared with by meaning
# Cosines of two facts' texts. With the static and the multilingual embedder paraphrases have .84 to .94, other facts
# about the same object .75 to .88, an end and what it ended ("works at Acme", "has no job") .51 to .83, and unrelated
# facts .21 to .47.
_SAME_MEANING = 0.9
_SAME_MEANING_OF_OBJECT = 0.7  # when both name the same object: forgetting too much is better than too little
_RELATED = 0.5
_SAME_WORDS = 0.6  # share of common words, where no embedder is at hand


@dataclass(frozen=True, slots=True)
class LearnedFact:
    """The memory that a statement is saved as, whether it is new, and the facts that it closed."""

    memory: Memory
    is_new: bool
    closed: Sequence[Memory] = field(default=())


def learn_fact(
    tx: Connection,
    scope: Scope,
    new: NewMemory,
    *,
    replaces: Memory | None,
    by_user: bool,
    embed: EmbedNow | None,
) -> LearnedFact | None:
    """Save a statement; None when it is not saved, because the user deleted it or it repeats what was corrected."""
    others = facts.find_statements(tx, scope, new.subject or "", list_predicates(new.predicate or ""))
    same = [known for known in others if _says_the_same(known, new)]
    if is_forgotten(tx, scope, new, same, embed):
        return None
    moment = new.occurred_at or now_text()
    current = next((known for known in same if known.valid_to is None), None)
    if current is None and any(not by_user or moment < (known.valid_to or "") for known in same):
        return None  # an echo of what was corrected, or what was said before the correction
    if current and by_user:
        memories.reinforce_memory(tx, scope, current.id, moment)
    memory = current or memories.add_memory(tx, scope, new, embed)
    if not by_user:
        return LearnedFact(memory, is_new=current is None)
    rivals = [known for known in others if _excludes(known, new)]
    ended = [replaces] if replaces is not None and may_replace(replaces, new, embed) else []
    closed = _close_older(tx, scope, memory, [*ended, *rivals])
    memory = _close_if_older(tx, scope, memory, rivals)
    return LearnedFact(memory, current is None, closed)


def may_replace(known: Memory, new: NewMemory, embed: EmbedNow | None) -> bool:
    """Whether a statement can make a known fact untrue: both are about the same subject, and it has the same predicate,
    names the same object or is near in meaning. So neither a mistake of the model nor an order in a pasted text closes
    facts that have nothing to do with it. A fact that was told without a subject is about the user.
    """
    if known.kind != "fact" or (fold(known.subject) or USER_NAME) != fold(new.subject):
        return False
    words = f"{new.object} {new.text} {new.quote or ''}"
    if known.predicate == new.predicate or _names_object(known, words) or embed is None:
        return True
    return max(_compare(known.text, text, embed) for text in (new.text, new.quote or new.text)) >= _RELATED


def list_predicates(predicate: str) -> list[str]:
    """The predicate under all its names, if only one value of it holds at a time; else it alone."""
    if found := _FAVOURITE.fullmatch(predicate):
        return [f"{prefix}{word}_{found[1]}" for prefix in ("", "has_") for word in ("favourite", "favorite")]
    return list(_GROUPS.get(predicate, (predicate,)))


def is_single_valued(predicate: str) -> bool:
    """Whether only one value of a predicate holds at a time."""
    return predicate in _GROUPS or bool(_FAVOURITE.fullmatch(predicate))


def is_forgotten(tx: Connection, scope: Scope, new: NewMemory, same: Sequence[Memory], embed: EmbedNow | None) -> bool:
    """Whether the user deleted this statement, in these words or in others."""
    if any(known.deleted_at for known in same):
        return True
    subject = fold(new.subject)
    deleted = facts.list_deleted_facts(tx, scope, limit=_TOMBSTONES)
    about_it = [each for each in deleted if not each.subject or fold(each.subject) == subject]
    return any(_means_the_same(known, new, embed) for known in about_it)


def fold(text: str | None) -> str:
    """A text as statements are compared: white space, case and a final stop do not count."""
    return " ".join((text or "").casefold().split()).rstrip(".")


def _says_the_same(known: Memory, new: NewMemory) -> bool:
    return (bool(known.object) and fold(known.object) == fold(new.object)) or fold(known.text) == fold(new.text)


def _means_the_same(known: Memory, new: NewMemory, embed: EmbedNow | None) -> bool:
    if embed is None:
        return _share_words(known.text, new.text) >= _SAME_WORDS
    same_object = _names_object(known, f"{new.object} {new.text}")
    return _compare(known.text, new.text, embed) >= (_SAME_MEANING_OF_OBJECT if same_object else _SAME_MEANING)


def _names_object(known: Memory, text: str) -> bool:
    """Whether a text has the object of a known fact, or a word that begins like it: "nuts", "nut allergy"."""
    object, words = fold(known.object), fold(text)
    if not object:
        return False
    stems = [word[: max(3, len(word) - 2)] for word in object.split() if len(word) >= 3]
    return object in words or any(word.startswith(stem) for stem in stems for word in words.split())


def _compare(one: str, other: str, embed: EmbedNow) -> float:
    first, second = embed(one), embed(other)
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second) or 1.0))


def _share_words(one: str, other: str) -> float:
    first, second = set(fold(one).split()), set(fold(other).split())
    return len(first & second) / len(first | second)


def _excludes(known: Memory, new: NewMemory) -> bool:
    """Whether both cannot hold at a time. Two values in one message are not rivals: "Oslo, Norway" is both."""
    return (
        is_single_valued(new.predicate or "")
        and known.deleted_at is None
        and known.valid_to is None
        and not _says_the_same(known, new)
        and (known.source_message_id is None or known.source_message_id != new.source_message_id)
    )


def _close_older(tx: Connection, scope: Scope, memory: Memory, known: Sequence[Memory]) -> list[Memory]:
    older = {each.id: each for each in known if each.id != memory.id and each.valid_from <= memory.valid_from}
    for each in older.values():
        memories.close_memory(tx, scope, each.id, valid_to=memory.valid_from, superseded_by=memory.id)
    return [memories.get_memory(tx, scope, memory_id) for memory_id in older]


def _close_if_older(tx: Connection, scope: Scope, memory: Memory, rivals: Sequence[Memory]) -> Memory:
    """A statement out of the past was true until the known one was."""
    newer = min((each for each in rivals if each.valid_from > memory.valid_from), key=_begin, default=None)
    if newer is None:
        return memory
    memories.close_memory(tx, scope, memory.id, valid_to=newer.valid_from, superseded_by=newer.id)
    return memories.get_memory(tx, scope, memory.id)


def _begin(memory: Memory) -> str:
    return memory.valid_from
