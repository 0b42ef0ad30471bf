"""The README's code runs as it stands there: its curl against run.py, its host app, its commands for a server."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.tools.server import open_api, require_tool, serve_asgi_here, start_server

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def _find_code(language: str, words: str) -> str:
    """The one block of the README in this language that has these words."""
    blocks = [
        block for block in re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL) if words in block
    ]
    assert len(blocks) == 1, f"{len(blocks)} blocks have {words!r}"
    return str(blocks[0])


async def test_its_curl_talks_to_the_first_staff_member(db: Path) -> None:
    """run.py with no key: the stand-in answers and says what it is, and a name told is remembered."""
    require_tool("curl", "apt-get install curl")
    flags = ("--db", str(db), "--port", "0", "--offline-pace-s", "0")
    async with start_server(db, None, *flags, command=(str(ROOT / "run.py"),)) as server:
        (member,) = await server.api.get("/staff")
        command = _find_code("sh", "curl -N").replace("{staff_id}", member["id"])
        assert "http://127.0.0.1:8001" in command
        command = command.replace("http://127.0.0.1:8001", server.url).replace("curl -N", "curl -sN")
        said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
        assert '"type":"token"' in said.stdout
        assert '"type":"done"' in said.stdout
        reply = (await server.api.messages(member["id"]))[0]
        assert "offline" in reply["model"]
        assert "Bergen" in (await server.api.ask(member["id"], "Where do I live?")).text


async def test_its_host_app_serves_replies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The FastAPI example, run as a module: a reply under its prefix."""
    code = tmp_path / "host.py"
    code.write_text(_find_code("python", "FastAPI"))
    monkeypatch.chdir(tmp_path)
    host = runpy.run_path(str(code))["app"]
    prefix = re.search(r'mount\("(/\w+)"', code.read_text())
    assert prefix
    async with serve_asgi_here(host) as url, open_api(url + prefix[1]) as api:
        ada = await api.make_staff()
        received = await api.ask(ada, "Hello! My name is Kim.")
        assert received.end["type"] == "done"
        assert len(await api.messages(ada)) == 2


async def test_its_commands_make_a_server_with_keys(tmp_path: Path) -> None:
    """The key is the last line of what is printed; with it calls are answered, and without it they are not."""
    create, serve = _find_code("sh", "keys create").splitlines()
    flags = create.partition("#")[0].split()
    assert flags[0] == "staffstream"
    made = subprocess.run(
        [sys.executable, "-m", *flags], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    key = made.stdout.splitlines()[-1]
    words = serve.split()
    assert words[:2] == ["staffstream", "serve"]
    db = tmp_path / "staffstream.db"
    async with start_server(db, None, *words[2:], "--port", "0") as server:
        port = server.url.rpartition(":")[2]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False) as client:
            assert (await client.get("/staff")).status_code == 401
            headers = {"Authorization": f"Bearer {key}"}
            assert (await client.post("/staff", json={"name": "Ada"}, headers=headers)).status_code == 201
