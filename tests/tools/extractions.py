"""What the background model finds in a conversation, as tests script it, and the wait until it was learned."""

import contextlib
from pathlib import Path
from typing import Any

from staffstream.domain import now_text
from tests.tools.databases import connect
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import json_reply
from tests.tools.server import Api
from tests.tools.waiting import until

QUICK: dict[str, Any] = {"extract_every_messages": 2, "extract_idle_s": 3600}


def fact(
    text: str, quote: str, *, subject: str = "user", predicate: str = "lives_in", object: str = "Oslo", **more: Any
) -> Any:
    return {
        "subject": subject, "predicate": predicate, "object": object, "text": text, "kind": "profile",
        "importance": 0.7, "quote": quote, "message": 1, "replaces": 0, **more,
    }  # fmt: skip


def answer(*facts: Any, entities: Any = (), relations: Any = ()) -> Any:
    return json_reply({"facts": list(facts), "entities": list(entities), "relations": list(relations)})


async def list_facts(api: Api, ada: str) -> list[Any]:
    found: list[Any] = await api.get(f"/staff/{ada}/memories", params={"kind": "fact"})
    return found


async def wait_learned(api: Api, provider: ScriptedProvider, times: int) -> None:
    """Until so many extractions were asked for and no job is left running."""
    await until(lambda: len([r for r in provider.requests if r.schema]) >= times)
    await until(lambda: count_jobs(api) == 0)


def count_jobs(api: Api) -> int:
    with contextlib.closing(connect(api.app.settings.db)) as connection:
        query = "SELECT count(*) FROM jobs WHERE state = 'running' OR (state = 'due' AND attempts = 0 AND due_at <= ?)"
        return int(connection.execute(query, (now_text(),)).fetchone()[0])


def hasten_jobs(db: Path) -> None:
    with contextlib.closing(connect(db)) as connection:
        connection.execute("UPDATE jobs SET due_at = '2000-01-01T00:00:00.000Z' WHERE state = 'due' AND attempts > 0")


def list_job_states(db: Path) -> list[str]:
    with contextlib.closing(connect(db)) as connection:
        return [row["state"] for row in connection.execute("SELECT state FROM jobs WHERE kind = 'extract'")]
