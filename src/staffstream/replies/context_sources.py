"""Everything that one reply may be built from, gathered from one snapshot of the database.

What was recalled becomes evidence: one line each, with its date, escaped, so that nothing in it can end the block it
stands in. How sure the evidence is decides how much of it goes in (context.py); where nothing is near, none does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

from staffstream.domain import Message, Scope, Staff
from staffstream.memory.recall import Recalled, recall_memories
from staffstream.memory.traits import HalfLives
from staffstream.storage import conversations, graph, messages
from staffstream.storage.database import Connection
from staffstream.storage.vectors import EmbedNow
from staffstream.support.timers import Stage, StageTimer

MAX_MEMORIES = 64
MAX_RELATIONS = 12
SHOWN_LEFT_OUT = 8
_MAX_TURNS = 400
_TURNS_STEP = 200  # the oldest turn that is looked at stays the same for so many, and with it the steps of the window


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something recalled that may help: one line for the prompt, and where it came from."""

    source: Literal["memory", "relation"]
    id: str
    line: str
    text: str
    score: float
    kind: str = ""
    occurred_at: str = ""
    source_message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything one reply may be built from. `turns` are oldest first, `evidence` best first."""

    staff: Staff
    question: Message
    turns: Sequence[Sequence[Message]]
    summary: str = ""
    evidence: Sequence[Evidence] = ()
    left_out: Sequence[dict[str, Any]] = ()
    grade: float = 1.0
    stages: Sequence[Stage] = ()
    time_zone: str = ""


def gather_sources(
    conn: Connection, scope: Scope, member: Staff, question: Message, *, embed: EmbedNow | None, half_lives: HalfLives
) -> Sources:
    """The summary, the recent turns before the question, and what is recalled for it."""
    conversation_id = question.conversation_id
    stages = StageTimer()
    summary, summed_up = conversations.load_summary(conn, scope, conversation_id)
    stages.record("summary")
    turns = messages.load_turns(
        conn, scope, conversation_id, after_turn=summed_up, before_turn=question.turn, limit=_MAX_TURNS
    )
    if len(turns) == _MAX_TURNS:
        turns = [turn for turn in turns if turn[0].turn >= turns[0][0].turn // _TURNS_STEP * _TURNS_STEP + _TURNS_STEP]
    stages.record("turns")
    recalled = recall_for(conn, scope, question, embed, half_lives) if member.memory_enabled else []
    stages.record("memories")
    used = [item for item in recalled if item.relevant]
    relations = _find_relations(conn, scope, question, used) if member.memory_enabled else []
    stages.record("graph")
    left_out = [item for item in recalled if not item.relevant][:SHOWN_LEFT_OUT]
    return Sources(
        staff=member,
        question=question,
        turns=turns,
        summary=summary,
        evidence=[*map(_describe_memory, used), *map(_describe_relation, relations)],
        grade=max((item.grade for item in recalled), default=0.0),
        left_out=[_describe_left_out(item) for item in left_out],
        stages=stages.recorded,
        time_zone=conversations.find_time_zone(conn, scope, conversation_id),
    )


def recall_for(
    conn: Connection, scope: Scope, question: Message, embed: EmbedNow | None, half_lives: HalfLives
) -> list[Recalled]:
    """What is recalled for a question, without the question itself, what was said after it in its conversation (it may
    have waited in the queue, or be asked again), and what is true no longer.
    """
    found = recall_memories(
        conn,
        scope,
        question.content,
        embed=embed,
        limit=2 * MAX_MEMORIES,
        without_message=question.id,
        half_lives=half_lives,
    )
    usable = [item for item in found if item.memory.valid_to is None and not _is_later(item, question)]
    return _take_each_text_once(usable, question.content)[:MAX_MEMORIES]


def _take_each_text_once(found: Sequence[Recalled], question: str) -> list[Recalled]:
    """Without texts that came before, and without the question itself, which answers nothing."""
    texts = {question.strip().casefold()}
    taken = []
    for item in found:
        text = item.memory.text.strip().casefold()
        if text not in texts:
            texts.add(text)
            taken.append(item)
    return taken


def _is_later(item: Recalled, question: Message) -> bool:
    said_here = item.memory.conversation_id == question.conversation_id
    return said_here and (item.memory.source_message_id or "") >= question.id


def _find_relations(
    conn: Connection, scope: Scope, question: Message, recalled: Sequence[Recalled]
) -> list[graph.Relation]:
    """What the graph says of the things that the question names or that recalled facts speak of.

    The user is left out as a starting point, who is connected to everything, and so is a relation that says the same
    as a fact which was recalled anyway.
    """
    facts = [item.memory.id for item in recalled if item.memory.kind == "fact"]
    named = graph.find_entities(conn, scope, question.content)
    carried = graph.find_entities_of_memories(conn, scope, facts)
    start = {entity.id: entity for entity in (*named, *carried) if entity.name != graph.USER_NAME}
    if not start:
        return []
    found = graph.find_neighbourhood(conn, scope, list(start.values()), depth=1, limit=MAX_RELATIONS * 2)
    return [relation for relation in found if relation.memory_id not in facts][:MAX_RELATIONS]


def _describe_memory(item: Recalled) -> Evidence:
    memory = item.memory
    passage = item.passage or memory.text
    said_by = f" from={quoteattr(memory.speaker)}" if memory.kind == "episode" and memory.speaker else ""
    kind = "" if memory.kind == "episode" else f' kind="{memory.kind}"'
    line = f'<memory date="{memory.occurred_at[:10]}"{kind}{said_by}>{escape(passage)}</memory>'
    return Evidence(
        "memory", memory.id, line, passage, item.score, memory.kind, memory.occurred_at, memory.source_message_id
    )


def _describe_relation(relation: graph.Relation) -> Evidence:
    line = f'<relation date="{relation.valid_from[:10]}">{escape(relation.line)}</relation>'
    return Evidence(
        "relation",
        relation.id,
        line,
        relation.line,
        1 / relation.distance,
        "relation",
        relation.valid_from,
        relation.source_message_id,
    )


def _describe_left_out(item: Recalled) -> dict[str, Any]:
    return {
        "source": "memory",
        "id": item.memory.id,
        "text": item.memory.text[:500],
        "score": round(item.score, 4),
        "kind": item.memory.kind,
        "reason": "below the relevance floor",
    }
