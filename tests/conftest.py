"""What all tests stand on: a scripted Claude, a server in front of it, and no patience with what is left behind.

A test that leaves a task, a thread, a file, a socket or a logged error behind fails.
"""

import asyncio
import gc
import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from staffstream.models.embeddings import load_static_embedder
from tests.tools import databases
from tests.tools.postgres import run_cluster
from tests.tools.provider import ScriptedProvider
from tests.tools.server import Api, serve_here

LEAVING_S = 3.0
"""How long what is ending may take to end before it counts as left behind."""


SQLITE_ONLY = ("tests/storage/sqlite/", "tests/storage/test_database.py", "tests/server/test_full_disk.py")
"""What speaks of the SQLite file itself; other such tests are marked `sqlite`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", choices=("sqlite", "postgres"), default="sqlite", help="what the databases are on")


@pytest.fixture(scope="session", autouse=True)
def _engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `--engine postgres`, one cluster for the session."""
    if request.config.getoption("--engine") == "sqlite":
        yield
        return
    with run_cluster() as databases.cluster:
        yield
    databases.cluster = None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--engine") == "postgres":
        for item in items:
            if item.nodeid.startswith(SQLITE_ONLY) or item.get_closest_marker("sqlite"):
                item.add_marker(pytest.mark.skip(reason="speaks of SQLite itself"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sqlite: the test speaks of the SQLite file itself")
    config.addinivalue_line("markers", "logs_errors: the test makes the product log an error, and means to")


@pytest.fixture
def anyio_backend() -> str:
    """asyncio alone: its debug and resource warnings are the stricter ones. Server processes run on uvloop."""
    return "asyncio"


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    """Claude, scripted."""
    async with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A place for a database that is not there yet."""
    return tmp_path / "test.db"


@pytest.fixture
async def api(db: Path, provider: ScriptedProvider) -> AsyncIterator[Api]:
    """A server with default settings, and the provider as its Claude."""
    async with serve_here(db, provider) as api:
        yield api


@pytest.fixture
async def ada(api: Api) -> str:
    """The id of a staff member on that server."""
    return await api.make_staff()


load_static_embedder()  # its table stays mapped, an open file, for as long as the process lives


# ── nothing may be left behind ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", autouse=True)
def _no_open_ends() -> Iterator[None]:
    """Threads and open files after a module's tests are those of before them."""
    threads = set(threading.enumerate())
    files = _list_open_files()
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(LEAVING_S)
        assert not thread.is_alive(), f"the tests left {thread} behind"
    if left := _list_open_files() - files:
        gc.collect()  # what is only waiting to be collected warns, and warnings are errors
        assert not (left := left & _list_open_files()), f"the tests left {left} open"


def _list_open_files() -> set[tuple[str, str]]:
    """(number, what it is) of every open file and socket of this process."""
    found = set()
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
        except FileNotFoundError:
            continue  # the directory's own
    return found


@pytest.fixture(autouse=True)
def _no_logged_errors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing is logged as an error, unless the test is marked as meaning it."""
    errors: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = errors.append  # type: ignore[method-assign,assignment]
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)
    if not request.node.get_closest_marker("logs_errors"):
        assert not errors, "logged as errors: " + "; ".join(record.getMessage() for record in errors)


@pytest.fixture(autouse=True)
def _no_left_tasks(_no_logged_errors: None, request: pytest.FixtureRequest) -> None:
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("_tasks_ended")


@pytest.fixture
async def _tasks_ended() -> AsyncIterator[None]:
    """Tasks after the test are those of before it."""
    before = asyncio.all_tasks()
    yield
    if left := {task for task in asyncio.all_tasks() - before if not _is_of_plugin(task)}:
        _, pending = await asyncio.wait(left, timeout=LEAVING_S)
        assert not pending, f"the test left {pending} behind"


def _is_of_plugin(task: asyncio.Task[object]) -> bool:
    """anyio's pytest plugin drives each fixture and test from a task of its own."""
    return "TestRunner" in getattr(task.get_coro(), "__qualname__", "")
