"""All routes of the app, from the endpoints that the resource modules declare."""

from starlette.routing import Mount, Route

from staffstream.api import (
    account,
    chat_page,
    conversations,
    deliveries,
    docs,
    events,
    jobs,
    keys,
    learning,
    me,
    memories,
    messages,
    rollout,
    runs,
    staff,
    system,
)
from staffstream.api.dialects import ag_ui, ai_sdk, mcp, openai

ENDPOINTS = [
    *staff.endpoints,
    *messages.endpoints,
    *runs.endpoints,
    *conversations.endpoints,
    *memories.endpoints,
    *learning.endpoints,
    *events.endpoints,
    *account.endpoints,
    *rollout.endpoints,
    *deliveries.endpoints,
    *jobs.endpoints,
    *keys.endpoints,
    *me.endpoints,
    *system.endpoints,
    *docs.endpoints,
    *chat_page.endpoints,
]
# Described where their clients come from, not in /openapi.json.
DIALECTS: list[Route] = [*openai.endpoints, *ai_sdk.endpoints, *ag_ui.endpoints, Route("/mcp", mcp.McpEndpoint())]
ROUTES = [*ENDPOINTS, *DIALECTS, Mount("/assets", chat_page.Assets())]
