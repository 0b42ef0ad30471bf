"""What docs/DEPLOYING.md and the files beside it say, as far as it can be done here."""

import asyncio
import configparser
import contextlib
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from staffstream.cli.main import make_parser
from staffstream.settings import Settings, name_variable, read_settings
from staffstream.storage.keys import list_keys
from tests.tools.databases import connect, prepare
from tests.tools.provider import ScriptedProvider
from tests.tools.provider_script import DEADLINE_S
from tests.tools.server import make_environment, make_keys, open_api, require_tool, serve_here

pytestmark = pytest.mark.anyio

DOCS = Path(__file__).parents[1] / "docs"
DEPLOY = DOCS / "deploy"
INSTALLED = "/opt/staffstream/bin/staffstream"
STAFFSTREAM = [sys.executable, "-m", "staffstream"]


def read_unit(name: str) -> dict[str, list[str]]:
    """{name: values} of all directives of a unit file."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / name).read_text("utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def read_unit_environment(name: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for line in read_unit(name)["Environment"] for pair in shlex.split(line))


def take_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.asynccontextmanager
async def run_server(
    command: list[str], environment: dict[str, str], port: int
) -> AsyncIterator[subprocess.Popen[str]]:
    """A server process that answers on the port."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient(trust_env=False) as client:
            while True:
                assert process.poll() is None, process.communicate()
                with contextlib.suppress(httpx.TransportError):
                    await client.get(f"http://127.0.0.1:{port}/healthz")
                    break
                await asyncio.sleep(0.05)
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.communicate)


# ── systemd ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_units_are_sound(tmp_path: Path) -> None:
    """As systemd itself sees them, with the programs they name."""
    analyze = require_tool("systemd-analyze", "apt-get install systemd")
    for unit in DEPLOY.glob("staffstream*.*"):
        (tmp_path / unit.name).write_text(unit.read_text("utf-8").replace(INSTALLED, sys.executable))
    units = [str(path) for path in tmp_path.iterdir()]
    checked = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, timeout=60, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


async def test_the_service_starts_serves_and_stops(db: Path, provider: ScriptedProvider) -> None:
    """Its ExecStart with its environment: it asks for keys, and ends well when it is told to."""
    (command,) = read_unit("staffstream.service")["ExecStart"]
    port = take_port()
    variables = read_unit_environment("staffstream.service") | {
        "STAFFSTREAM_DB": str(db),
        "STAFFSTREAM_PORT": str(port),
    }
    ada = make_keys(db, ada="admin")["ada"]
    arguments = shlex.split(command)
    assert arguments[0] == INSTALLED
    async with run_server([*STAFFSTREAM, *arguments[1:]], make_environment(db, provider, **variables), port) as process:
        async with open_api(f"http://127.0.0.1:{port}") as api:
            await api.get("/staff", 401)
            api.http.headers.update(ada)
            received = await api.ask(await api.make_staff(), "hello")
            assert received.end["type"] == "done"
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.to_thread(process.communicate, timeout=DEADLINE_S)
    assert process.returncode == 0
    assert any(json.loads(line)["message"] == "reply ended" for line in log.splitlines() if line.startswith("{"))


def test_a_wrong_setting_is_not_tried_again(db: Path) -> None:
    """Its status is the one that the unit does not restart for."""
    (status,) = read_unit("staffstream.service")["RestartPreventExitStatus"]
    environment = make_environment(db) | {"STAFFSTREAM_PORT": "many"}
    ended = subprocess.run([*STAFFSTREAM, "serve"], env=environment, capture_output=True, timeout=60, check=False)
    assert ended.returncode == int(status)


def test_the_unit_waits_for_running_replies() -> None:
    """Longer than the server gives them."""
    (timeout_s,) = read_unit("staffstream.service")["TimeoutStopSec"]
    assert float(timeout_s) > Settings().shutdown_grace_s + 5


def test_the_nightly_backup_makes_one(db: Path, tmp_path: Path) -> None:
    """Its ExecStart, with the places put elsewhere."""
    prepare(db)
    (command,) = read_unit("staffstream-backup.service")["ExecStart"]
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    arguments = [
        {"/var/backups/staffstream": str(shelf), "/var/lib/staffstream/staffstream.db": str(db)}.get(word, word)
        for word in shlex.split(command)[1:]
    ]
    assert str(shelf) in arguments
    assert str(db) in arguments
    done = subprocess.run([*STAFFSTREAM, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(shelf.iterdir())) == 1
    timer = configparser.ConfigParser(strict=False)
    timer.read(DEPLOY / "staffstream-backup.timer")
    assert timer["Timer"]["OnCalendar"]


# ── Docker ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_dockerfile() -> dict[str, list[str]]:
    """{instruction: arguments} of the last stage, continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found = {}
        if word.isupper():
            found.setdefault(word, []).append(rest.strip())
    return found


@pytest.fixture
def image(db: Path) -> dict[str, str]:
    """The image's variables, with its directory and port put elsewhere."""
    variables = dict(pair.split("=", 1) for line in read_dockerfile()["ENV"] for pair in shlex.split(line))
    assert variables["STAFFSTREAM_DB"] == "/data/staffstream.db"
    return variables | {"STAFFSTREAM_DB": str(db), "STAFFSTREAM_PORT": str(take_port())}


async def test_the_image_refuses_to_stand_open(image: dict[str, str], db: Path, provider: ScriptedProvider) -> None:
    """Without a key its command says how to make one."""
    command = [*STAFFSTREAM, *json.loads(read_dockerfile()["CMD"][0])]
    environment = make_environment(db, provider, **image)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "staffstream keys create NAME" in ended.stderr


async def test_the_image_serves_and_knows_its_health(
    image: dict[str, str], db: Path, provider: ScriptedProvider
) -> None:
    """The first key, the command and the health check as they stand; the check fails once the server is gone."""
    dockerfile = read_dockerfile()
    assert json.loads(dockerfile["ENTRYPOINT"][0]) == ["staffstream"]
    assert dockerfile["USER"] == ["staffstream"]
    environment, port = make_environment(db, provider, **image), int(image["STAFFSTREAM_PORT"])
    made = subprocess.run(
        [*STAFFSTREAM, "keys", "create", "me"], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    key = made.stdout.splitlines()[-1]
    check = json.loads(dockerfile["HEALTHCHECK"][0].partition("CMD ")[2])
    assert check[0] == "python"
    check = [sys.executable, *(word.replace("8001", str(port)) for word in check[1:])]
    async with run_server([*STAFFSTREAM, *json.loads(dockerfile["CMD"][0])], environment, port) as process:
        async with open_api(f"http://127.0.0.1:{port}") as api:
            api.http.headers["Authorization"] = f"Bearer {key}"
            await api.make_staff()
        assert (await asyncio.to_thread(subprocess.run, check, timeout=60, check=False)).returncode == 0
        process.send_signal(getattr(signal, dockerfile["STOPSIGNAL"][0]))
        assert await asyncio.to_thread(process.wait, DEADLINE_S) == 0
    gone = await asyncio.to_thread(subprocess.run, check, timeout=60, check=False, stderr=subprocess.DEVNULL)
    assert gone.returncode != 0


# ── proxies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def run_nginx(folder: Path, upstream: str) -> AsyncIterator[str]:
    """nginx with our file, without TLS and on ports of its own; gives its URL."""
    nginx = require_tool("nginx", "apt-get install nginx-light")
    port, plain = take_port(), take_port()
    text = (DEPLOY / "nginx.conf").read_text("utf-8")
    text = re.sub(r"ssl_certificate\w* [^;]+;", "", text)
    text = text.replace("listen 443 ssl http2;", f"listen 127.0.0.1:{port};")
    text = text.replace("listen 80;", f"listen 127.0.0.1:{plain};").replace("127.0.0.1:8001", upstream)
    places = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off; {places}\n{text}\n}}"
    )
    checked = subprocess.run([nginx, "-t", "-c", main], capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen([nginx, "-c", main], stderr=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    await writer.wait_closed()
                    break
                await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


async def test_behind_nginx_tokens_come_as_they_are_said(db: Path, tmp_path: Path, provider: ScriptedProvider) -> None:
    """Each is there before the next one is let out; the outer name, imports and the request's id get through, and
    metrics do not get out.
    """
    ada = make_keys(db, ada="admin")["ada"]
    async with serve_here(db, provider, auth="keys") as inner:
        async with run_nginx(tmp_path, inner.url.removeprefix("http://")) as url, open_api(url) as api:
            api.http.headers.update(ada | {"Host": "chat.example.com"})
            staff = await api.make_staff()
            gate = provider.hold(["one", " two", " three"])
            async with api.stream(staff, "hello") as stream_reader:
                for token in ("one", " two", " three"):
                    gate.release()
                    assert await stream_reader.token() == token
                gate.open()
                assert (await stream_reader.rest()).end["type"] == "done"
            assert re.fullmatch(r"[0-9a-f]{32}", stream_reader.received.headers["x-request-id"])
            past = [{"message_type": "user", "content": "x" * 50_000, "created_at": "2026-01-01T00:00:00Z"}] * 100
            await api.post(f"/staff/{staff}/conversations", {"messages": past}, 201)
            assert (await api.http.get(f"{url}/metrics")).status_code == 403


def test_the_caddyfile_is_sound(tmp_path: Path) -> None:
    """As Caddy itself sees it."""
    caddy = require_tool("caddy", "apt-get install caddy")
    command = [caddy, "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")]
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    checked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr


@contextlib.asynccontextmanager
async def run_caddy(folder: Path, upstream: str) -> AsyncIterator[str]:
    """Caddy with our file, without TLS and on a port of its own; gives its URL."""
    caddy, port = require_tool("caddy", "apt-get install caddy"), take_port()
    text = (DEPLOY / "Caddyfile").read_text("utf-8")
    text = text.replace("chat.example.com", f"http://127.0.0.1:{port}").replace("127.0.0.1:8001", upstream)
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + text)
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    async with run_server([caddy, "run", "--config", str(folder / "Caddyfile")], environment, port):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("run_proxy", [run_nginx, run_caddy])
async def test_no_upgrade_gets_through_a_proxy(
    tmp_path: Path, run_proxy: Callable[[Path, str], contextlib.AbstractAsyncContextManager[str]]
) -> None:
    """`Upgrade: h2c`: what follows an upgrade on the same connection is seen by none of the proxy's rules."""
    heads: list[bytes] = []

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).lower())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(record, "127.0.0.1", 0) as upstream:
        port = upstream.sockets[0].getsockname()[1]
        async with run_proxy(tmp_path, f"127.0.0.1:{port}") as url, httpx.AsyncClient(trust_env=False) as client:
            upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
            answer = await client.get(f"{url}/healthz", headers=upgrade)
    assert answer.status_code == 200
    assert heads
    assert not any(b"upgrade" in head for head in heads)


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def list_commands() -> Iterator[list[str]]:
    """Every `staffstream …` in the page's code, as arguments."""
    text = (DOCS / "DEPLOYING.md").read_text("utf-8")
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.search(r"(?:bin/|^|-v staffstream:/data )staffstream ([a-z]+ [^)]*)", line):
                yield shlex.split(found[1])
    for inline in re.findall(r"`staffstream ([a-z]+[^`]*)`", text):
        yield shlex.split(inline)


def test_the_shell_function_has_the_services_settings(db: Path, tmp_path: Path) -> None:
    """As it stands on the page, but for the places and the change of user: `doctor` sees what the service has."""
    make_keys(db, ada="admin")
    text = (DOCS / "DEPLOYING.md").read_text("utf-8")
    (block,) = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "staffstream() {" in block]
    (tmp_path / "env").write_text("STAFFSTREAM_OFFLINE=true\n")
    for place, here in (
        ("/etc/staffstream.env", str(tmp_path / "env")),
        ("/var/lib/staffstream/staffstream.db", str(db)),
        (f"runuser -u staffstream -- {INSTALLED}", shlex.join(STAFFSTREAM)),
    ):
        assert place in block
        block = block.replace(place, here)
    environment = make_environment(db) | {"STAFFSTREAM_DB": "", "STAFFSTREAM_OFFLINE": ""}
    done = subprocess.run(
        ["bash", "-c", block], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{db} is whole" in done.stdout
    assert "keys: 1 valid" in done.stdout


def test_every_command_on_the_page_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Its arguments are taken by the command line as they stand."""
    commands = list(list_commands())
    assert {command[0] for command in commands} >= {"keys", "doctor", "backup", "restore", "export", "import"}
    for command in commands:
        try:
            make_parser().parse_args(command)
        except SystemExit:
            names = capsys.readouterr().err
            assert "required" in names, f"staffstream {shlex.join(command)}: {names}"


def test_every_setting_on_the_page_is_one() -> None:
    """Names in capitals between backticks are settings, or the variables that the page explains."""
    text = (DOCS / "DEPLOYING.md").read_text("utf-8")
    known = {name_variable(name) for name in Settings.model_fields}
    known |= {name.removeprefix("STAFFSTREAM_") for name in known}
    for named in re.findall(r"`([A-Z][A-Z_]{3,})(?:=\w+)?`", text):
        assert named in known | {"SIGTERM", "OTEL_EXPORTER_OTLP_ENDPOINT"}, named


def test_the_files_name_settings_that_exist(db: Path) -> None:
    """Variables of the unit and of the image are read."""
    for variables in (
        read_unit_environment("staffstream.service"),
        dict(pair.split("=", 1) for line in read_dockerfile()["ENV"] for pair in shlex.split(line)),
    ):
        assert variables.keys() <= {name_variable(name) for name in Settings.model_fields}
        read_settings(variables)


def test_the_first_key_is_an_admins(db: Path) -> None:
    """As the page says of `keys create me`."""
    subprocess.run(
        [*STAFFSTREAM, "keys", "create", "me", "--db", db], check=True, timeout=60, stdout=subprocess.DEVNULL
    )
    with contextlib.closing(connect(db)) as connection:
        (key,) = list_keys(connection)
    assert (key.user_id, key.role) == ("me", "admin")
