"""The chat page, as it was built: one document, and assets whose names change with their content."""

import importlib.resources
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from staffstream.api.endpoints import Endpoints

endpoints = Endpoints("chat_page")

# Stricter than what other documents get: the page has nothing inline, and makes no markup from text.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_PAGE = Path(str(importlib.resources.files("staffstream").joinpath("page")))


class Assets(StaticFiles):
    """Files that a browser may keep for ever: another content has another name."""

    def __init__(self) -> None:
        super().__init__(directory=_PAGE / "assets", check_dir=False)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file. Raises HTTPException for an unknown one."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


@endpoints.get("/", access="open", media_type="text/html")
async def show(request: Request) -> Response:
    """The document; asked for anew each time, since it names the assets."""
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": _POLICY}
    return FileResponse(_PAGE / "index.html", headers=headers)


@endpoints.get("/icon.svg", access="open", media_type="image/svg+xml")
async def show_icon(request: Request) -> Response:
    """The icon."""
    return FileResponse(_PAGE / "icon.svg", headers={"Cache-Control": "no-cache"})
