"""The record of what a run was built from, as it is kept.

What it quotes of memories and of the graph is kept by id and read again when the record is shown, so that a text that
is erased or forgotten is in no record either. A summary's text is kept, since the next one takes its place; erasing a
message that it may cover takes it out of the records (`runs.erase_summaries`).
"""

from collections.abc import Iterator
from typing import Any

from staffstream.domain import Scope
from staffstream.storage import graph, memories, runs
from staffstream.storage.database import Connection

Json = dict[str, Any]


def save_record(tx: Connection, run_id: str, record: Json) -> None:
    """Keep what a run sent to Claude and why, without the texts that it recalled."""
    sections = [section | {"items": _leave_texts_out(section["items"])} for section in record["sections"]]
    runs.save_context(tx, run_id, record | {"sections": sections, "dropped": _leave_texts_out(record["dropped"])})


def load_record(conn: Connection, scope: Scope, run_id: str) -> Json:
    """The record with the texts as they stand; ERASED where there is none any more. Raises NotFound."""
    record = runs.load_context(conn, scope, run_id)
    quoted = list(_find_quoted(record))
    ids = [item["id"] for item in quoted]
    texts = memories.load_texts(conn, scope, ids) | graph.load_lines(conn, scope, ids)
    for item in quoted:
        item["text"] = texts.get(item["id"], runs.ERASED)
    return record


def _leave_texts_out(items: list[Json]) -> list[Json]:
    return [{name: item[name] for name in item if name != "text" or "id" not in item} for item in items]


def _find_quoted(record: Json) -> Iterator[Json]:
    for items in (*(section["items"] for section in record["sections"]), record["dropped"]):
        yield from (item for item in items if "id" in item)
