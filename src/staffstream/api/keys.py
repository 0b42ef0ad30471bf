"""`/keys`: making, listing and revoking API keys, for admins."""

from typing import Any

from staffstream.api.endpoints import Call, Endpoints, Result
from staffstream.api.request_models import NewKey
from staffstream.api.response_models import KEY, NEW_KEY
from staffstream.storage import keys

endpoints = Endpoints("keys", "/api/v1/keys")


@endpoints.post("", access="admin", status=201, response=NEW_KEY.model, sends=["Location"], problems=[409])
async def create(call: Call, body: NewKey) -> Result:
    """Make a key. Its text is in this answer only."""
    key, text = await call.services.database.write(
        lambda tx: keys.create_key(tx, body.name, user_id=body.user_id, role=body.role, gateway=body.gateway)
    )
    return Result(NEW_KEY.show(key, key=text), {"Location": call.write_path("keys", key.id)})


@endpoints.get("", access="admin", response=KEY.models)
async def list_all(call: Call) -> list[dict[str, Any]]:
    """All keys, oldest first, the revoked ones too."""
    return [KEY.show(key) for key in await call.services.database.read(keys.list_keys)]


@endpoints.delete("/{key_id}", access="admin", status=200, response=KEY.model)
async def revoke(call: Call) -> dict[str, Any]:
    """Make a key invalid from now on: its open streams end. What its user has stays."""
    key_id = call.param("key_id")
    revoked = await call.services.database.write(lambda tx: keys.revoke_key(tx, key_id))
    call.services.open_streams.end(key_id)
    return KEY.show(revoked)
