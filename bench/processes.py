"""The processes of a bench: started, watched through /proc, stopped."""

import contextlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
START_LIMIT_S = 30.0


@dataclass(frozen=True)
class Process:
    """A running process: `output` is its standard output, `log` the file that takes what it complains about."""

    popen: subprocess.Popen[str]
    log: IO[str]

    def read_line(self) -> str:
        """The next line it prints. Raises RuntimeError with its log when it has ended instead."""
        assert self.popen.stdout is not None
        if line := self.popen.stdout.readline().strip():
            return line
        raise self.describe_end()

    def describe_end(self) -> RuntimeError:
        self.popen.wait(START_LIMIT_S)
        self.log.seek(0)
        return RuntimeError(f"{self.popen.args} ended:\n{self.log.read()}")

    def cpu_s(self) -> float:
        """User and system time of all its threads so far, to 10 ms."""
        fields = self._read("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_mb(self, *, peak: bool = False) -> float:
        """Resident memory now, or the most there has been, in MB of 10^6 bytes."""
        name = "VmHWM:" if peak else "VmRSS:"
        line = next(line for line in self._read("status").splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024 / 1e6

    def _read(self, name: str) -> str:
        return Path(f"/proc/{self.popen.pid}/{name}").read_text()


@dataclass(frozen=True)
class Server:
    """A server that answers at `port` on loopback."""

    process: Process
    port: int


def raise_file_limit() -> None:
    """Let this process open as many sockets as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def run_feeder(
    *, tokens: int, rate: float, stamp: bool = False, characters: int = 5, core: int | None = None
) -> Iterator[str]:
    """The URL of a provider that streams `tokens` tokens of so many characters at `rate` a second to each request."""
    flags = ["--tokens", str(tokens), "--rate", str(rate), *(["--stamp"] if stamp else [])]
    flags += ["--characters", str(characters)]
    with run_python(["-m", "bench.feeder", *flags], core=core) as process:
        yield process.read_line()


@contextlib.contextmanager
def run_ours(
    feeder_url: str | None,
    *flags: str,
    module: str = "staffstream",
    core: int | None = None,
    db: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """`staffstream serve` on this database or a fresh one, asking the feeder (without one: the stand-in)."""
    environ = (name_claude(feeder_url) if feeder_url else {"STAFFSTREAM_OFFLINE": "true"}) | dict(environ or {})
    with make_folder() as folder:
        command = ["-m", module, "serve", "--port", "0", "--db", str(db or folder / "bench.db"), *flags]
        with run_python(command, environ, core=core) as process:
            yield Server(process, int(process.read_line().split(",")[0].rpartition(":")[2]))


@contextlib.contextmanager
def run_peer(module: str, feeder_url: str) -> Iterator[Server]:
    """An app under uvicorn, as its own command line starts it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["-m", "uvicorn", f"bench.peers.{module}:app", "--port", str(port), "--log-level", "warning"]
    with run_python(command, name_claude(feeder_url)) as process:
        _wait_for_port(port, process)
        yield Server(process, port)


def name_claude(url: str) -> dict[str, str]:
    """The SDK's own variables, for a provider at this address."""
    return {"ANTHROPIC_API_KEY": "bench", "ANTHROPIC_BASE_URL": url}


@contextlib.contextmanager
def make_folder() -> Iterator[Path]:
    """A folder for a database, on the disk that the temporary files are on."""
    folder = Path(tempfile.mkdtemp(prefix="staffstream-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def run_python(
    arguments: Sequence[str], environ: Mapping[str, str] | None = None, *, core: int | None = None
) -> Iterator[Process]:
    """A Python process, on one core if `core` names it, that is stopped at the block's end."""
    command = [*(["taskset", "-c", str(core)] if core is not None else []), sys.executable, *arguments]
    ours = ("STAFFSTREAM_", "ANTHROPIC_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, cwd=ROOT, env=inherited | dict(environ or {}), stdout=subprocess.PIPE, stderr=log, text=True
        ) as popen,
    ):
        try:
            yield Process(popen, log)
        finally:
            popen.terminate()
            try:
                popen.wait(START_LIMIT_S)
            except subprocess.TimeoutExpired:
                popen.kill()
                raise


def _wait_for_port(port: int, process: Process) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while process.popen.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise process.describe_end()
