"""`/staff`: making, listing, changing and erasing staff members."""

from typing import Any

from staffstream.api.endpoints import Call, Endpoints, Result
from staffstream.api.request_models import NewStaff, StaffChanges
from staffstream.api.response_models import NEW_STAFF, STAFF, show_staff
from staffstream.storage import staff

endpoints = Endpoints("staff", "/api/v1/staff")


@endpoints.post("", access="admin", status=201, response=NEW_STAFF.model, sends=["Location"])
async def create(call: Call, body: NewStaff) -> Result:
    """Make a staff member. The webhook secret is in this answer only."""
    fields = body.model_dump(exclude_unset=True)
    secret = fields.pop("webhook_secret", None)
    made = await call.services.database.write(lambda tx: staff.create_staff(tx, fields, webhook_secret=secret))
    shown = NEW_STAFF.show(made, webhook_secret=made.webhook_secrets[0])
    return Result(shown, {"Location": call.write_path("staff", made.id)})


@endpoints.get("", response=STAFF.models)
async def list_all(call: Call) -> list[dict[str, Any]]:
    """All staff members, oldest first."""
    return [
        show_staff(member, to_admin=call.is_admin) for member in await call.services.database.read(staff.list_staff)
    ]


@endpoints.get("/{staff_id}", response=STAFF.model)
async def show(call: Call) -> dict[str, Any]:
    """One staff member."""
    staff_id = call.param("staff_id")
    member = await call.services.database.read(lambda conn: staff.get_staff(conn, staff_id))
    return show_staff(member, to_admin=call.is_admin)


@endpoints.patch("/{staff_id}", access="admin", response=STAFF.model)
async def update(call: Call, body: StaffChanges) -> dict[str, Any]:
    """Change the fields that the body names."""
    staff_id = call.param("staff_id")
    changes = body.model_dump(exclude_unset=True)
    secret = changes.pop("webhook_secret", None)
    return STAFF.show(
        await call.services.database.write(lambda tx: staff.update_staff(tx, staff_id, changes, webhook_secret=secret))
    )


@endpoints.delete("/{staff_id}", access="admin")
async def delete(call: Call) -> None:
    """Erase a staff member and all that it holds; runs that are being made are stopped first."""
    services, staff_id = call.services, call.param("staff_id")
    await services.pipeline.stopper.stop_all(staff_id=staff_id)
    await services.purger.erase_staff(staff_id)
    await services.database.clear_log()
    await services.pipeline.stopper.stop_all(staff_id=staff_id)  # what was queued may have begun meanwhile
