"""The command line as its user meets it: as a program, and where it matters in a terminal."""

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from staffstream import __version__
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_cases import CASES
from tests.tools.provider_script import DEADLINE_S, Gate, Reply
from tests.tools.server import Api, make_environment, start_server
from tests.tools.waiting import until

pytestmark = pytest.mark.anyio

SAID = "Hello from the provider."


async def _run(
    *arguments: str, cwd: Path, variables: Mapping[str, str] | None = None, typed: str = ""
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command with nothing in its environment but this."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME", "LANG") if name in os.environ}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "staffstream", *arguments],
        env=kept | dict(variables or {}),
        cwd=cwd,
        input=typed,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    return done.returncode, done.stdout, done.stderr


# ── serve ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("flags", "variables", "words"),
    [
        ((), {}, "There is no ANTHROPIC_API_KEY. Set it, or start with --offline"),
        (("--offline", "--port", "99999"), {}, "STAFFSTREAM_PORT"),
        (("--offline",), {"STAFFSTREAM_RUN_TIMEOUT_S": "soon"}, "STAFFSTREAM_RUN_TIMEOUT_S"),
        (("--offline", "--db", "no/such/place.db"), {}, "does not exist"),
        (("--offline", "--db", "notes.txt"), {}, "notes.txt is no database"),
        (("--offline", "--host", "0.0.0.0", "--auth", "off"), {}, "loopback"),
        ((), {"ANTHROPIC_API_KEY": "sk-ant-se\ncret"}, "ANTHROPIC_API_KEY"),
    ],
)
async def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, flags: tuple[str, ...], variables: dict[str, str], words: str
) -> None:
    """In words on stderr, with status 2; no traceback, no key."""
    (tmp_path / "notes.txt").write_text("Buy milk.\n")
    status, output, errors = await _run("serve", "--port", "0", *flags, cwd=tmp_path, variables=variables)
    assert (status, output) == (2, "")
    assert errors.startswith("staffstream: ")
    assert words in errors
    assert "Traceback" not in errors
    assert "cret" not in errors
    assert (tmp_path / "notes.txt").read_text() == "Buy milk.\n"


async def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    """Which port, and how to take another; the database is not touched."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, errors = await _run("serve", "--offline", "--port", str(port), cwd=tmp_path)
    assert status == 2
    assert f"Cannot listen on 127.0.0.1:{port}" in errors
    assert "--port" in errors
    assert list(tmp_path.iterdir()) == []


async def test_serve_needs_nothing_but_the_key(db: Path, provider: ScriptedProvider) -> None:
    """`serve --port N --db PATH`: the banner names address and file, and the key is nowhere."""
    async with start_server(db, provider, "--port", "0", "--db", str(db)) as server:
        ada = await server.api.make_staff()
        assert (await server.api.ask(ada, "Hi")).text == SAID
        assert await server.stop() == 0
    assert "sk-ant-test" not in server.log
    assert "Traceback" not in server.log


async def test_the_first_steps_lead_to_a_reply(db: Path) -> None:
    """run.py on a bare machine: a staff member to talk to, and a curl that works as it is printed."""
    environment = {name: value for name, value in make_environment(db).items() if name != "STAFFSTREAM_OFFLINE"}
    process = subprocess.Popen(
        [sys.executable, "-m", "staffstream", "serve", "--first-steps", "--offline-pace-s", "0"],
        env=environment, cwd=db.parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        banner = ""
        while "in the terminal" not in banner:
            line = await asyncio.to_thread(process.stdout.readline)
            assert line, banner
            banner += line
        command = re.search(r"curl .*?'\n", banner, re.DOTALL)
        assert command
        said = await asyncio.to_thread(
            subprocess.run, ["bash", "-c", command[0].replace("curl", "curl -s")], capture_output=True, text=True
        )
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, DEADLINE_S)
        process.stdout.close()
    assert "OFFLINE" in banner
    assert '"type":"token"' in said.stdout
    assert '"type":"done"' in said.stdout


async def test_help_and_version_need_no_setup(tmp_path: Path) -> None:
    """Every setting has its flag in the help, with its variable; keys have none."""
    assert await _run("--version", cwd=tmp_path) == (0, f"{__version__}\n", "")
    status, output, _ = await _run("serve", "--help", cwd=tmp_path, variables={"COLUMNS": "500"})
    assert status == 0
    assert "STAFFSTREAM_STREAM_TIMEOUT_S" in output
    assert "--anthropic-api-key" not in output


# ── staff ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_staff_are_made_and_listed(api: Api, tmp_path: Path) -> None:
    """The new one's id stands alone on the last line, for scripts."""
    status, output, _ = await _run(
        "staff", "create", "Ada", "--role", "guide", "--persona", "Brief.", "--context-budget-tokens", "900",
        "--url", api.url, cwd=tmp_path,
    )  # fmt: skip
    assert status == 0
    (member,) = await api.get("/staff")
    assert output.splitlines()[-1] == member["id"]
    assert (member["name"], member["role"], member["persona"], member["context_budget_tokens"]) == (
        "Ada", "guide", "Brief.", 900,
    )  # fmt: skip
    status, output, _ = await _run("staff", "list", cwd=tmp_path, variables={"STAFFSTREAM_URL": api.url})
    assert (status, output) == (0, f"{member['id']}  Ada  guide\n")


async def test_a_refusal_is_told_in_the_servers_words(api: Api, tmp_path: Path) -> None:
    """On stderr, with status 1."""
    status, output, errors = await _run("staff", "create", " ", "--url", api.url, cwd=tmp_path)
    assert (status, output) == (1, "")
    assert errors == "staffstream: /name: must have something in it besides white space\n"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[", "no-scheme:80"])
async def test_no_server_is_told(tmp_path: Path, url: str) -> None:
    """With the address, and what to do."""
    for command in (["staff", "list"], ["chat", "Ada"]):
        status, _, errors = await _run(*command, "--url", url, cwd=tmp_path)
        assert status == 1
        assert f"no server answers at {url}" in errors
        assert "Traceback" not in errors


async def test_nothing_is_obeyed_by_the_terminal(api: Api, provider: ScriptedProvider, tmp_path: Path) -> None:
    """Control characters in names and replies are shown as what they are not: harmless."""
    await api.make_staff("Eve\x1b[2J")
    provider.script(Reply(["\x1b]0;title\x07", "\x9b31m", "\tfine\n"]))
    _, listed, _ = await _run("staff", "list", "--url", api.url, cwd=tmp_path)
    _, chatted, _ = await _run("chat", "Eve\x1b[2J", "--url", api.url, cwd=tmp_path, typed="Hi\n")
    assert "fine" in chatted
    assert not set(listed + chatted) & {"\x1b", "\x07", "\x9b"}


# ── chat ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_chat_reads_from_a_pipe(api: Api, ada: str, tmp_path: Path) -> None:
    """Line by line to the end, by name or id; empty lines ask nothing."""
    for name in ("Ada", ada):
        status, output, errors = await _run("chat", name, "--url", api.url, cwd=tmp_path, typed="Hi\n\n  \nBye\n")
        assert (status, errors) == (0, "")
        assert output.count(f"Ada> {SAID}\n") == 2
    assert (await api.said(ada))[0::2] == ["Hi", "Bye"] * 2


async def test_chat_wants_one_staff_member(api: Api, tmp_path: Path) -> None:
    """Nobody, and two of a name, are told apart."""
    for name in ("Bo", "Bo", "Ada"):
        await api.make_staff(name)
    for name, words in (("Cy", "no staff member has"), ("Bo", "several staff members have")):
        status, _, errors = await _run("chat", name, "--url", api.url, cwd=tmp_path, typed="Hi\n")
        assert status == 1
        assert words in errors


async def test_chat_shows_a_failure_and_goes_on(api: Api, ada: str, provider: ScriptedProvider, tmp_path: Path) -> None:
    """Before the stream or in it; an unknown conversation too."""
    provider.script(CASES["http_400"].script, CASES["overloaded_mid_stream"].script)
    _, output, errors = await _run("chat", ada, "--url", api.url, cwd=tmp_path, typed="1\n2\n3\n")
    assert errors == "staffstream: Claude refused the request. The server's log says why.\n"
    assert "Ada> One\n[Claude is overloaded. Try again soon.]\n" in output
    assert output.count(SAID) == 1
    _, _, errors = await _run("chat", ada, "--conversation", "x", "--url", api.url, cwd=tmp_path, typed="Hi\n")
    assert errors == "staffstream: There is no conversation with this id.\n"


class Terminal:
    """A command in a terminal of its own: what is typed goes in, what is shown comes out."""

    def __init__(self, process: "subprocess.Popen[bytes]", screen: int) -> None:
        self.process = process
        self.shown = ""
        self._screen = screen
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(screen, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._screen, 65536)
        except OSError:  # the other end is closed
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._screen)
        self.shown += data.decode("utf-8", "replace")
        self._changed.set()

    def type(self, keys: str) -> None:
        """Press these keys."""
        os.write(self._screen, keys.encode())

    async def expect(self, text: str) -> None:
        """Wait until this is shown, after all that was waited for before."""
        async with asyncio.timeout(DEADLINE_S):
            while text not in self.shown:
                self._changed.clear()
                await self._changed.wait()
        self.shown = self.shown.split(text, 1)[1]

    async def expect_reading(self) -> None:
        """Wait until the command waits for keys. CPython's `input` shows the prompt first, and does not see a Ctrl-C
        that comes before it reads.
        """
        await until(lambda: any(_reads_keys(pid) for pid in (self.process.pid, *_list_children(self.process.pid))))

    async def end(self) -> int:
        """The exit status, once the command has ended by itself."""
        return await asyncio.to_thread(self.process.wait, DEADLINE_S)


def _list_children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _reads_keys(pid: int) -> bool:
    """Whether the process is within a system call on file 0."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[1:2] == ["0x0"]


@contextlib.asynccontextmanager
async def _open_terminal(
    *arguments: str, cwd: Path, variables: Mapping[str, str] | None = None
) -> AsyncIterator[Terminal]:
    screen, side = os.openpty()
    # `setsid --ctty` makes it the terminal that Ctrl-C in it interrupts; a shell's background jobs ignore that.
    process = subprocess.Popen(
        ["env", "--default-signal=INT", "setsid", "--ctty", "--wait", sys.executable, "-m", "staffstream", *arguments],
        stdin=side, stdout=side, stderr=side, cwd=cwd, env=os.environ | {"TERM": "dumb"} | dict(variables or {}),
    )  # fmt: skip
    os.close(side)
    terminal = Terminal(process, screen)
    try:
        yield terminal
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
        asyncio.get_running_loop().remove_reader(screen)
        os.close(screen)


async def test_chat_streams_and_ctrl_c_stops_the_reply_only(
    api: Api, ada: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    """Each token is shown before the next is said; Ctrl-C cancels the run, and the conversation goes on."""
    gate = provider.hold(["one", " two", " three"])
    async with _open_terminal("chat", "Ada", "--url", api.url, cwd=tmp_path) as terminal:
        await terminal.expect("you> ")
        terminal.type("Count\n")
        for token in ("one", " two"):
            gate.release(1)
            await terminal.expect(token)
        terminal.type("\x03")
        await terminal.expect("[stopped]")
        await terminal.expect("you> ")
        await provider.left(1)
        reply = (await api.messages(ada))[0]
        assert (reply["content"], reply["status"]) == ("one two", "cancelled")
        terminal.type("Go on\n")
        await terminal.expect(SAID)
        await terminal.expect("you> ")
        terminal.type("\x04")
        assert await terminal.end() == 0


async def test_ctrl_c_before_the_first_token_stops_the_reply_too(
    api: Api, ada: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    """Even before the server has answered."""
    provider.script(Reply(["one"], head_gate=Gate()))
    async with _open_terminal("chat", "Ada", "--url", api.url, cwd=tmp_path) as terminal:
        await terminal.expect("you> ")
        terminal.type("Count\n")
        await provider.arrived(1)
        terminal.type("\x03")
        await terminal.expect("[stopped]")
        await terminal.expect("you> ")
        assert [message["message_type"] for message in await api.messages(ada)] == ["user"]
        terminal.type("\x04")
        assert await terminal.end() == 0


async def test_ctrl_c_at_the_prompt_ends_the_chat(api: Api, ada: str, tmp_path: Path) -> None:
    """At once, and well."""
    async with _open_terminal("chat", "Ada", "--url", api.url, cwd=tmp_path) as terminal:
        await terminal.expect("you> ")
        await terminal.expect_reading()
        terminal.type("\x03")
        assert await terminal.end() == 0


# ── terminals and files that are not UTF-8 ───────────────────────────────────────────────────────────────────────────


NOT_UTF8 = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("variables", NOT_UTF8)
async def test_chat_goes_on_on_a_terminal_that_is_not_utf8(
    api: Api, ada: str, provider: ScriptedProvider, tmp_path: Path, variables: dict[str, str]
) -> None:
    """What such a terminal cannot show is a question mark, and the rest of the reply comes."""
    provider.script(Reply(["Gr\u00fc\u00dfe ", "\u65e5\u672c", " end."]))
    async with _open_terminal("chat", "Ada", "--url", api.url, cwd=tmp_path, variables=variables) as terminal:
        await terminal.expect("you> ")
        terminal.type("Hi\n")
        await terminal.expect("Gr??e ?? end.")
        await terminal.expect("you> ")
    (request,) = provider.chats
    assert request.said.endswith("Hi")


@pytest.mark.parametrize("variables", NOT_UTF8)
async def test_an_export_is_utf8_whatever_the_locale(
    api: Api, provider: ScriptedProvider, db: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    """Through a pipe too: it is whole, with every character."""
    ada = await api.make_staff("J\u00fcrgen \u65e5\u672c")
    await api.ask(ada, "Gr\u00fc\u00dfe")
    command = [sys.executable, "-m", "staffstream", "export", ada, "--db", str(db)]
    done = await asyncio.to_thread(
        subprocess.run, command, env=os.environ | variables, cwd=tmp_path, capture_output=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    assert "J\u00fcrgen \u65e5\u672c" in done.stdout.decode()
    assert "Gr\u00fc\u00dfe" in done.stdout.decode()
    assert SAID in done.stdout.decode()
