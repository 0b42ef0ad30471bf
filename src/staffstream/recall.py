"""A question → the memories that may answer it, scored, best first. No model call, no I/O beyond one snapshot."""

from dataclasses import dataclass

from staffstream.database import Connection
from staffstream.domain import Scope
from staffstream.memories import Memory, MemoryKind, load_memories
from staffstream.memory_index import EmbedNow, search_words, split_words


@dataclass(frozen=True, slots=True)
class Recalled:
    """A memory and how well it fits; `relevant` says whether it is above the floor below which nothing is injected."""

    memory: Memory
    score: float
    relevant: bool = True


def recall_memories(
    conn: Connection,
    scope: Scope,
    question: str,
    *,
    embed: EmbedNow | None,
    limit: int,
    kind: MemoryKind | None = None,
) -> list[Recalled]:
    """The best memories for a question, best first, those below the relevance floor included and marked.

    Without `embed` (its far end is down) words alone are searched.
    """
    hits = search_words(conn, scope, split_words(question)[:64], limit=limit * 4)
    found = load_memories(conn, scope, [hit.number for hit in hits])
    recalled = [Recalled(found[hit.number], hit.score) for hit in hits if hit.number in found]
    return [item for item in recalled if kind is None or item.memory.kind == kind][:limit]
