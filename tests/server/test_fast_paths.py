"""STAFFSTREAM_FAST_PATHS=off: a reply relayed by the documented ways of every library."""

import re
from pathlib import Path

import pytest

from tests.tools.frames import ReadStream
from tests.tools.provider import ScriptedProvider
from tests.tools.server import start_server

pytestmark = pytest.mark.anyio

PIECES = ("Grüße", " 👩‍👩‍👧", "\u2028", " — ", "und so weiter", ".")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


async def test_without_them_a_client_receives_the_same(tmp_path: Path, provider: ScriptedProvider) -> None:
    """Frame by frame, but for the ids."""
    received = {}
    for value in ("on", "off"):
        gate = provider.hold(PIECES)
        variables = {"STAFFSTREAM_FAST_PATHS": value}
        async with start_server(tmp_path / f"{value}.db", provider, variables=variables) as server:
            async with server.api.stream(await server.api.make_staff(), "Hi") as reader:
                for count in range(1, len(PIECES) + 1):
                    gate.release()
                    await reader.until("".join(PIECES[:count]))
                gate.open()
                received[value] = _describe(await reader.rest())
    assert received["on"] == received["off"]
    assert len(received["on"]) == len(PIECES) + 2


def _describe(received: ReadStream) -> list[str]:
    headers = [f"{name}: {value}" for name, value in received.headers.items() if name != "date"]
    return [_ID.sub("ID", str(each)) for each in (sorted(headers), *received.frames)]
