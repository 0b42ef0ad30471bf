"""`/staff/{staff_id}/mode`: which of the two modes a user is to take while a client moves from polling to the stream.

The choice hangs on the user's id alone, so it is the same in every session and for every staff member, and a user who
was sent to the stream stays there while the share grows.
"""

import hashlib

from starlette.requests import Request
from starlette.responses import Response

from staffstream.api.auth import get_caller, write_path
from staffstream.api.json_responses import respond_json
from staffstream.domain import Mode
from staffstream.storage import staff


def choose_mode(user_id: str, stream_share: float) -> Mode:
    """`stream` for that share of all users, `async` for the others."""
    place = int.from_bytes(hashlib.sha256(user_id.encode()).digest()[:8]) / 2**64
    return "stream" if place < stream_share else "async"


async def show(request: Request) -> Response:
    """The caller's mode, and the path to post messages to."""
    service, user_id = await get_caller(request)
    staff_id = request.path_params["staff_id"]
    await service.database.read(lambda conn: staff.get_staff(conn, staff_id))
    mode = choose_mode(user_id, service.settings.stream_share)
    path = ("messages", "stream") if mode == "stream" else ("messages",)
    return respond_json({"mode": mode, "path": write_path(request, "staff", staff_id, *path)})
