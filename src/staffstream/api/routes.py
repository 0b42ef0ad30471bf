"""All routes of the app, from the endpoints that the resource modules declare."""

from starlette.routing import Mount

from staffstream.api import (
    chat_page,
    conversations,
    deliveries,
    docs,
    jobs,
    keys,
    me,
    memories,
    messages,
    rollout,
    runs,
    staff,
    system,
)

ENDPOINTS = [
    *staff.endpoints,
    *messages.endpoints,
    *runs.endpoints,
    *conversations.endpoints,
    *memories.endpoints,
    *rollout.endpoints,
    *deliveries.endpoints,
    *jobs.endpoints,
    *keys.endpoints,
    *me.endpoints,
    *system.endpoints,
    *docs.endpoints,
    *chat_page.endpoints,
]
ROUTES = [*ENDPOINTS, Mount("/assets", chat_page.Assets())]
