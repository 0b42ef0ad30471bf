"""Serving the app on Hypercorn, with a shutdown of our own.

Hypercorn cuts open streams without a last frame when it stops, and on CPython 3.12 and later does not exit at all
while one is open (hypercorn#308). So SIGTERM and SIGINT first drain the app: no new runs, the running ones get their
grace and end with a terminal frame. Only then Hypercorn is told to stop.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from hypercorn.asyncio import serve as serve_asgi
from hypercorn.config import Config
from starlette.types import ASGIApp, Receive, Scope, Send

from staffstream.app import Staffstream, create_app
from staffstream.cli.chunk_writer import offer_writer
from staffstream.errors import SetupError
from staffstream.settings import Settings
from staffstream.support.traces import export_traces

log = logging.getLogger(__name__)

CLOSING_S = 1.0  # for connections that have nothing more to say
UNSENT_BYTES = 128 * 1024  # of a connection that may wait in the kernel
M_ARENA_MAX = -8  # malloc.h
SETTLED_S = 5.0  # after a start


def serve(settings: Settings, *, on_ready: Callable[[str, Staffstream], Awaitable[None]] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends the grace at once. Raises SetupError.

    `on_ready` is awaited with the server's URL and the app once requests are answered.
    """
    listener = _listen(settings)
    _share_arenas()
    with listener, export_traces():
        _run(_serve(settings, listener, on_ready))


def _share_arenas() -> None:
    """Have glibc keep freed memory in one place for all threads, not in one a thread: 8 of an idle server's 155 MB."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def _settle_memory() -> None:
    """What the start has made stays: the collector need not look through it again, which takes 0.1 s each time and
    holds up every reply. What it has freed goes back to the system.
    """
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """On uvloop where there is one: it makes a relayed token cheaper (bench/relay.py)."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def _listen(settings: Settings) -> socket.socket:
    """The listening socket, made here so that a port in use is one clear line and port 0 can be told."""
    if not settings.on_loopback and not settings.uses_keys:
        raise SetupError(
            f"Without keys the server listens on a loopback address only, and {settings.host} is none."
            " Leave STAFFSTREAM_AUTH unset (or set it to keys) and make a key with: staffstream keys create NAME"
        )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # else the kernel takes in megabytes for a reader that takes none
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        listener.bind((settings.host, settings.port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise SetupError(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}."
            " Name another port with --port or STAFFSTREAM_PORT."
        ) from error
    return listener


async def _serve(
    settings: Settings,
    listener: socket.socket,
    on_ready: Callable[[str, Staffstream], Awaitable[None]] | None,
) -> None:
    app = create_app(settings)
    url = _write_url(listener)
    stop, hurry, drained = asyncio.Event(), asyncio.Event(), asyncio.Event()
    _handle_signals(lambda: hurry.set() if stop.is_set() else stop.set())

    async def wait_for_end() -> None:
        """Hypercorn's shutdown trigger; it is first waited for when requests are answered."""
        if on_ready is not None:
            await on_ready(url, app)
        asyncio.get_running_loop().call_later(SETTLED_S, _settle_memory)
        await stop.wait()
        log.info("shutting down; running replies have %g s", settings.shutdown_grace_s)
        await _first(app.drain(settings.shutdown_grace_s), hurry.wait())
        await app.drain(0)
        drained.set()

    # We enter the lifespan, not Hypercorn, which would bury the reason when it fails.
    async with app.running():
        serving = asyncio.create_task(
            serve_asgi(_prepare_app(app, fast=settings.fast_paths), _configure(listener), shutdown_trigger=wait_for_end)  # type: ignore[arg-type]
        )
        await _first(_wait(serving), drained.wait())
        await asyncio.wait([serving], timeout=CLOSING_S)  # a reader that takes nothing would hold it for ever
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=not serving.done())


async def _wait(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])


def _prepare_app(app: ASGIApp, *, fast: bool) -> ASGIApp:
    """The app for a server that must not run its lifespan, and that with `fast` can write a streamed body for less."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if fast and scope["type"] == "http":
            offer_writer(scope, send)
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    return answer


def _write_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _first(*works: Coroutine[Any, Any, Any]) -> None:
    """Return when one of them has finished, and drop the others."""
    tasks = [asyncio.create_task(work) for work in works]
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()


def _handle_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(name, stop)
        except NotImplementedError:  # Windows
            signal.signal(name, lambda *_: loop.call_soon_threadsafe(stop))


def _configure(listener: socket.socket) -> Config:
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]  # it is Hypercorn's from here on, which closes it
    config.graceful_timeout = CLOSING_S
    config.shutdown_timeout = CLOSING_S
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.keep_alive_timeout = 75
    return config
