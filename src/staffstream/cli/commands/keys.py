"""`staffstream keys`: make, list and revoke API keys, on the file itself and therefore also before the first start."""

import argparse
from typing import Any, get_args

from staffstream.cli.commands import add_db_option, open_file, print_line
from staffstream.domain import Role, clean_text
from staffstream.errors import SetupError
from staffstream.storage import keys
from staffstream.storage.database import transact


def add_commands(commands: Any) -> None:
    """Add `keys create`, `keys list` and `keys revoke`."""
    parser = commands.add_parser("keys", help="make, list and revoke API keys")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    making = actions.add_parser("create", help="make a key; prints it alone on the last line, once")
    making.add_argument("name", help="what to call it")
    making.add_argument("--user", help="the user it stands for; by default a new one of the key's own name")
    making.add_argument("--role", choices=get_args(Role), help="by default member; admin for the very first key")
    making.add_argument(
        "--gateway",
        action="store_true",
        help="it is a chat server's key, which may name the user it speaks for: each has a memory of their own",
    )
    making.set_defaults(run=_create)
    listing = actions.add_parser("list", help="list them; the keys themselves are not stored")
    listing.set_defaults(run=_list)
    revoking = actions.add_parser("revoke", help="make one invalid at once")
    revoking.add_argument("key", help="its id, or its shown beginning")
    revoking.set_defaults(run=_revoke)
    for action in (making, listing, revoking):
        add_db_option(action)


def _create(args: argparse.Namespace) -> None:
    name, user = clean_text(args.name).strip(), args.user and clean_text(args.user).strip()
    if not name or user == "":
        raise SetupError("A key needs a name, and its user one too.")
    with open_file(args.db, make=True) as connection, transact(connection):
        key, text = keys.create_key(connection, name, user_id=user, role=args.role, gateway=args.gateway)
        has_admin = keys.has_admin(connection)
    if not has_admin:
        print_line("no admin has a key: make one with --role admin to manage staff members and keys")
    gateway = ", and for those it names" if key.gateway else ""
    print_line(f"key {key.id} for the user {key.user_id}{gateway}, role {key.role}; it is shown only now:")
    print(text)


def _list(args: argparse.Namespace) -> None:
    with open_file(args.db) as connection:
        found = keys.list_keys(connection)
    for key in found:
        state = f"revoked {key.revoked_at}" if key.revoked_at else f"last used {key.last_used_at or 'never'}"
        print_line(
            f"{key.id}  {key.prefix}…  {key.role:6}  {key.name} (user {key.user_id})  made {key.created_at}, {state}"
        )


def _revoke(args: argparse.Namespace) -> None:
    with open_file(args.db) as connection, transact(connection):
        matching = [key for key in keys.list_keys(connection) if args.key in (key.id, key.prefix)]
        if len(matching) != 1:
            raise SetupError(f"{len(matching) or 'No'} keys are called {args.key}; see: staffstream keys list")
        key = keys.revoke_key(connection, matching[0].id)
    print_line(f"revoked {key.id} ({key.name})")
