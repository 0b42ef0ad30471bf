"""`/keys`: making, listing and revoking API keys, for admins."""

from starlette.requests import Request
from starlette.responses import Response

from staffstream.api.auth import get_admin, write_path
from staffstream.api.json_responses import respond_json
from staffstream.api.request_body import read_body
from staffstream.api.request_models import NewKey, show_key
from staffstream.storage import keys


async def create(request: Request) -> Response:
    """Make a key. Its text is in this answer only."""
    service, _ = await get_admin(request)
    body = await read_body(request, NewKey)
    key, text = await service.database.write(
        lambda tx: keys.create_key(tx, body.name, user_id=body.user_id, role=body.role)
    )
    return respond_json(show_key(key) | {"key": text}, 201, {"Location": write_path(request, "keys", key.id)})


async def list_all(request: Request) -> Response:
    """All keys, oldest first, the revoked ones too."""
    service, _ = await get_admin(request)
    return respond_json([show_key(key) for key in await service.database.read(keys.list_keys)])


async def revoke(request: Request) -> Response:
    """Make a key invalid from now on; what its user has stays."""
    service, _ = await get_admin(request)
    key_id = request.path_params["key_id"]
    return respond_json(show_key(await service.database.write(lambda tx: keys.revoke_key(tx, key_id))))
