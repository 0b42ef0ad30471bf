"""Backup, restore and compact: whole files, checked, also while a server writes."""

import asyncio
import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from staffstream.backups import check_backup, compact_file, make_backup, restore_backup
from staffstream.database import connect, prepare_file, read_version, transact
from staffstream.errors import SetupError
from staffstream.staff import create_staff
from tests.far_end import FarEnd
from tests.server import serve_here, start_server

pytestmark = pytest.mark.anyio


def fill(db: Path, names: int = 1, persona: str = "") -> None:
    """A database with some staff members."""
    prepare_file(db)
    with contextlib.closing(connect(db)) as connection, transact(connection):
        for number in range(names):
            create_staff(connection, {"name": f"staff {number}", "persona": persona})


def list_names(db: Path) -> list[str]:
    with contextlib.closing(connect(db)) as connection:
        return [row["name"] for row in connection.execute("SELECT name FROM staff ORDER BY id")]


def run_command(*arguments: str | Path, db: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "staffstream", *arguments, "--db", db]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# ── backup ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_backup_while_a_server_writes_is_one_whole_state(db: Path, tmp_path: Path, far: FarEnd) -> None:
    """Everything acknowledged before it is in it, its rows belong together, and no request failed meanwhile."""
    async with serve_here(db, far) as api:
        ada = await api.make_staff(persona="x" * 100_000)
        for number in range(5):
            await api.ask(ada, f"before {number}")
        stop = asyncio.Event()

        async def keep_talking(name: str) -> int:
            conversation = (await api.post(f"/staff/{ada}/conversations", {}, 201))["id"]
            said = 0
            while not stop.is_set():
                assert (await api.ask(ada, f"{name} {said}", conversation_id=conversation)).status == 200
                said += 1
            return said

        talkers = [asyncio.create_task(keep_talking(f"talker {number}")) for number in range(4)]
        copies = []
        for number in range(5):
            before = len(await api.messages(ada, limit=200))
            facts = await asyncio.to_thread(make_backup, db, tmp_path / f"copy {number}.db")
            copies.append((before, facts))
        stop.set()
        said = await asyncio.gather(*talkers)
    assert all(said)
    for before, facts in copies:
        assert facts.counts["messages"] >= before == 10
        with contextlib.closing(connect(facts.path)) as copy:
            orphans = copy.execute(
                "SELECT count(*) FROM runs WHERE state = 'done' AND message_id NOT IN (SELECT id FROM messages)"
            )
            assert orphans.fetchone()[0] == 0


def test_a_backup_is_one_private_file(db: Path, tmp_path: Path) -> None:
    """With no log beside it, readable for its owner alone."""
    fill(db, 3)
    target = tmp_path / "out" / "copy.db"
    target.parent.mkdir()
    facts = make_backup(db, target)
    assert os.listdir(target.parent) == ["copy.db"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert (facts.counts["staff"], facts.size_bytes) == (3, target.stat().st_size)
    assert list_names(target) == list_names(db)


def test_a_backup_replaces_nothing(db: Path, tmp_path: Path) -> None:
    """An existing file stays as it is."""
    fill(db)
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(SetupError, match="exists already"):
        make_backup(db, target)
    assert target.read_text() == "precious"


def spoil(path: Path) -> None:
    """Overwrite pages in the middle, as a failing disk would."""
    with contextlib.closing(connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xa5" * (size // 4))


def test_a_damaged_database_gives_no_backup(db: Path, tmp_path: Path) -> None:
    """The copy is looked through before it counts; what failed leaves nothing behind."""
    fill(db, 50, persona="y" * 5000)
    spoil(db)
    target = tmp_path / "copy.db"
    with pytest.raises(SetupError, match=r"damaged|cannot be copied"):
        make_backup(db, target)
    assert not target.exists()
    assert not list(tmp_path.glob("*.part"))


def test_the_command_names_files_by_the_time_and_keeps_the_newest(db: Path, tmp_path: Path) -> None:
    """What else is in the directory is not touched."""
    fill(db, 2)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "staffstream-notes.db").write_text("mine")
    for _ in range(3):
        done = run_command("backup", shelf, "--keep", "2", db=db)
        assert done.returncode == 0, done.stderr
        assert "2 staff" in done.stdout
    kept = sorted(path.name for path in shelf.iterdir())
    assert len(kept) == 3
    assert "staffstream-notes.db" in kept


@pytest.mark.parametrize("arguments", [("nowhere/x.db",), (".", "--keep", "0"), ("x.db", "--keep", "1")])
def test_the_command_says_what_is_wrong(db: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """With status 2 and no traceback."""
    fill(db)
    monkeypatch.chdir(db.parent)
    refused = run_command("backup", *arguments, db=db)
    assert refused.returncode == 2
    assert "staffstream: " in refused.stderr
    assert "Traceback" not in refused.stderr


# ── restore ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_restored_database_is_the_backup_and_the_old_one_is_kept(db: Path, tmp_path: Path) -> None:
    """Under a name that says when it was put aside."""
    fill(db, 2)
    backup = make_backup(db, tmp_path / "copy.db").path
    fill(db, 3)
    aside = restore_backup(backup, db)
    assert len(list_names(db)) == 2
    assert aside is not None
    assert len(list_names(aside)) == 5
    assert backup.exists()


def test_a_database_that_is_gone_can_be_restored(db: Path, tmp_path: Path) -> None:
    """There is nothing to put aside then."""
    fill(db, 2)
    backup = make_backup(db, tmp_path / "copy.db").path
    for path in tmp_path.glob("test.db*"):
        path.unlink()
    assert restore_backup(backup, db) is None
    assert len(list_names(db)) == 2


async def test_what_a_crash_left_does_not_get_into_the_restored_database(db: Path, tmp_path: Path, far: FarEnd) -> None:
    """The write-ahead log of the old file goes with it."""
    fill(db, 1)
    backup = make_backup(db, tmp_path / "copy.db").path
    async with start_server(db, far) as server:
        ada = await server.api.make_staff("after the backup")
        await server.api.ask(ada, "hello")
        await server.kill()
    assert Path(f"{db}-wal").stat().st_size > 0
    aside = restore_backup(backup, db)
    assert list_names(db) == ["staff 0"]
    assert aside is not None
    assert list_names(aside) == ["staff 0", "after the backup"]


async def test_a_running_server_is_not_robbed_of_its_database(db: Path, tmp_path: Path, far: FarEnd) -> None:
    """Restore and compact refuse until it has stopped."""
    fill(db)
    backup = make_backup(db, tmp_path / "copy.db").path
    async with start_server(db, far) as server:
        for refused in (run_command("restore", backup, db=db), run_command("compact", db=db)):
            assert refused.returncode == 2
            assert "Stop it first" in refused.stderr
        assert await server.stop() == 0
    assert run_command("restore", backup, db=db).returncode == 0


def make_wrong(path: Path, how: str) -> Path:
    """Something that is no backup."""
    if how == "text":
        path.write_text("hello")
    elif how == "empty":
        path.touch()
    elif how == "missing":
        pass
    elif how == "cut":
        fill(path, 50, persona="y" * 5000)
        with contextlib.closing(connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        os.truncate(path, path.stat().st_size // 2)
    elif how == "spoilt":
        fill(path, 50, persona="y" * 5000)
        spoil(path)
    elif how == "orphans":
        fill(path)
        with contextlib.closing(connect(path)) as connection:
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("INSERT INTO scopes (staff_id, user_id) VALUES ('nobody', 'x')")
    else:
        fill(path)
        name, value = {"foreign": ("application_id", 1), "newer": ("user_version", read_version() + 1)}[how]
        with contextlib.closing(connect(path)) as connection:
            connection.execute(f"PRAGMA {name} = {value}")
    return path


@pytest.mark.parametrize("how", ["text", "empty", "missing", "cut", "spoilt", "orphans", "foreign", "newer"])
def test_what_is_no_backup_changes_nothing(db: Path, tmp_path: Path, how: str) -> None:
    """Each is told, and the present database stays."""
    fill(db, 2)
    wrong = make_wrong(tmp_path / "wrong.db", how)
    with pytest.raises(SetupError):
        check_backup(wrong)
    with pytest.raises(SetupError):
        restore_backup(wrong, db)
    assert len(list_names(db)) == 2
    assert not list(tmp_path.glob("*.part"))
    assert not list(tmp_path.glob("*.restored"))


async def test_a_backup_serves_after_it_was_restored(db: Path, tmp_path: Path, far: FarEnd) -> None:
    """Messages, memory and its search are as they were."""
    async with serve_here(db, far) as api:
        ada = await api.make_staff()
        await api.ask(ada, "My sister Marit sails to Bodø in June.")
        await asyncio.to_thread(make_backup, db, tmp_path / "copy.db")
    restore_backup(tmp_path / "copy.db", db)
    async with serve_here(db, far) as api:
        found = await api.get(f"/staff/{ada}/memories", params={"query": "Who sails to Bodø?"})
        assert "Marit" in found[0]["text"]
        assert len(await api.messages(ada)) == 2


# ── compact ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_compacting_gives_space_back_and_loses_nothing(db: Path, far: FarEnd) -> None:
    """What was erased takes room until then; what is there can be found after it."""
    async with serve_here(db, far) as api:
        ada, grace = await api.make_staff(), await api.make_staff("Grace")
        told = [{"text": f"Item {number}: " + "words and more words " * 40} for number in range(500)]
        await api.post(f"/staff/{grace}/memories", told, 201)
        await api.ask(ada, "My sister Marit sails to Bodø in June.")
        await api.http.delete(f"/staff/{grace}")
    before, after = await asyncio.to_thread(compact_file, db)
    assert after < before / 2
    check_backup(db)
    async with serve_here(db, far) as api:
        found = await api.get(f"/staff/{ada}/memories", params={"query": "Who sails to Bodø?"})
        assert "Marit" in found[0]["text"]


def test_there_is_room_for_nothing_without_a_database(db: Path) -> None:
    """A mistyped path is told."""
    for command in (("backup", db.with_name("b.db")), ("compact",)):
        assert run_command(*command, db=db).returncode == 2
    assert not db.exists()
