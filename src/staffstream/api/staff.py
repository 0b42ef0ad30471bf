"""`/staff`: making, listing, changing and erasing staff members."""

from starlette.requests import Request
from starlette.responses import Response

from staffstream.api.auth import get_admin, get_caller, write_path
from staffstream.api.json_responses import respond_json
from staffstream.api.request_body import read_body
from staffstream.api.request_models import NewStaff, StaffChanges, show_staff
from staffstream.errors import Invalid
from staffstream.storage import staff

_NOT_NULLABLE = ("name", "role", "persona", "memory_enabled", "webhook_secret")


async def create(request: Request) -> Response:
    """Make a staff member. The webhook secret is in this answer only."""
    service, _ = await get_admin(request)
    fields = (await read_body(request, NewStaff)).model_dump(exclude_unset=True)
    _check_nulls(fields)
    secret = fields.pop("webhook_secret", None)
    made = await service.database.write(lambda tx: staff.create_staff(tx, fields, webhook_secret=secret))
    return respond_json(
        show_staff(made) | {"webhook_secret": made.webhook_secrets[0]},
        201,
        {"Location": write_path(request, "staff", made.id)},
    )


async def list_all(request: Request) -> Response:
    """All staff members, oldest first."""
    service, _ = await get_caller(request)
    return respond_json([show_staff(member) for member in await service.database.read(staff.list_staff)])


async def show(request: Request) -> Response:
    """One staff member."""
    service, _ = await get_caller(request)
    staff_id = request.path_params["staff_id"]
    return respond_json(show_staff(await service.database.read(lambda conn: staff.get_staff(conn, staff_id))))


async def update(request: Request) -> Response:
    """Change the fields that the body names."""
    service, _ = await get_admin(request)
    staff_id = request.path_params["staff_id"]
    changes = (await read_body(request, StaffChanges)).model_dump(exclude_unset=True)
    _check_nulls(changes)
    secret = changes.pop("webhook_secret", None)
    changed = await service.database.write(lambda tx: staff.update_staff(tx, staff_id, changes, webhook_secret=secret))
    return respond_json(show_staff(changed))


async def delete(request: Request) -> Response:
    """Erase a staff member and all that it holds; runs that are being made are stopped first."""
    service, _ = await get_admin(request)
    staff_id = request.path_params["staff_id"]
    await service.pipeline.stop_all(staff_id=staff_id)
    await service.database.write(lambda tx: service.learning.forget_staff(tx, staff_id))
    await service.pipeline.stop_all(staff_id=staff_id)  # what was queued may have begun meanwhile
    return Response(status_code=204)


def _check_nulls(fields: dict[str, object]) -> None:
    """null means 'the server's own', which these fields do not have."""
    wrong = [name for name in _NOT_NULLABLE if name in fields and fields[name] is None]
    if wrong:
        errors = [{"pointer": f"/{name}", "detail": "must not be null"} for name in wrong]
        raise Invalid(f"/{wrong[0]}: must not be null", extra={"errors": errors})
