"""The guide's own flow, as the guide has it: tests/guide/ holds its examples as they stand, and they are run.

Where an example shows tokens as they come, the provider holds each token back until the one before it has been shown.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import CASES
from tests.tools.provider_script import DEADLINE_S, Gate, http_error
from tests.tools.server import Api, leave_out, require_tool, start_server

pytestmark = pytest.mark.anyio

GUIDE = Path(__file__).parents[1] / "guide"
NODE = Path(__file__).parents[1] / "node"
PIECES = ["Hello", " there", ", Kim", " 👩‍👩‍👧", "\u2028!"]
QUESTION = "Hello, can you help me with this project?"


def _point_at(api: Api, code: str) -> str:
    """The example with the address of this server; nothing else of it is changed."""
    assert "http://localhost:8001" in code
    return code.replace("http://localhost:8001", api.url.replace("127.0.0.1", "localhost"))


def _require_packages() -> None:
    require_tool("node", "apt-get install nodejs")
    if not (NODE / "node_modules").is_dir():
        leave_out("the node packages are missing; get them with: npm ci --prefix tests/node")


@contextlib.asynccontextmanager
async def _run(*command: str) -> AsyncIterator[asyncio.StreamReader]:
    """A program's output while it runs; it must end by itself, and well, and say nothing on stderr."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield process.stdout
            errors = await process.stderr.read()
            assert await process.wait() == 0, errors.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _read_json(output: asyncio.StreamReader) -> list[Any]:
    """The next line that a node script tells."""
    line = await output.readline()
    assert line, "the script said nothing more"
    value: list[Any] = json.loads(line)
    return value


def _hold(provider: ScriptedProvider) -> Gate:
    return provider.hold(PIECES)


# ── curl ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_curl_shows_each_token_as_it_comes(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """The guide's command line, with an id in place of {staff_id}."""
    require_tool("curl", "apt-get install curl")
    gate = _hold(provider)
    command = _point_at(api, (GUIDE / "stream.sh").read_text("utf-8")).replace("{staff_id}", ada)
    async with _run("bash", "-c", command.replace("curl ", "curl -s ", 1)) as output:
        for number, piece in enumerate(PIECES):
            gate.release(1)
            cursor = len("".join(PIECES[: number + 1]))
            lines = [(await output.readline()).decode() for _ in range(3)]
            assert lines[0].rpartition(":")[2] == f"{cursor}\n"
            assert json.loads(lines[1].removeprefix("data: ")) == {"type": "token", "content": piece}
            assert lines[2] == "\n"
        gate.open()
        end = json.loads((await output.readline()).decode().removeprefix("data: "))
        assert await output.read() == b"\n"
    assert end["type"] == "done"
    assert (await api.messages(ada))[0]["id"] == end["message_id"]
    assert await api.said(ada) == [QUESTION, "".join(PIECES)]


async def test_curl_shows_the_headers_of_the_guide(api: Api, ada: str) -> None:
    """All four of them, once each."""
    require_tool("curl", "apt-get install curl")
    url = f"{api.url}/api/v1/staff/{ada}/messages/stream"
    async with _run(
        "curl", "-si", "-X", "POST", url, "-d", '{"content": "Hi"}', "-H", "Content-Type: application/json"
    ) as output:
        head = (await output.readuntil(b"\r\n\r\n")).decode().lower()
        await output.read()
    for header in (
        "content-type: text/event-stream",
        "cache-control: no-cache",
        "connection: keep-alive",
        "x-accel-buffering: no",
    ):
        assert head.count(header) == 1, head


# ── Python ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _load_function(api: Api) -> Any:
    names: dict[str, Any] = {}
    exec(_point_at(api, (GUIDE / "stream.py").read_text("utf-8")), names)
    return names["send_streaming_message"]


async def test_the_python_function_prints_each_token_as_it_comes(
    api: Api, ada: str, provider: ScriptedProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    """And then the id of the saved message."""
    gate = _hold(provider)
    sending = asyncio.create_task(_load_function(api)(ada, QUESTION))
    printed = ""
    for number in range(len(PIECES)):
        gate.release(1)
        while printed != "".join(PIECES[: number + 1]):
            assert not sending.done()
            await asyncio.sleep(0)
            printed += capsys.readouterr().out
    gate.open()
    await sending
    saved = (await api.messages(ada))[0]
    assert capsys.readouterr().out == f"\n\nMessage saved: {saved['id']}\n"
    assert saved["content"] == "".join(PIECES)


async def test_the_python_function_prints_an_error(
    api: Api, ada: str, provider: ScriptedProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the stream."""
    provider.script(CASES["overloaded_mid_stream"].script)
    await _load_function(api)(ada, QUESTION)
    assert capsys.readouterr().out == "One\nError: Claude is overloaded. Try again soon.\n"


def test_a_plain_reader_of_lines_sees_the_same(tmp_path: Path) -> None:
    """httpx without asyncio, line by line, with the stand-in behind a server of its own."""

    async def listen() -> tuple[str, list[str]]:
        async with start_server(tmp_path / "test.db", variables={"STAFFSTREAM_OFFLINE_PACE_S": "0"}) as server:
            ada = await server.api.make_staff()
            return await asyncio.to_thread(_read_lines, server.url, ada), await server.api.said(ada)

    received, said = asyncio.run(listen())
    assert said == [QUESTION, received]
    assert received


def _read_lines(url: str, staff_id: str) -> str:
    received = ""
    address = f"{url}/api/v1/staff/{staff_id}/messages/stream"
    with httpx.stream("POST", address, json={"content": QUESTION}, timeout=60, trust_env=False) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                received += json.loads(line[6:]).get("content", "")
    return received


# ── TypeScript ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_typescript_function_shows_each_token_as_it_comes(
    api: Api, ada: str, provider: ScriptedProvider
) -> None:
    """In node, with its own fetch and the guide's line splitter."""
    _require_packages()
    gate = _hold(provider)
    async with _run("node", str(NODE / "guide.mjs"), str(GUIDE / "stream.ts"), api.url, ada, QUESTION) as output:
        for piece in PIECES:
            gate.release(1)
            assert await _read_json(output) == ["token", piece]
        gate.open()
        what, message_id = await _read_json(output)
        assert await output.read() == b""
    assert (what, message_id) == ("saved", (await api.messages(ada))[0]["id"])
    assert await api.said(ada) == [QUESTION, "".join(PIECES)]


async def test_the_typescript_function_shows_an_error(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Of the stream, after what had been said."""
    _require_packages()
    provider.script(CASES["close_mid_stream"].script)
    async with _run("node", str(NODE / "guide.mjs"), str(GUIDE / "stream.ts"), api.url, ada, QUESTION) as output:
        told = [json.loads(line) async for line in output]
    assert told == [["token", "One"], ["token", " two"], ["error", "The connection to Claude broke. Try again."]]


async def test_the_polling_snippet_gets_the_reply(api: Api, ada: str) -> None:
    """It sends no content type, looks at the first of the list, and knows a reply by its message_type."""
    _require_packages()
    async with _run("node", str(NODE / "guide.mjs"), str(GUIDE / "poll.ts"), api.url, ada, QUESTION) as output:
        assert await _read_json(output) == ["message", "Hello from the provider."]


# ── readers of event streams that others wrote ───────────────────────────────────────────────────────────────────────

READERS = ["eventsource", "eventsource-parser"]


@pytest.mark.parametrize("reader", READERS)
async def test_a_join_is_read_by(api: Api, ada: str, provider: ScriptedProvider, reader: str) -> None:
    """Everything said before and after joining, once, with ids that grow, and one end."""
    _require_packages()
    gate = _hold(provider)
    async with api.stream(ada, QUESTION) as stream_reader:
        gate.release(2)
        await stream_reader.until("".join(PIECES[:2]))
        url = f"{api.url}/api/v1/staff/{ada}/runs/{stream_reader.run_id}/stream"
        async with _run("node", str(NODE / "join.mjs"), reader, url) as output:
            received = [await _read_json(output)]
            gate.open()
            received += [json.loads(line) async for line in output]
        await stream_reader.rest()
    assert "".join(event.get("content", "") for _, event in received) == "".join(PIECES)
    cursors = [int(event_id.rpartition(":")[2]) for event_id, event in received if event["type"] == "token"]
    assert cursors == sorted(set(cursors))
    assert [event["type"] for _, event in received].count("done") == 1


@pytest.mark.parametrize("query", ["", "?after=0"])
async def test_an_eventsource_that_lost_its_connection_goes_on_where_it_was(
    api: Api, ada: str, provider: ScriptedProvider, query: str
) -> None:
    """It joins again by itself, with the last id it saw and its first URL: no gap and no repeat."""
    _require_packages()
    gate = _hold(provider)
    async with api.stream(ada, QUESTION) as stream_reader, _cut_once(api, after=b'" there"') as proxy:
        gate.release(2)
        await stream_reader.until("".join(PIECES[:2]))
        url = f"{proxy}/api/v1/staff/{ada}/runs/{stream_reader.run_id}/stream{query}"
        async with _run("node", str(NODE / "join.mjs"), "eventsource", url) as output:
            received = [await _read_json(output), await _read_json(output)]
            gate.open()
            received += [json.loads(line) async for line in output]
        await stream_reader.rest()
    assert [event.get("content") for _, event in received[:2]] == PIECES[:2]
    assert "".join(event.get("content", "") for _, event in received) == "".join(PIECES)
    assert received[-1][1]["type"] == "done"


@contextlib.asynccontextmanager
async def _cut_once(api: Api, *, after: bytes) -> AsyncIterator[str]:
    """The address of a proxy that cuts its first connection once these bytes have gone through."""
    host, port = api.url.removeprefix("http://").split(":")
    connections = 0

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until: bytes | None) -> None:
        seen = b""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
                seen += data
                if until is not None and until in seen and seen.endswith(b"\n\n\r\n"):
                    break
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        back, forth = await asyncio.open_connection(host, int(port))
        asking = asyncio.create_task(forward(reader, forth, None))
        await forward(back, writer, after if connections == 1 else None)
        await asking

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert connections == 2


# ── what the guide says beside its examples ──────────────────────────────────────────────────────────────────────────


async def test_each_event_is_one_data_line_and_a_blank_line(api: Api, ada: str) -> None:
    """The guide's picture of the stream, with id lines that such a reader skips."""
    response = await api.http.post(f"/staff/{ada}/messages/stream", json={"content": "Hi"})
    lines = response.text.split("\n")
    assert lines[-2:] == ["", ""]
    shown = [line for line in lines if not line.startswith("id: ")]
    assert all(re.fullmatch(r'data: \{"type":"(token|done)".*\}', line) for line in shown[:-1:2])
    assert set(shown[1::2]) == {""}


async def test_the_three_cases_that_a_client_must_handle(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """Not found and a failure before the stream are statuses with JSON; a failure within it is an event."""
    missing = await api.ask("00000000-0000-0000-0000-000000000000", "Hi")
    assert (missing.status, missing.problem["code"]) == (404, "not_found")
    provider.script(http_error(401, "authentication_error"))
    refused = await api.ask(ada, "Hi")
    assert refused.status >= 500
    assert isinstance(refused.problem["detail"], str)
    provider.script(CASES["reset_mid_stream"].script)
    broken = await api.ask(ada, "Hi")
    assert broken.status == 200
    assert broken.end["type"] == "error"
    assert isinstance(broken.end["detail"], str)
