"""The command line: `staffstream serve`, `chat`, `staff`, and those of the package `commands`.

Flags of `serve` are the settings' own names; commands that talk to a running server go through its HTTP mode like
everyone else.
"""

import os

# Before numpy is first imported: its products here are small, and threads that wait for each other make them slower (a
# recall on two busy cores: 24 ms of CPU with two threads, 7 with one).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import asyncio
import contextlib
import io
import json
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic.fields import FieldInfo

from staffstream import __version__
from staffstream.cli.commands import (
    backups,
    doctor,
    jobs,
    keys,
    make_printable,
    mcp,
    print_line,
    reembed,
    transfer,
)
from staffstream.errors import SetupError, StaffstreamError
from staffstream.settings import Settings, name_variable, read_settings
from staffstream.storage.engines import choose_engine
from staffstream.support.logs import set_up_logging

if TYPE_CHECKING:
    import httpx  # for the commands that talk to a server: one that is started does without

_NO_FLAG = {"embedder_key", "anthropic_api_key"}  # a key on the command line would show in the process list
DEFAULT_URL = "http://127.0.0.1:8001"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 fine, 1 it failed, 2 the command or the set-up is wrong."""
    _set_encodings()
    args = make_parser().parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except StaffstreamError as error:
        print(f"staffstream: {error.detail}", file=sys.stderr)
        return 2 if isinstance(error, SetupError) else 1
    except KeyboardInterrupt:
        return 130


def _set_encodings() -> None:
    """Files and pipes get UTF-8 whatever the locale; a terminal gets its own encoding, with `?` for what that lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")


def run_locally(argv: Sequence[str] | None = None) -> int:
    """What `run.py` does: serve with a first staff member, and with the stand-in if there is no key."""
    return main(["serve", "--first-steps", *(sys.argv[1:] if argv is None else argv)])


def make_parser() -> argparse.ArgumentParser:
    """The whole command line, as docs/COMMANDS.md describes it."""
    parser = argparse.ArgumentParser(
        prog="staffstream", description="AI staff members that answer in real time and remember."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_chat(commands)
    _add_staff(commands)
    keys.add_commands(commands)
    jobs.add_commands(commands)
    reembed.add_commands(commands)
    backups.add_commands(commands)
    transfer.add_commands(commands)
    doctor.add_commands(commands)
    mcp.add_commands(commands)
    return parser


# ── serve ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _add_serve(commands: Any) -> None:
    parser = commands.add_parser("serve", help="start the server")
    for name, field in Settings.model_fields.items():
        if name not in _NO_FLAG:
            _add_setting(parser, name, field)
    parser.add_argument(
        "--first-steps",
        action="store_true",
        help="make a staff member on the first start, use the stand-in if there is no key, and print what to do next",
    )
    parser.set_defaults(run=_serve)


def _add_setting(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    flag = "--" + name.replace("_", "-")
    text = f"{field.description} [{name_variable(name)}; default {_show_default(field)}]".replace("%", "%%")
    if field.annotation is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
        parser.add_argument(flag, default=None, help=text, metavar=name.upper(), choices=choices or None)


def _show_default(field: FieldInfo) -> str:
    return "none" if field.default is None else str(field.default)


def _serve(args: argparse.Namespace) -> None:
    settings = read_settings(**{name: getattr(args, name, None) for name in Settings.model_fields})
    # Seconds of imports on a slow machine: not needed to say that a port is no number.
    from staffstream.cli.server import serve

    if args.first_steps and settings.anthropic_api_key is None:
        settings = settings.model_copy(update={"offline": True})

    set_up_logging(form=settings.log_format, level=settings.log_level, with_text=settings.log_text)

    async def tell(url: str, app: Any) -> None:
        first = await app.welcome() if args.first_steps else None
        _print_banner(url, settings, first)

    serve(settings, on_ready=tell)


def _print_banner(url: str, settings: Settings, first_staff_id: str | None) -> None:
    print(f"staffstream {__version__} on {url}, data in {choose_engine(settings.db).place}")
    if settings.offline:
        print("OFFLINE: a stand-in answers instead of Claude. Set ANTHROPIC_API_KEY for the real thing.")
    if first_staff_id:
        body = json.dumps({"content": "Hello! My name is Kim and I live in Bergen."})
        print(f"\nOpen {url}/ in a browser, or talk to a staff member from here:\n")
        print(f"  curl -N -X POST {url}/api/v1/staff/{first_staff_id}/messages/stream \\")
        print(f"    -H 'Content-Type: application/json' -d '{body}'\n")
        print(f"or in the terminal:  {_name_program()} chat {first_staff_id} --url {url}\n")
    sys.stdout.flush()


def _name_program() -> str:
    """What to type for this program: its name if the shell finds it, else its place in the virtual environment."""
    return "staffstream" if shutil.which("staffstream") else f"{os.path.relpath(sys.executable)} -m staffstream"


# ── commands that talk to a running server ───────────────────────────────────────────────────────────────────────────


def _add_client_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=os.environ.get("STAFFSTREAM_URL", DEFAULT_URL), help="the server's address")
    parser.add_argument(
        "--key",
        default=os.environ.get("STAFFSTREAM_KEY"),
        help="your key, if the server asks for one; better in STAFFSTREAM_KEY: a flag shows in the process list",
    )


def _open_client(args: argparse.Namespace) -> "httpx.AsyncClient":
    import httpx

    headers = {"Authorization": f"Bearer {args.key}"} if args.key else {}
    return httpx.AsyncClient(
        base_url=args.url.rstrip("/") + "/api/v1",
        headers=headers,
        timeout=httpx.Timeout(30, read=None),
        trust_env=False,
    )


def _complain(response: "httpx.Response") -> int:
    """Print what the server says is wrong."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = f"the server answered {response.status_code}"
    print(f"staffstream: {detail}", file=sys.stderr)
    return 1


def _add_staff(commands: Any) -> None:
    parser = commands.add_parser("staff", help="make and list staff members of a running server")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list them")
    _add_client_options(listing)
    listing.set_defaults(run=lambda args: _with_server(_list_staff(args), args))
    making = actions.add_parser("create", help="make one; prints its id alone on the last line")
    making.add_argument("name")
    for option in ("role", "persona", "model", "webhook-url"):
        making.add_argument(f"--{option}")
    for option in ("context-budget-tokens", "max-output-tokens", "thinking-budget-tokens"):
        making.add_argument(f"--{option}", type=int)
    _add_client_options(making)
    making.set_defaults(run=lambda args: _with_server(_create_staff(args), args))


def _with_server(work: Coroutine[Any, Any, int], args: argparse.Namespace) -> int:
    return _reach_server(lambda: asyncio.run(work), args)


def _reach_server(work: Callable[[], int], args: argparse.Namespace) -> int:
    import httpx

    try:
        return work()
    except (httpx.TransportError, httpx.InvalidURL) as error:
        reason = f"no server answers at {args.url} ({type(error).__name__})"
        print(f"staffstream: {reason}. Start one, or name it with --url.", file=sys.stderr)
        return 1


async def _list_staff(args: argparse.Namespace) -> int:
    async with _open_client(args) as client:
        response = await client.get("/staff")
    if not response.is_success:
        return _complain(response)
    for member in response.json():
        print_line("  ".join([member["id"], member["name"], member["role"]]).rstrip())
    return 0


async def _create_staff(args: argparse.Namespace) -> int:
    names = (
        "name", "role", "persona", "model", "webhook_url", "context_budget_tokens", "max_output_tokens",
        "thinking_budget_tokens",
    )  # fmt: skip
    body = {name: value for name in names if (value := getattr(args, name)) is not None}
    async with _open_client(args) as client:
        response = await client.post("/staff", json=body)
    if not response.is_success:
        return _complain(response)
    if args.webhook_url:
        print(f"webhook secret (shown only now): {response.json()['webhook_secret']}")
    print(response.json()["id"])
    return 0


# ── chat ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _add_chat(commands: Any) -> None:
    parser = commands.add_parser(
        "chat", help="talk to a staff member of a running server; Ctrl-C stops a reply, Ctrl-D ends"
    )
    parser.add_argument("staff", help="a staff member's id or name")
    parser.add_argument("--conversation", help="a conversation's id; by default the default one")
    _add_client_options(parser)
    parser.set_defaults(run=lambda args: _reach_server(lambda: _chat(args), args))


def _chat(args: argparse.Namespace) -> int:
    """Prompt and converse by turns. The prompt stands outside the event loop, where Ctrl-C ends it at once."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    with asyncio.Runner() as runner:
        client = _open_client(args)
        try:
            member = runner.run(_find_member(client, args.staff))
            while member and (content := _read_line()) is not None:
                if content.strip():
                    runner.run(_converse(client, member, content, args.conversation))
        finally:
            runner.run(client.aclose())
    return 0 if member else 1


async def _find_member(client: "httpx.AsyncClient", wanted: str) -> dict[str, Any] | None:
    """The one staff member of that id or name; without one, says so."""
    response = await client.get("/staff")
    if not response.is_success:
        _complain(response)
        return None
    members = [member for member in response.json() if wanted in (member["id"], member["name"])]
    if len(members) == 1:
        return dict(members[0])
    wrong = "no staff member has" if not members else "several staff members have"
    print(f"staffstream: {wrong} the id or name {wanted!r}; see: staffstream staff list", file=sys.stderr)
    return None


def _read_line() -> str | None:
    try:
        return input("you> ")
    except (EOFError, KeyboardInterrupt):
        print()
        return None


async def _converse(
    client: "httpx.AsyncClient", member: dict[str, Any], content: str, conversation: str | None
) -> None:
    """One message and its reply, printed as it comes. Ctrl-C cancels the run and not the program; a second one ends
    the program.
    """
    body = {"content": content} | ({"conversation_id": conversation} if conversation else {})
    path = f"/staff/{member['id']}"
    with _catch_interrupt() as interrupted:
        async with client.stream("POST", f"{path}/messages/stream", json=body) as response:
            if not response.is_success:
                await response.aread()
                _complain(response)
                return
            cancelling = asyncio.create_task(
                _cancel_when(interrupted, client, f"{path}/runs/{response.headers['x-run-id']}/cancel")
            )
            try:
                await _print_reply(member["name"], response)
            finally:
                cancelling.cancel()
                await asyncio.wait([cancelling])


@contextlib.contextmanager
def _catch_interrupt() -> Iterator[asyncio.Event]:
    """An event that the first Ctrl-C sets; the second is an interrupt again."""
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()

    def catch() -> None:
        interrupted.set()
        loop.remove_signal_handler(signal.SIGINT)

    with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends the program
        loop.add_signal_handler(signal.SIGINT, catch)
    try:
        yield interrupted
    finally:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)


async def _cancel_when(interrupted: asyncio.Event, client: "httpx.AsyncClient", path: str) -> None:
    await interrupted.wait()
    await client.post(path)


async def _print_reply(name: str, response: "httpx.Response") -> None:
    print(make_printable(f"{name}> "), end="", flush=True)
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            event = json.loads(line[6:])
            _print_event(event)
            if event["type"] != "token":
                return
    print("\n[the connection broke off; the reply will be in the list of messages]")


def _print_event(event: dict[str, Any]) -> None:
    if event["type"] == "token":
        print(make_printable(event["content"]), end="", flush=True)
    elif event["type"] == "error":
        print(f"\n[{event['detail']}]")
    elif event["type"] == "done":
        print("\n[stopped]" if event.get("cancelled") else "")
