"""`/staff/{staff_id}/deliveries`: what was sent to webhooks, how each attempt went, and sending it again."""

import functools
from typing import Any

from staffstream.api.endpoints import Call, Endpoints, Result, make_page
from staffstream.api.request_models import Page
from staffstream.api.response_models import DELIVERY, DELIVERY_WHOLE, show_delivery
from staffstream.storage import deliveries, staff
from staffstream.storage.database import Connection
from staffstream.storage.deliveries import Delivery

endpoints = Endpoints("deliveries", "/api/v1/staff/{staff_id}/deliveries")


@endpoints.get("", response=DELIVERY.models, sends=["Link"], etag=True)
async def list_some(call: Call, query: Page) -> Result:
    """The caller's deliveries from this staff member, newest first."""
    staff_id, user_id = call.param("staff_id"), call.user_id

    def read(conn: Connection) -> list[Delivery]:
        scope = staff.find_scope(conn, staff_id, user_id)
        return deliveries.list_deliveries(conn, staff_id, scope=scope, limit=query.limit + 1, before=query.before)

    found = await call.services.database.read(read)
    return make_page(call, found, query, functools.partial(show_delivery, to_admin=call.is_admin))


@endpoints.get("/{delivery_id}", response=DELIVERY_WHOLE.model, etag=True)
async def show(call: Call) -> dict[str, Any]:
    """One delivery, with the body as it is sent."""
    staff_id, user_id, delivery_id = call.param("staff_id"), call.user_id, call.param("delivery_id")
    delivery = await call.services.database.read(
        lambda conn: deliveries.get_delivery(conn, delivery_id, scope=staff.find_scope(conn, staff_id, user_id))
    )
    return show_delivery(delivery, to_admin=call.is_admin) | {"body": delivery.body}


@endpoints.post("/{delivery_id}/redeliver", status=202, response=DELIVERY.model)
async def redeliver(call: Call) -> dict[str, Any]:
    """Send it now, under the same webhook-id, whatever has become of it."""
    staff_id, user_id, delivery_id = call.param("staff_id"), call.user_id, call.param("delivery_id")
    delivery = await call.services.database.write(
        lambda tx: deliveries.redeliver(tx, delivery_id, scope=staff.find_scope(tx, staff_id, user_id))
    )
    call.services.worker.wake.set()
    return show_delivery(delivery, to_admin=call.is_admin)
