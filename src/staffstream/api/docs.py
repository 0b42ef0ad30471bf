"""/openapi.json, and /docs: the same for reading, as one document with no script and nothing from elsewhere."""

import asyncio
import html
import importlib.metadata
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse

from staffstream.api.endpoints import Endpoint, Endpoints
from staffstream.api.openapi import describe_api

endpoints = Endpoints("docs")

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
:root { color-scheme: light dark }
details { border: 1px solid #8886; border-radius: .4rem; margin: .4rem 0; padding: .4rem .8rem }
code, pre { font: 14px/1.4 ui-monospace, monospace }
pre { overflow-x: auto; background: #8881; padding: .6rem }
b { display: inline-block; min-width: 4.5rem }
td { padding-right: 1rem; vertical-align: top }
"""


@endpoints.get("/openapi.json", access="open", response=dict[str, Any], etag=True)
async def show_openapi(request: Request) -> dict[str, Any]:
    """This description of the API."""
    return await asyncio.to_thread(_describe, request)


@endpoints.get("/docs", access="open", media_type="text/html")
async def show_page(request: Request) -> HTMLResponse:
    """This description of the API, for reading."""
    return HTMLResponse(await asyncio.to_thread(lambda: render_page(_describe(request))))


def _describe(request: Request) -> dict[str, Any]:
    """The description of the app's own endpoints; made once for each prefix that it is mounted at."""
    prefix = request.scope.get("root_path", "")
    state = request.app.state
    known: dict[str, dict[str, Any]] = getattr(state, "openapi", {})
    if prefix not in known:
        version = importlib.metadata.version("staffstream")
        routes = [route for route in request.app.routes if isinstance(route, Endpoint) and route.is_described]
        described = describe_api(routes, prefix=prefix, keyed=not request.app.keyless, version=version)
        state.openapi = known = {prefix: described}
    return known[prefix]


def render_page(document: dict[str, Any]) -> str:
    """The document as HTML."""
    info = document["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{_text(info['title'])} API</title><style>{_STYLE}</style>",
        f"<h1>{_text(info['title'])} {_text(info['version'])}</h1><p>{_text(info['summary'])}",
        " <a href=openapi.json>openapi.json</a></p>",
    ]
    tag = ""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                parts.append(f"<h2>{_text(tag)}</h2>")
            parts.append(_render_operation(method, path, operation))
    parts.append("<h2>webhooks</h2>")
    parts += [_render_operation("post", name, item["post"]) for name, item in document["webhooks"].items()]
    parts.append("<h2>schemas</h2>")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts.append(
            f"<details id='{_text(name)}'><summary><code>{_text(name)}</code></summary>{_render_json(schema)}</details>"
        )
    return "".join(parts)


def _render_operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [
        f"<details><summary><b>{method.upper()}</b><code>{_text(path)}</code> {_text(operation['summary'])}</summary>",
        f"<p>{_text(operation.get('description', ''))}</p>",
    ]
    if parameters := operation.get("parameters"):
        rows = (
            f"<tr><td><code>{_text(item['name'])}</code><td>{_text(item['in'])}<td>{_text(item.get('description', ''))}"
            for item in parameters
        )
        parts.append(f"<table>{''.join(rows)}</table>")
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Takes {_text(media_type)}</p>{_render_json(content['schema'])}")
    for status, response in operation["responses"].items():
        description = response.get("description", "a problem")
        parts.append(f"<p>{_text(status)}: {_text(description)}</p>")
        parts += [_render_json(content["schema"]) for content in response.get("content", {}).values()]
    return "".join([*parts, "</details>"])


def _render_json(value: Any) -> str:
    return f"<pre>{_text(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"


def _text(value: str) -> str:
    return html.escape(value, quote=True)
