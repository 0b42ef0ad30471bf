"""Our own server on another loop, another transport, or without one of its shortcuts: what each of them is worth.

`python -m bench.peers.variant asyncio,httpx2 serve …`; the first argument lists what is taken away.
"""

import sys

import anthropic

TAKEN_AWAY = {
    "asyncio": "the loop of the standard library instead of uvloop",
    "httpx2": "the SDK's default transport instead of aiohttp's",
    "iterators": "Claude's bytes through httpx2's iterators instead of from aiohttp's reader",
    "send": "frames by Hypercorn's send instead of our own writer",
}


def take_away(name: str) -> None:
    """Make the part unavailable before it is looked for."""
    if name == "asyncio":
        sys.modules["uvloop"] = None  # type: ignore[assignment]  # importing it fails
    elif name == "httpx2":
        anthropic.DefaultAioHttpClient = anthropic.DefaultAsyncHttpxClient
    elif name == "iterators":
        from staffstream.models import anthropic_sdk

        anthropic_sdk.find_reader = lambda response: None
    elif name == "send":
        from staffstream.cli.main import server

        server.offer_writer = lambda scope, send: None
    else:
        raise SystemExit(f"{name} is none of {', '.join(TAKEN_AWAY)}")


if __name__ == "__main__":
    for name in filter(None, sys.argv[1].split(",")):
        take_away(name)
    from staffstream.cli.main import main

    sys.exit(main(sys.argv[2:]))
