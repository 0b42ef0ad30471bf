"""Behind nginx with its default proxy settings: HTTP/1.0 to us, buffering on, and still every token at once."""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.tools.frames import FrameReader
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S
from tests.tools.server import Api, open_api, require_tool, serve_here

pytestmark = pytest.mark.anyio

SAID = "Hello from the provider."

CONFIG = """
daemon off;
master_process off;
pid {place}/nginx.pid;
error_log {place}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass {upstream}; }}
    }}
}}
"""


@contextlib.asynccontextmanager
async def _run_nginx(place: Path, upstream: str) -> AsyncIterator[str]:
    """The address of an nginx in front of `upstream`, with nothing set but what it must be told."""
    nginx = require_tool("nginx", "apt-get install nginx-light")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = place / "nginx.conf"
    config.write_text(CONFIG.format(place=place, port=port, upstream=upstream))
    with (place / "output").open("wb") as output:
        process = subprocess.Popen([nginx, "-p", place, "-c", config, "-e", place / "error.log"], stderr=output)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not await _listens(port):
                assert process.poll() is None, (place / "output").read_text() + (place / "error.log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, DEADLINE_S)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        await asyncio.sleep(0.01)
        return False
    writer.close()
    await writer.wait_closed()
    return True


@pytest.fixture
async def front(api: Api, tmp_path: Path) -> AsyncIterator[Api]:
    """The same server, by way of nginx."""
    place = tmp_path / "nginx"
    place.mkdir()
    async with _run_nginx(place, api.url) as url, open_api(url) as front:
        yield front


async def test_no_token_is_held_back(front: Api, ada: str, provider: ScriptedProvider) -> None:
    """Each is with the client before Claude has said more: X-Accel-Buffering does it, nginx's own setting does not."""
    gate = provider.hold(["one", " two", " three"])
    async with front.stream(ada, "Count") as stream_reader:
        for token in ("one", " two", " three"):
            gate.release(1)
            assert await stream_reader.token() == token
        gate.open()
        received = await stream_reader.rest()
    assert received.end["type"] == "done"
    assert received.headers["content-type"] == "text/event-stream"
    assert received.headers["x-run-id"] == received.end["message_id"]


async def test_a_join_is_not_held_back_either(front: Api, api: Api, ada: str, provider: ScriptedProvider) -> None:
    """What was said, and then what comes."""
    gate = provider.hold(["one", " two", " three"])
    async with api.stream(ada, "Count") as first:
        gate.release(1)
        await first.until("one")
        async with front.join(ada, first.run_id) as second:
            await second.until("one")
            gate.release(1)
            await second.until("one two")
            gate.open()
            await second.rest()
        await first.rest()
    assert second.received.text == first.received.text


async def test_silence_is_filled_through_it(tmp_path: Path, db: Path, provider: ScriptedProvider) -> None:
    """Pings come through before anything has been said."""
    async with (
        serve_here(db, provider, heartbeat_s=0.05) as api,
        _run_nginx(tmp_path, api.url) as url,
        open_api(url) as front,
    ):
        ada = await api.make_staff()
        gate = provider.hold(["one"])
        async with front.stream(ada, "Hi") as stream_reader:
            assert [getattr(await stream_reader.next(), "comment", None) for _ in range(3)] == ["ping"] * 3
            gate.open()
            await stream_reader.rest()


async def test_a_client_that_leaves_is_noticed(front: Api, api: Api, ada: str, provider: ScriptedProvider) -> None:
    """nginx hangs up on us, nobody is written to any more, and the reply is finished and saved."""
    gate = provider.hold(["one", " two"])
    async with front.stream(ada, "Hi") as stream_reader:
        gate.release(1)
        await stream_reader.until("one")
        log = api.app.state.services.pipeline.active_runs.by_id[stream_reader.run_id].log
        assert log.subscriber_count == 1
    async with asyncio.timeout(DEADLINE_S):
        while log.subscriber_count:
            await asyncio.sleep(0.01)
    gate.open()
    run = await api.ended_run(ada, stream_reader.run_id)
    assert run["state"] == "done"
    assert (await api.said(ada))[-1] == "one two"


async def test_the_rest_of_the_surface_passes_unchanged(front: Api, ada: str) -> None:
    """Problems, pages, a long message, the asynchronous mode."""
    assert (await front.ask("nobody", "Hi")).problem["code"] == "not_found"
    await front.patch(f"/staff/{ada}", {"context_budget_tokens": 1_000_000})
    long = "Wörter und 日本語. " * 20_000
    assert (await front.ask(ada, long)).text == SAID
    sent = await front.send(ada, "Hi")
    assert (await front.ended_run(ada, sent["run_id"]))["state"] == "done"
    assert await front.said(ada) == [long, SAID, "Hi", SAID]
    assert (await front.cancel(ada, sent["run_id"]))["state"] == "done"


async def test_http_1_0_is_spoken_without_chunks(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """As nginx speaks it to us: no chunks, no keep-alive promised, the end of the stream is the connection's."""
    gate = provider.hold(["one", " two"])
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"content":"Hi"}'
    headers = f"Host: {host}:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(f"POST /api/v1/staff/{ada}/messages/stream HTTP/1.0\r\n{headers}".encode() + body)
    async with asyncio.timeout(DEADLINE_S):
        gate.release(1)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        frames = FrameReader()
        received = frames.feed(await reader.readuntil(b"\n\n"))
        gate.open()
        received += frames.feed(await reader.read())
    frames.end()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith("http/1.1 200")
    assert "transfer-encoding" not in answer
    assert "keep-alive" not in answer
    assert [frame.data.get("content") for frame in received] == ["one", " two", None]
    assert frames.ended


async def test_who_lost_the_connection_joins_again_through_it(front: Api, ada: str, provider: ScriptedProvider) -> None:
    """With the cursor of the last frame that came."""
    gate = provider.hold(["one", " two"])
    async with front.stream(ada, "Hi") as stream_reader:
        gate.release(1)
        await stream_reader.until("one")
    gate.open()
    received = await front.rejoin(ada, stream_reader.run_id, last_event_id=stream_reader.received.frames[-1].id)
    assert received.text == " two"
    assert received.end["type"] == "done"
