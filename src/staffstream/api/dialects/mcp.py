"""MCP: staff members and their memory as tools, by the official SDK (the extra `mcp`).

The tools call our own API: in this process for `/mcp`, a running server for `staffstream mcp --stdio`. So keys, limits
and shapes are the same, and so is every error. Each request stands alone, which both revisions of the protocol allow;
the SDK is imported at the first one, since it takes longer than the rest of a start.
"""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from staffstream.api.auth import get_services
from staffstream.api.key_ring import USER_HEADERS
from staffstream.errors import MethodNotAllowed, NotFound, Unauthorized

if TYPE_CHECKING:
    import httpx
    from mcp.server import Server
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

Json = dict[str, Any]
LONGEST_S = 3600.0  # a call's: the run's own limits end it long before
OpenClient = Callable[[Any], "httpx.AsyncClient"]
"""Makes the client of our API for a request of the protocol, which is None on stdio."""

_STAFF = {"type": "string", "description": "A staff member's name, or its id."}


def _describe_tool(name: str, description: str, required: Json, optional: Json | None = None) -> Json:
    properties = {**required, **(optional or {})}
    schema = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return {"name": name, "description": description, "input_schema": schema}


TOOLS = [
    _describe_tool("list_staff", "The staff members that can be asked and remember.", {}),
    _describe_tool(
        "search_memories",
        "What a staff member remembers about the user, best match first.",
        {"staff": _STAFF, "query": {"type": "string"}},
        {"limit": {"type": "integer", "minimum": 1, "maximum": 200}},
    ),
    _describe_tool(
        "remember",
        "Have a staff member remember a fact.",
        {"staff": _STAFF, "text": {"type": "string", "minLength": 1}},
    ),
    _describe_tool(
        "forget", "Have a staff member forget a memory.", {"staff": _STAFF, "memory_id": {"type": "string"}}
    ),
    _describe_tool(
        "ask",
        "Ask a staff member and get the reply. Without conversation_id it is part of the user's default conversation.",
        {"staff": _STAFF, "content": {"type": "string", "minLength": 1}},
        {"conversation_id": {"type": "string"}},
    ),
]


class ToolError(Exception):
    """What a tool answers that could not do its work; the text is ours."""


def make_server(open_client: OpenClient) -> "Server[Any]":
    """An MCP server whose tools call our API."""
    import jsonschema
    import mcp_types as types
    from mcp.server import Server

    schemas = {tool["name"]: tool["input_schema"] for tool in TOOLS}

    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(**tool) for tool in TOOLS])

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        given = params.arguments or {}
        try:
            if params.name not in schemas:
                raise ToolError("There is no such tool.")
            mistake = jsonschema.exceptions.best_match(
                jsonschema.Draft202012Validator(schemas[params.name]).iter_errors(given)
            )
            if mistake:
                raise ToolError(
                    f"{'/'.join(map(str, mistake.path)) or 'The arguments'}: {mistake.validator} is not met."
                )
            async with open_client(context.request) as client:
                value = await _CALLS[params.name](client, given)
        except ToolError as error:
            return types.CallToolResult(content=[types.TextContent(type="text", text=str(error))], is_error=True)
        text = value["text"] if params.name == "ask" else json.dumps(value, ensure_ascii=False)
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], structured_content=value)

    return Server(
        "staffstream",
        version=importlib.metadata.version("staffstream"),
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


# ── the tools ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _request(client: "httpx.AsyncClient", method: str, path: str, **options: Any) -> "httpx.Response":
    """An answer of our API. Raises ToolError with what it says is wrong."""
    import httpx

    try:
        response = await client.request(method, f"/api/v1{path}", **options)
    except httpx.TransportError as error:
        raise ToolError("No server answers at the address that staffstream mcp was given.") from error
    if not response.is_success:
        raise ToolError(str(response.json().get("detail", "The server refused.")))
    return response


async def _find_staff_id(client: "httpx.AsyncClient", name: str) -> str:
    members = (await _request(client, "GET", "/staff")).json()
    found = [member["id"] for member in members if name in (member["id"], member["name"])]
    if len(found) != 1:
        count = "No staff member is" if not found else "Several staff members are"
        raise ToolError(f"{count} called so; list_staff shows their ids.")
    return str(found[0])


async def _list_staff(client: "httpx.AsyncClient", given: Json) -> Json:
    return {"staff": (await _request(client, "GET", "/staff")).json()}


async def _search_memories(client: "httpx.AsyncClient", given: Json) -> Json:
    path = f"/staff/{await _find_staff_id(client, given['staff'])}/memories"
    query = {name: given[name] for name in ("query", "limit") if name in given}
    return {"memories": (await _request(client, "GET", path, params=query)).json()}


async def _remember(client: "httpx.AsyncClient", given: Json) -> Json:
    path = f"/staff/{await _find_staff_id(client, given['staff'])}/memories"
    made: Json = (await _request(client, "POST", path, json={"text": given["text"]})).json()
    return made


async def _forget(client: "httpx.AsyncClient", given: Json) -> Json:
    staff_id = await _find_staff_id(client, given["staff"])
    await _request(client, "DELETE", f"/staff/{staff_id}/memories/{_quote(given['memory_id'])}")
    return {"forgotten": given["memory_id"]}


async def _ask(client: "httpx.AsyncClient", given: Json) -> Json:
    staff_id = await _find_staff_id(client, given["staff"])
    body: Json = {name: given[name] for name in ("content", "conversation_id") if name in given}
    body["multitask_strategy"] = "enqueue"
    response = await _request(client, "POST", f"/staff/{staff_id}/messages/stream", json=body)
    text, end = "", {"type": "error", "detail": "The reply broke off."}
    for line in response.text.split("\n"):
        if line.startswith("data: "):
            event = json.loads(line[6:])
            if event["type"] == "token":
                text += event["content"]
            else:
                end = event
    if end["type"] == "error":
        raise ToolError(end["detail"])
    return {"text": text, "conversation_id": response.headers["x-conversation-id"], "message_id": end["message_id"]}


def _quote(part: str) -> str:
    from urllib.parse import quote

    return quote(part, safe="")


_CALLS = {
    "list_staff": _list_staff,
    "search_memories": _search_memories,
    "remember": _remember,
    "forget": _forget,
    "ask": _ask,
}


# ── over HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────


class McpHost:
    """The protocol's server of one app, which lives from its first request to the app's end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._stop = asyncio.Event()
        self._manager: asyncio.Future[StreamableHTTPSessionManager] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._serve(), name="serve MCP")

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of the protocol."""
        manager = await asyncio.shield(self._manager)
        await manager.handle_request(scope, receive, send)

    async def aclose(self) -> None:
        """End it; what is being answered is cut off."""
        self._stop.set()
        await self._task

    async def _serve(self) -> None:
        manager = await asyncio.to_thread(self._make_manager)
        async with manager.run():
            self._manager.set_result(manager)
            await self._stop.wait()

    def _make_manager(self) -> "StreamableHTTPSessionManager":
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        return StreamableHTTPSessionManager(make_server(self._open_client), json_response=True, stateless=True)

    def _open_client(self, request: Request) -> "httpx.AsyncClient":
        """Calls of this process, as the user of the request."""
        import httpx

        kept = ("host", "authorization", *USER_HEADERS)
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        transport = httpx.ASGITransport(app=self._app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://staffstream", headers=headers, timeout=LONGEST_S)


async def serve_mcp(scope: Scope, receive: Receive, send: Send) -> None:
    """`/mcp`. Raises NotFound where the SDK is not installed, Unauthorized, MethodNotAllowed: there is no stream to
    listen to, and no session to end.
    """
    request = Request(scope)
    if importlib.util.find_spec("mcp") is None:
        raise NotFound("MCP is not installed here; its operator can: pip install 'staffstream[mcp]'.")
    if not await get_services(request).identify(request):
        raise Unauthorized
    if scope["method"] != "POST":
        raise MethodNotAllowed(headers={"Allow": "POST"})
    state = request.app.state
    if getattr(state, "mcp", None) is None:
        state.mcp = McpHost(request.app)
    await state.mcp.handle(scope, receive, send)


class McpEndpoint:
    """The route's ASGI app: a function would be called with a Request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve_mcp(scope, receive, send)


@contextlib.asynccontextmanager
async def closing_mcp(state: Any) -> AsyncIterator[None]:
    """At the block's end, close what the first request of the protocol opened."""
    state.mcp = None
    try:
        yield
    finally:
        host, state.mcp = state.mcp, None
        if host is not None:
            await host.aclose()
