"""Reads the exports of mem0: lists and pages of memories, with the relations of its graph."""

from collections.abc import Iterator
from typing import Any

from staffstream.domain import now_text
from staffstream.memory.chat_import.past import PastMemory, Report, list_objects, read_moment, read_text

Json = dict[str, Any]


def is_memory(item: Json) -> bool:
    """Whether an object is a memory."""
    return isinstance(item.get("memory"), str)


def is_relation(item: Json) -> bool:
    """Whether it is a relation of the graph."""
    return all(isinstance(item.get(name), str) for name in ("source", "relationship")) and bool(_end_of(item))


def is_page(item: Json) -> bool:
    """Whether it is a page, or an answer that wraps memories and relations."""
    found = [*list_objects(item.get("results")), *list_objects(item.get("memories"))]
    return any(map(is_memory, found)) or any(map(is_relation, list_objects(item.get("relations"))))


def list_page(page: Json) -> list[Json]:
    """The memories and relations of a page."""
    return [item for name in ("results", "memories", "relations") for item in list_objects(page.get(name))]


def read_memory(item: Json, report: Report) -> Iterator[PastMemory]:
    """One memory, unless its date of expiry has passed."""
    expires = item.get("expiration_date")
    if isinstance(expires, str) and read_moment(expires) < now_text():
        report.leave_out("memories that have expired")
    elif text := read_text(item["memory"]).strip():
        moment = item.get("created_at") or item.get("updated_at")
        yield PastMemory(text, read_moment(moment) if moment else "")


def read_relation(item: Json) -> Iterator[PastMemory]:
    """A relation as a statement, e.g. `anna lives in bergen`."""
    parts = (read_text(item["source"]), read_text(item["relationship"]), _end_of(item))
    yield PastMemory(" ".join(part.replace("_", " ").strip() for part in parts))


def _end_of(item: Json) -> str:
    return read_text(item.get("destination") or item.get("target"))
