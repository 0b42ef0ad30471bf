"""Backup, restore and compact: whole files, checked, also while a server writes."""

import asyncio
import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pysqlite3
import pytest

from staffstream.app import create_app
from staffstream.errors import SetupError
from staffstream.storage.schema import read_version
from staffstream.storage.sqlite.backups import check_backup, compact_file, make_backup, restore_backup
from staffstream.storage.sqlite.presence import FilePresence
from staffstream.storage.staff import create_staff, list_staff
from tests.tools.commands import run_command
from tests.tools.databases import connect, prepare, transact
from tests.tools.provider import ScriptedProvider
from tests.tools.server import make_settings, serve_here, start_server

pytestmark = pytest.mark.anyio


def fill(db: Path, names: int = 1, persona: str = "") -> None:
    """A database with some staff members."""
    prepare(db)
    with contextlib.closing(connect(db)) as connection, transact(connection):
        for number in range(names):
            create_staff(connection, {"name": f"staff {number}", "persona": persona})


def list_names(db: Path) -> list[str]:
    with contextlib.closing(connect(db)) as connection:
        return [row["name"] for row in connection.execute("SELECT name FROM staff ORDER BY id")]


# ── backup ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_backup_while_a_server_writes_is_one_whole_state(
    db: Path, tmp_path: Path, provider: ScriptedProvider
) -> None:
    """Everything acknowledged before it is in it, its rows belong together, and no request failed meanwhile."""
    async with serve_here(db, provider) as api:
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
    left = shelf / "staffstream-20200101T000000000Z.db.part"
    left.touch()
    os.utime(left, (0, 0))
    (shelf / "staffstream-20200102T000000000Z.db.part").touch()  # of a moment ago: it may be growing
    for _ in range(3):
        done = run_command("backup", shelf, "--keep", "2", db=db)
        assert done.returncode == 0, done.stderr
        assert "2 staff" in done.stdout
    kept = sorted(path.name for path in shelf.iterdir())
    assert len(kept) == 4
    assert {"staffstream-notes.db", "staffstream-20200102T000000000Z.db.part"} <= set(kept)


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


async def test_what_a_crash_left_does_not_get_into_the_restored_database(
    db: Path, tmp_path: Path, provider: ScriptedProvider
) -> None:
    """The write-ahead log of the old file goes with it."""
    fill(db, 1)
    backup = make_backup(db, tmp_path / "copy.db").path
    async with start_server(db, provider) as server:
        ada = await server.api.make_staff("after the backup")
        await server.api.ask(ada, "hello")
        await server.kill()
    assert Path(f"{db}-wal").stat().st_size > 0
    aside = restore_backup(backup, db)
    assert list_names(db) == ["staff 0"]
    assert aside is not None
    assert list_names(aside) == ["staff 0", "after the backup"]


async def test_a_running_server_is_not_robbed_of_its_database(
    db: Path, tmp_path: Path, provider: ScriptedProvider
) -> None:
    """Restore and compact refuse until it has stopped."""
    fill(db)
    backup = make_backup(db, tmp_path / "copy.db").path
    async with start_server(db, provider) as server:
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


async def test_a_backup_serves_after_it_was_restored(db: Path, tmp_path: Path, provider: ScriptedProvider) -> None:
    """Messages, memory and its search are as they were."""
    async with serve_here(db, provider) as api:
        ada = await api.make_staff()
        await api.ask(ada, "My sister Marit sails to Bodø in June.")
        await asyncio.to_thread(make_backup, db, tmp_path / "copy.db")
    restore_backup(tmp_path / "copy.db", db)
    async with serve_here(db, provider) as api:
        found = await api.get(f"/staff/{ada}/memories", params={"query": "Who sails to Bodø?"})
        assert "Marit" in found[0]["text"]
        assert len(await api.messages(ada)) == 2


async def leave_a_log(db: Path, provider: ScriptedProvider) -> None:
    """A server that was killed: its last commits are in the write-ahead log alone."""
    async with start_server(db, provider) as server:
        await server.api.make_staff("in the log")
        await server.kill()
    assert Path(f"{db}-wal").stat().st_size > 0


async def test_a_log_that_outlived_its_file_does_not_get_into_the_restored_database(
    db: Path, tmp_path: Path, provider: ScriptedProvider
) -> None:
    """SQLite would play it into whatever has the name: the damaged file was erased, its log was not."""
    fill(db, 1)
    backup = make_backup(db, tmp_path / "copy.db").path
    fill(db, 2)
    await leave_a_log(db, provider)
    db.unlink()
    assert restore_backup(backup, db) is None
    assert list_names(db) == ["staff 0"]
    check_backup(db)


async def test_what_was_put_aside_can_be_restored_with_its_log(
    db: Path, tmp_path: Path, provider: ScriptedProvider
) -> None:
    """Or regretting a restore would lose what the crashed server had acknowledged."""
    fill(db, 1)
    backup = make_backup(db, tmp_path / "copy.db").path
    await leave_a_log(db, provider)
    aside = restore_backup(backup, db)
    assert aside is not None
    restore_backup(aside, db)
    assert list_names(db) == ["staff 0", "in the log"]


async def test_a_killed_servers_file_can_be_backed_up(db: Path, tmp_path: Path, provider: ScriptedProvider) -> None:
    """With what is in its log."""
    fill(db, 1)
    await leave_a_log(db, provider)
    make_backup(db, tmp_path / "copy.db")
    assert list_names(tmp_path / "copy.db") == ["staff 0", "in the log"]


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
def test_a_backup_takes_nobodys_name(db: Path, tmp_path: Path, suffix: str) -> None:
    """Neither a file's nor that of a log, which would be played into the backup."""
    fill(db)
    taken = tmp_path / f"copy.db{suffix}"
    taken.write_text("mine")
    with pytest.raises(SetupError, match="exists already"):
        make_backup(db, tmp_path / "copy.db")
    assert taken.read_text() == "mine"


def test_another_programs_database_is_left_as_it_is(tmp_path: Path) -> None:
    """Also when it is named by mistake."""
    other = tmp_path / "other.db"
    with contextlib.closing(pysqlite3.connect(str(other))) as connection:
        connection.execute("CREATE TABLE t (x)")
    before = other.read_bytes()
    with pytest.raises(SetupError):
        make_backup(other, tmp_path / "copy.db")
    with pytest.raises(SetupError):
        compact_file(other)
    assert other.read_bytes() == before


async def test_a_server_that_starts_during_a_restore_gets_the_restored_file(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits: one that had opened the old file would go on writing to what was put aside."""
    fill(db, 1)
    backup = make_backup(db, tmp_path / "copy.db").path
    fill(db, 2)
    app, waiting, share = create_app(make_settings(db)), asyncio.Event(), FilePresence.share
    starting: list[asyncio.Task[None]] = []

    async def share_late(presence: FilePresence) -> None:
        waiting.set()
        await share(presence)

    async def begin() -> None:
        starting.append(asyncio.create_task(running.enter_async_context(app.running())))
        await waiting.wait()

    def start_once(done: int, total: int) -> None:
        if not starting:
            asyncio.run_coroutine_threadsafe(begin(), loop).result()

    monkeypatch.setattr(FilePresence, "share", share_late)
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as running:
        await asyncio.to_thread(restore_backup, backup, db, on_progress=start_once)
        await starting[0]
        assert await app.state.services.database.read(lambda conn: len(list_staff(conn))) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
async def test_what_root_makes_belongs_to_the_servers_user(tmp_path: Path) -> None:
    """Or the server could not open it: an operator runs commands as root."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12345, 12345)
    db = home / "a.db"
    fill(db)
    backup = make_backup(db, home / "copy.db").path
    restore_backup(backup, db)
    assert {path.stat().st_uid for path in home.iterdir()} == {12345}
    assert stat.S_IMODE(db.stat().st_mode) == 0o600


@pytest.mark.parametrize("command", [("restore", "copy.db"), ("compact",), ("backup", "other.db")])
@pytest.mark.parametrize("wrong", ["nowhere/a.db", "text.db", "folder"])
def test_commands_tell_what_is_wrong_with_the_file(
    db: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], wrong: str
) -> None:
    """In a sentence, with status 2, whatever it is."""
    monkeypatch.chdir(db.parent)
    fill(db)
    make_backup(db, db.with_name("copy.db"))
    db.with_name("text.db").write_text("hello" * 1000)
    db.with_name("folder").mkdir()
    if (command[0], wrong) == ("restore", "text.db"):
        pytest.skip("restoring over a file that is no database is what it is for")
    refused = run_command(*command, db=db.parent / wrong)
    assert refused.returncode == 2, refused.stderr
    assert "staffstream: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_long_commands_show_that_they_go_on(db: Path, tmp_path: Path) -> None:
    """Copying, checking and compacting."""
    fill(db, 200, persona="y" * 50_000)
    made = run_command("backup", tmp_path / "copy.db", db=db)
    restored = run_command("restore", tmp_path / "copy.db", db=db)
    for done in (made, restored):
        assert done.returncode == 0, done.stderr
        assert "pages" in done.stderr
    assert "steps" in run_command("compact", db=db).stderr


# ── compact ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_compacting_gives_space_back_and_loses_nothing(db: Path, provider: ScriptedProvider) -> None:
    """What was erased takes room until then; what is there can be found after it."""
    async with serve_here(db, provider) as api:
        ada, grace = await api.make_staff(), await api.make_staff("Grace")
        told = [{"text": f"Item {number}: " + "words and more words " * 40} for number in range(500)]
        await api.post(f"/staff/{grace}/memories", told, 201)
        await api.ask(ada, "My sister Marit sails to Bodø in June.")
        await api.http.delete(f"/staff/{grace}")
    before, after = await asyncio.to_thread(compact_file, db)
    assert after < before / 2
    check_backup(db)
    async with serve_here(db, provider) as api:
        found = await api.get(f"/staff/{ada}/memories", params={"query": "Who sails to Bodø?"})
        assert "Marit" in found[0]["text"]


def test_there_is_room_for_nothing_without_a_database(db: Path) -> None:
    """A mistyped path is told."""
    for command in (("backup", db.with_name("b.db")), ("compact",)):
        assert run_command(*command, db=db).returncode == 2
    assert not db.exists()


def test_a_full_disk_leaves_no_part_of_a_backup(db: Path, tmp_path: Path) -> None:
    """Nor SQLite's own files beside it."""
    prepare(db)
    folder = tmp_path / "backups"
    folder.mkdir()
    with contextlib.closing(connect(db)) as connection:
        size_kib = db.stat().st_size // 1024
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for limit_kib in (size_kib // 2, 8):
        command = f'ulimit -f {limit_kib}; exec "$@"'
        arguments = [sys.executable, "-m", "staffstream", "backup", folder / "a.db", "--db", db]
        done = subprocess.run(["bash", "-c", command, "bash", *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        assert list(folder.iterdir()) == [], done.stderr
