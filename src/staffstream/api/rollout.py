"""`/staff/{staff_id}/mode`: which of the two modes a user is to take while a client moves from polling to the stream.

The choice depends on the user's id alone, so it is the same in every session and for every staff member, and a user who
was sent to the stream stays there while the share grows.
"""

import hashlib
from typing import Any

from staffstream.api.endpoints import Call, Endpoints
from staffstream.api.response_models import ModeResponse
from staffstream.domain import Mode
from staffstream.storage import staff

endpoints = Endpoints("rollout")


def choose_mode(user_id: str, stream_share: float) -> Mode:
    """`stream` for that share of all users, `async` for the others."""
    place = int.from_bytes(hashlib.sha256(user_id.encode()).digest()[:8]) / 2**64
    return "stream" if place < stream_share else "async"


@endpoints.get("/api/v1/staff/{staff_id}/mode", response=ModeResponse)
async def show(call: Call) -> dict[str, Any]:
    """The caller's mode, and the path to post messages to."""
    staff_id = call.param("staff_id")
    await call.services.database.read(lambda conn: staff.get_staff(conn, staff_id))
    mode = choose_mode(call.user_id, call.services.settings.stream_share)
    path = ("messages", "stream") if mode == "stream" else ("messages",)
    return {"mode": mode, "path": call.write_path("staff", staff_id, *path)}
