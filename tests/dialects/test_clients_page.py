"""docs/CLIENTS.md: each of its examples runs as it stands there, and connects the client that it names."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from tests.dialects.node_client import NODE, require_packages
from tests.tools.provider import ScriptedProvider
from tests.tools.server import Api

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "CLIENTS.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)(?: ([\w-]+))?\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, _, code in BLOCKS if language == "python"]
JAVASCRIPT = {client: code for language, client, code in BLOCKS if language == "js"}
ANSWER = "Hello from the provider."


def point_at(api: Api, staff_id: str, code: str) -> str:
    """The example with this server's address and staff member, and a key that a header can carry."""
    assert "http://127.0.0.1:8001" in code
    code = code.replace("http://127.0.0.1:8001", api.url).replace("{staff_id}", staff_id)
    return code.replace("sst_…", "sst_key")


async def run(*command: str) -> str:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
async def test_its_python(api: Api, ada: str, code: str) -> None:
    """OpenAI's client, LangChain's and MCP's."""
    assert await run(sys.executable, "-c", point_at(api, ada, code)) == ANSWER
    assert "Hello!" in str(await api.get(f"/staff/{ada}/memories"))


@pytest.mark.parametrize("code", JAVASCRIPT.values(), ids=JAVASCRIPT)
async def test_its_javascript(api: Api, ada: str, code: str, tmp_path: Path) -> None:
    """Each client that it names, with the packages of the tests beside it."""
    node = require_packages()
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    example = tmp_path / "example.mjs"
    example.write_text(point_at(api, ada, code), "utf-8")
    assert await run(node, str(example)) == ANSWER
    assert "Hello!" in str(await api.get(f"/staff/{ada}/memories"))


async def test_its_entry_for_hosts_that_start_a_process(api: Api, ada: str, provider: ScriptedProvider) -> None:
    """The command of the JSON, found beside this Python."""
    (code,) = [code for language, _, code in BLOCKS if language == "json"]
    entry = json.loads(point_at(api, ada, code))["mcpServers"]["staffstream"]
    command = str(Path(sys.executable).with_name(entry["command"]))
    async with Client(StdioServerParameters(command=command, args=entry["args"], env={})) as client:
        result = await client.call_tool("ask", {"staff": "Ada", "content": "Hello!"})
    assert result.structured_content["text"] == ANSWER


async def test_its_entry_for_librechat(api: Api, tmp_path: Path) -> None:
    """LibreChat's own code reads it: the schema of librechat-data-provider, which its server starts with."""
    node = require_packages()
    (code,) = [code for language, _, code in BLOCKS if language == "yaml"]
    check = """
      import { readFileSync } from "node:fs"
      import { load } from "js-yaml"
      import { configSchema } from "librechat-data-provider"
      const given = { version: "1.2.1", ...load(readFileSync(process.argv[2], "utf8")) }
      const { endpoints } = configSchema.strict().parse(given)
      console.log(endpoints.custom[0].titleModel)
    """
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    (tmp_path / "check.mjs").write_text(check)
    (tmp_path / "librechat.yaml").write_text(code)
    assert await run(node, str(tmp_path / "check.mjs"), str(tmp_path / "librechat.yaml")) == "Ada:temporary"
