"""API keys: the room, and `staffstream keys`."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from staffstream.errors import NotFound, UserExists
from staffstream.storage import keys
from staffstream.storage.database import Connection
from tests.tools.commands import run_command
from tests.tools.databases import connect, prepare


@pytest.fixture
def file(db: Path) -> Iterator[Connection]:
    prepare(db)
    with contextlib.closing(connect(db)) as connection:
        yield connection


def test_a_key_is_found_by_its_text_alone(file: Connection) -> None:
    """The text that was shown identifies the key; anything else, its hash and beginning included, does not."""
    made, text = keys.create_key(file, "Kim")
    assert keys.find_key(file, text) == made
    digest = hashlib.sha256(text.encode()).hexdigest()
    for wrong in ("", text[:-1], text + "A", text.swapcase(), made.prefix, made.id, digest, "\ud800é"):
        assert keys.find_key(file, wrong) is None


def test_keys_have_at_least_128_random_bits(file: Connection) -> None:
    """After the prefix come 32 characters of 6 bits; no two keys share even their first eight."""
    texts = [keys.create_key(file, f"key {n}")[1] for n in range(200)]
    assert all(text.startswith("sst_") and len(text) == 36 for text in texts)
    assert len({text[4:12] for text in texts}) == 200


def test_the_text_of_a_key_is_nowhere_in_the_file(file: Connection, db: Path) -> None:
    """At rest there is a hash and the shown beginning."""
    _, text = keys.create_key(file, "Kim")
    file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = b"".join(path.read_bytes() for path in db.parent.iterdir())
    assert hashlib.sha256(text.encode()).digest() in data
    assert text.encode() not in data
    assert text[9:].encode() not in data


def test_the_first_key_is_an_admins_and_later_ones_are_members(file: Connection) -> None:
    """Somebody must be able to make the first staff member; after that a key gets no more than it needs."""
    assert keys.create_key(file, "first")[0].role == "admin"
    assert keys.create_key(file, "second")[0].role == "member"
    assert keys.create_key(file, "third", role="admin")[0].role == "admin"


def test_once_there_was_a_key_the_next_is_a_members(file: Connection) -> None:
    """When the last admin's key was revoked too: whoever makes one then has to ask for the role."""
    first, _ = keys.create_key(file, "first")
    keys.revoke_key(file, first.id)
    assert keys.create_key(file, "second")[0].role == "member"
    assert keys.create_key(file, "third", role="admin")[0].role == "admin"


def test_a_key_names_its_user(file: Connection) -> None:
    """By default one of its own name; two keys may stand for one user."""
    assert keys.create_key(file, "Kim")[0].user_id == "Kim"
    assert keys.create_key(file, "Kim's phone", user_id="Kim")[0].user_id == "Kim"


def test_a_second_key_of_a_user_has_to_name_the_user(file: Connection) -> None:
    """Also after the first was revoked: what its user has stays, and would be the newcomer's."""
    first, _ = keys.create_key(file, "Kim")
    with pytest.raises(UserExists):
        keys.create_key(file, "Kim")
    keys.revoke_key(file, first.id)
    with pytest.raises(UserExists):
        keys.create_key(file, "Kim")
    assert keys.create_key(file, "Kim", user_id="Kim")[0].user_id == "Kim"


def test_a_revoked_key_is_not_found_and_stays_listed(file: Connection) -> None:
    """Revoking twice changes nothing more; an unknown key is told."""
    made, text = keys.create_key(file, "Kim")
    revoked = keys.revoke_key(file, made.id)
    assert keys.find_key(file, text) is None
    assert keys.revoke_key(file, made.id) == revoked
    assert keys.list_keys(file) == [revoked]
    with pytest.raises(NotFound):
        keys.revoke_key(file, "no such key")


def test_the_last_use_only_moves_on(file: Connection) -> None:
    """Two processes may write it down in either order."""
    made, _ = keys.create_key(file, "Kim")
    keys.note_uses(file, {made.id: "2026-02-02T00:00:00.000Z"})
    keys.note_uses(file, {made.id: "2026-01-01T00:00:00.000Z", "no such key": "2026-01-01T00:00:00.000Z"})
    assert keys.list_keys(file)[0].last_used_at == "2026-02-02T00:00:00.000Z"


def test_the_command_prints_the_key_alone_on_its_last_line(db: Path) -> None:
    """So that a script can take it; it is valid, and listing does not show it."""
    made = run_command("keys", "create", "Kim Ø", "--user", "kim", "--role", "member", db=db)
    assert made.returncode == 0, made.stderr
    text = made.stdout.splitlines()[-1]
    with contextlib.closing(connect(db)) as connection:
        found = keys.find_key(connection, text)
    assert found is not None
    assert (found.name, found.user_id, found.role) == ("Kim Ø", "kim", "member")
    listed = run_command("keys", "list", db=db).stdout
    assert found.id in listed
    assert "never" in listed
    assert text not in listed


def test_the_command_revokes_by_id_and_by_shown_beginning(db: Path) -> None:
    """Both stand in the list."""
    texts = [run_command("keys", "create", name, db=db).stdout.splitlines()[-1] for name in ("a", "b")]
    with contextlib.closing(connect(db)) as connection:
        first, second = keys.list_keys(connection)
        assert run_command("keys", "revoke", first.id, db=db).returncode == 0
        assert run_command("keys", "revoke", second.prefix, db=db).returncode == 0
        assert [keys.find_key(connection, text) for text in texts] == [None, None]


@pytest.mark.parametrize("arguments", [("revoke", "nothing"), ("create", " "), ("create", "x", "--user", "")])
def test_the_command_refuses_what_makes_no_sense(db: Path, arguments: tuple[str, ...]) -> None:
    """With a sentence and status 2."""
    prepare(db)
    refused = run_command("keys", *arguments, db=db)
    assert refused.returncode == 2
    assert refused.stderr.startswith("staffstream: ")
    assert "Traceback" not in refused.stderr


def test_a_name_cannot_command_the_terminal(db: Path, file: Connection) -> None:
    """It may come from whoever makes keys by call."""
    keys.create_key(file, "x\x1b[2J\x9b31m\ny")
    listed = run_command("keys", "list", db=db).stdout
    assert len(listed.splitlines()) == 1
    assert not set(listed) & {"\x1b", "\x9b"}


def test_listing_makes_no_file(db: Path) -> None:
    """A mistyped path is told, not turned into an empty database."""
    refused = run_command("keys", "list", db=db)
    assert refused.returncode == 2
    assert "no database" in refused.stderr
    assert not db.exists()
