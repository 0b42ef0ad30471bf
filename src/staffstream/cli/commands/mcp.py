"""`staffstream mcp --stdio`: the tools of a running server for MCP hosts that start a process."""

import argparse
import asyncio
import importlib.util
import os
from typing import Any

from staffstream.errors import SetupError


def add_commands(commands: Any) -> None:
    """Add `mcp`."""
    parser = commands.add_parser(
        "mcp", help="offer a running server's staff members to an MCP host, as its child process"
    )
    parser.add_argument("--stdio", action="store_true", help="speak over stdin and stdout, which is all there is")
    parser.add_argument(
        "--url", default=os.environ.get("STAFFSTREAM_URL", "http://127.0.0.1:8001"), help="the server's address"
    )
    parser.add_argument(
        "--key",
        default=os.environ.get("STAFFSTREAM_KEY"),
        help="your key, if the server asks for one; better in STAFFSTREAM_KEY: a flag shows in the process list",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    if not args.stdio:
        raise SetupError("Hosts that speak HTTP use the server's own /mcp; for the others: staffstream mcp --stdio")
    if importlib.util.find_spec("mcp") is None:
        raise SetupError("The MCP SDK is missing: pip install 'staffstream[mcp]'")
    asyncio.run(_serve(args.url.rstrip("/"), args.key))


async def _serve(url: str, key: str | None) -> None:
    import httpx
    from mcp.server.stdio import stdio_server

    from staffstream.api.dialects.mcp import LONGEST_S, make_server

    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def open_client(_: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, headers=headers, timeout=LONGEST_S, trust_env=False)

    server = make_server(open_client)
    async with stdio_server() as (reader, writer):
        await server.run(reader, writer, server.create_initialization_options())
