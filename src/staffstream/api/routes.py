"""The HTTP surface: one module a resource, and here the list of all routes."""

from starlette.routing import Mount, Route

from staffstream.api import (
    chat_page,
    conversations,
    deliveries,
    docs,
    jobs,
    keys,
    memories,
    messages,
    rollout,
    runs,
    staff,
    system,
)

_STAFF = "/api/v1/staff/{staff_id}"
_MESSAGE = _STAFF + "/messages/{message_id}"
_RUN = _STAFF + "/runs/{run_id}"
_MEMORY = _STAFF + "/memories/{memory_id}"
_DELIVERY = _STAFF + "/deliveries/{delivery_id}"
_CONVERSATION = _STAFF + "/conversations/{conversation_id}"

ROUTES = [
    Route("/api/v1/staff", staff.create, methods=["POST"]),
    Route("/api/v1/staff", staff.list_all, methods=["GET"]),
    Route(_STAFF, staff.show, methods=["GET"]),
    Route(_STAFF, staff.update, methods=["PATCH"]),
    Route(_STAFF, staff.delete, methods=["DELETE"]),
    Route(_STAFF + "/messages/stream", messages.stream, methods=["POST"]),
    Route(_STAFF + "/messages", messages.send, methods=["POST"]),
    Route(_STAFF + "/messages", messages.list_some, methods=["GET"]),
    Route(_MESSAGE, messages.show, methods=["GET"]),
    Route(_MESSAGE + "/context", messages.show_context, methods=["GET"]),
    Route(_MESSAGE + "/feedback", messages.give_feedback, methods=["POST"]),
    Route(_MESSAGE + "/regenerate", messages.regenerate, methods=["POST"]),
    Route(_RUN, runs.show, methods=["GET"]),
    Route(_RUN + "/stream", runs.join, methods=["GET"]),
    Route(_RUN + "/cancel", runs.cancel, methods=["POST"]),
    Route(_MESSAGE, messages.delete, methods=["DELETE"]),
    Route(_STAFF + "/memories", memories.list_some, methods=["GET"]),
    Route(_STAFF + "/memories", memories.create, methods=["POST"]),
    Route(_MEMORY, memories.show, methods=["GET"]),
    Route(_MEMORY, memories.update, methods=["PATCH"]),
    Route(_MEMORY, memories.delete, methods=["DELETE"]),
    Route(_MEMORY + "/restore", memories.restore, methods=["POST"]),
    Route(_STAFF + "/graph", memories.show_graph, methods=["GET"]),
    Route(_STAFF + "/context", messages.try_context, methods=["POST"]),
    Route(_STAFF + "/conversations", conversations.create, methods=["POST"]),
    Route(_STAFF + "/conversations", conversations.list_some, methods=["GET"]),
    Route(_CONVERSATION, conversations.show, methods=["GET"]),
    Route(_CONVERSATION, conversations.update, methods=["PATCH"]),
    Route(_CONVERSATION, conversations.delete, methods=["DELETE"]),
    Route(_STAFF + "/mode", rollout.show, methods=["GET"]),
    Route(_STAFF + "/deliveries", deliveries.list_some, methods=["GET"]),
    Route(_DELIVERY, deliveries.show, methods=["GET"]),
    Route(_DELIVERY + "/redeliver", deliveries.redeliver, methods=["POST"]),
    Route("/api/v1/jobs", jobs.list_some, methods=["GET"]),
    Route("/api/v1/jobs/{job_id}", jobs.show, methods=["GET"]),
    Route("/api/v1/jobs/{job_id}", jobs.drop, methods=["DELETE"]),
    Route("/api/v1/jobs/{job_id}/retry", jobs.retry, methods=["POST"]),
    Route("/api/v1/keys", keys.create, methods=["POST"]),
    Route("/api/v1/keys", keys.list_all, methods=["GET"]),
    Route("/api/v1/keys/{key_id}", keys.revoke, methods=["DELETE"]),
    Route("/healthz", system.health, methods=["GET"]),
    Route("/metrics", system.export_metrics, methods=["GET"]),
    Route("/openapi.json", docs.show_openapi, methods=["GET"]),
    Route("/docs", docs.show_page, methods=["GET"]),
    Route("/readyz", system.ready, methods=["GET"]),
    Route("/", chat_page.show, methods=["GET"]),
    Route("/icon.svg", chat_page.show_icon, methods=["GET"]),
    Mount("/assets", chat_page.Assets()),
]
