"""`/me`: everything that the caller has on this server, to take along or to erase."""

import functools
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import IO

from starlette.responses import Response, StreamingResponse

from staffstream.api.endpoints import Call, Endpoints
from staffstream.domain import now_text
from staffstream.storage import user_data
from staffstream.storage.database import Connection

endpoints = Endpoints("me", "/api/v1/me")

_IN_MEMORY_BYTES = 4 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was erased, by kind, and what was kept."""

    user_id: str
    erased_at: str
    erased: dict[str, int]
    kept: list[str]


@endpoints.get("/export", media_type="application/x-ndjson")
async def export(call: Call) -> Response:
    """Everything of the caller as JSON Lines, from one moment: a head, one row a line, and an end with their count."""

    def write(conn: Connection) -> IO[bytes]:
        """Into a file first: a reader that is held while a client downloads would keep the log from being emptied."""
        file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115  (closed by who sends it)
        file.writelines(line.encode() + b"\n" for line in user_data.export_user(conn, call.user_id))
        file.seek(0)
        return file

    file = await call.services.database.read(write)
    name = f"staffstream-{now_text()[:10]}.jsonl"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(_read_chunks(file), media_type="application/x-ndjson", headers=headers)


async def _read_chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


@endpoints.delete("", status=200, response=Receipt)
async def erase(call: Call) -> Receipt:
    """Erase everything of the caller; runs that are being made are stopped first. The caller's keys go on working."""
    services, user_id = call.services, call.user_id
    count = functools.partial(user_data.count_rows, user_id=user_id)
    await services.pipeline.stopper.stop_all(user_id=user_id)
    counts = await services.database.read(count)
    await services.purger.erase_user(user_id)
    await services.pipeline.stopper.stop_all(user_id=user_id)  # what was queued may have begun meanwhile
    return Receipt(
        user_id=user_id,
        erased_at=now_text(),
        erased=counts,
        kept=["API keys", "the sum of tokens and dollars spent today"],
    )
