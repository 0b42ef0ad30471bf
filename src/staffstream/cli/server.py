"""Serving the app, with a shutdown that no stream is cut by.

SIGTERM, SIGINT and SIGHUP first drain the app: no new runs, the running ones get their grace and end with a terminal
frame. Only then connections are closed. Hypercorn's own shutdown would cut them, and on CPython 3.12 and later not exit
at all while a stream is open (hypercorn#308).
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

from starlette.types import ASGIApp, Receive, Scope, Send

from staffstream.app import Staffstream, create_app
from staffstream.cli.chunk_writer import offer_writer
from staffstream.cli.http_server import HttpServer
from staffstream.errors import SetupError
from staffstream.settings import Settings
from staffstream.support.traces import export_traces

log = logging.getLogger(__name__)

UNSENT_BYTES = 128 * 1024  # of a connection that may wait in the kernel
ENDING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
M_ARENA_MAX = -8  # malloc.h
DESCRIPTORS = 65_536
SETTLED_S = 5.0  # after a start


def serve(settings: Settings, *, on_ready: Callable[[str, Staffstream], Awaitable[None]] | None = None) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; a second signal ends the grace at once. Raises SetupError.

    `on_ready` is awaited with the server's URL and the app once requests are answered.
    """
    _raise_descriptor_limit()
    listener = _listen(settings)
    _share_arenas()
    with listener, export_traces():
        _run(_serve(settings, listener, on_ready))


def _raise_descriptor_limit() -> None:
    """Take as many descriptors as the system gives, up to DESCRIPTORS: shells often begin with 1,024."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a system with a limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections inherit both
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # else the kernel takes in megabytes for a client that takes none
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
    stop, hurry = asyncio.Event(), asyncio.Event()
    _handle_signals(lambda: hurry.set() if stop.is_set() else stop.set())
    async with (
        app.running(),
        HttpServer(offer_writers(app, fast=settings.fast_paths), listener, slow_reader_s=settings.slow_reader_s),
    ):
        if on_ready is not None:
            await on_ready(url, app)
        asyncio.get_running_loop().call_later(SETTLED_S, _settle_memory)
        await stop.wait()
        log.info("shutting down; running replies have %g s", settings.shutdown_grace_s)
        await _first(app.drain(settings.shutdown_grace_s), hurry.wait())
        await app.drain(0)


def offer_writers(app: ASGIApp, *, fast: bool = True) -> ASGIApp:
    """The app for a server that, with `fast`, can write a streamed body for less."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if fast and scope["type"] == "http":
            offer_writer(scope, send)
        await app(scope, receive, send)

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
    for name in ENDING_SIGNALS:
        if signal.getsignal(name) is signal.SIG_IGN:  # as nohup asks for SIGHUP
            continue
        try:
            loop.add_signal_handler(name, stop)
        except NotImplementedError:  # Windows
            signal.signal(name, lambda *_: loop.call_soon_threadsafe(stop))
