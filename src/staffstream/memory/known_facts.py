"""Which known facts a question to the background model shows: those that the messages may repeat, change or end.

A move from one town to another shares no word with what it makes untrue, and a message may be in another language than
the fact. So half of the places go to what is nearest in meaning, the rest by subject and importance.
"""

from collections.abc import Sequence

from staffstream.domain import Message, Scope
from staffstream.memory.recall import recall_memories
from staffstream.memory.traits import HalfLives
from staffstream.storage import facts, graph, memories
from staffstream.storage.database import Connection
from staffstream.storage.memories import Memory
from staffstream.storage.vectors import EmbedNow

_QUERY_CHARACTERS = 1000
_MAX_QUERIES = 20  # the latest messages of the user
_NEAREST_OF_EACH = 5


def find_known_facts(
    conn: Connection,
    scope: Scope,
    messages: Sequence[Message],
    *,
    embed: EmbedNow | None,
    half_lives: HalfLives,
    limit: int,
) -> list[Memory]:
    """At most `limit` facts that hold now, the nearest first."""
    texts = [each.content[:_QUERY_CHARACTERS] for each in messages if each.message_type == "user"][-_MAX_QUERIES:]
    ranks: dict[int, int] = {}
    for text in texts:
        found = recall_memories(
            conn, scope, text, embed=embed, limit=_NEAREST_OF_EACH, kind="fact", half_lives=half_lives
        )
        for rank, item in enumerate(found):
            number = item.memory.number
            ranks[number] = min(rank, ranks.get(number, rank))
    nearest = sorted(ranks, key=lambda number: (ranks[number], -number))
    loaded = memories.load_memories(conn, scope, nearest)
    current = [loaded[number] for number in nearest if number in loaded and loaded[number].valid_to is None]
    named = [entity.name for entity in graph.find_entities(conn, scope, " ".join(texts))]
    by_subject = facts.list_facts_about(conn, scope, [*named, graph.USER_NAME], limit=limit)
    chosen = {memory.number: memory for memory in (*current[: limit // 2], *by_subject)}
    return list(chosen.values())[:limit]
