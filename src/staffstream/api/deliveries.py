"""`/staff/{staff_id}/deliveries`: what was sent to webhooks, how each attempt went, and sending it again."""

from starlette.requests import Request
from starlette.responses import Response

from staffstream.api.auth import get_caller
from staffstream.api.json_responses import respond_fresh, respond_json, respond_page
from staffstream.api.request_body import read_query
from staffstream.api.request_models import Page, show_delivery
from staffstream.storage import deliveries, staff
from staffstream.storage.database import Connection
from staffstream.storage.deliveries import Delivery


async def list_some(request: Request) -> Response:
    """The caller's deliveries from this staff member, newest first."""
    service, user_id = await get_caller(request)
    staff_id = request.path_params["staff_id"]
    page = read_query(request, Page)

    def read(conn: Connection) -> list[Delivery]:
        scope = staff.find_scope(conn, staff_id, user_id)
        return deliveries.list_deliveries(conn, staff_id, scope=scope, limit=page.limit + 1, before=page.before)

    found = await service.database.read(read)
    return respond_page(
        request,
        [show_delivery(delivery) for delivery in found[: page.limit]],
        limit=page.limit,
        more=len(found) > page.limit,
        path=("staff", staff_id, "deliveries"),
    )


async def show(request: Request) -> Response:
    """One delivery, with the body as it is sent."""
    service, user_id = await get_caller(request)
    staff_id, delivery_id = request.path_params["staff_id"], request.path_params["delivery_id"]
    delivery = await service.database.read(
        lambda conn: deliveries.get_delivery(conn, delivery_id, scope=staff.find_scope(conn, staff_id, user_id))
    )
    return respond_fresh(request, show_delivery(delivery) | {"body": delivery.body})


async def redeliver(request: Request) -> Response:
    """Send it now, under the same webhook-id, whatever has become of it."""
    service, user_id = await get_caller(request)
    staff_id, delivery_id = request.path_params["staff_id"], request.path_params["delivery_id"]
    delivery = await service.database.write(
        lambda tx: deliveries.redeliver(tx, delivery_id, scope=staff.find_scope(tx, staff_id, user_id))
    )
    service.worker.wake.set()
    return respond_json(show_delivery(delivery), 202)
