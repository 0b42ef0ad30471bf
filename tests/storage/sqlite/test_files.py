"""The SQLite file itself: made, migrated, or refused in one clear line."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pysqlite3
import pytest

from staffstream.errors import SetupError
from staffstream.storage.schema import read_migrations, read_schema
from staffstream.storage.sqlite import files as room
from staffstream.storage.sqlite.connections import connect
from staffstream.storage.sqlite.files import prepare_file

# ── making and migrating ─────────────────────────────────────────────────────────────────────────────────────────────


def _describe(path: Path) -> dict[str, object]:
    """What a schema is, however it came to be: columns, indexes, foreign keys, triggers, options, versions."""
    with contextlib.closing(connect(path)) as conn:

        def rows(statement: str) -> list[tuple[object, ...]]:
            return sorted((tuple(row) for row in conn.execute(statement)), key=repr)

        names = [row[0] for row in rows("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        indexes = [row[0] for row in rows("SELECT name FROM sqlite_schema WHERE type = 'index'")]
        return {
            "tables": rows("SELECT name, type, ncol, wr, strict FROM pragma_table_list WHERE schema = 'main'"),
            "columns": {
                name: rows(f"SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo('{name}')")
                for name in names
            },
            "keys": {name: rows(f"SELECT * FROM pragma_foreign_key_list('{name}')") for name in names},
            "indexes": {
                name: rows(f"SELECT name, desc, coll, key FROM pragma_index_xinfo('{name}')") for name in indexes
            },
            "unique": {
                name: rows(f"SELECT name, \"unique\", partial FROM pragma_index_list('{name}')") for name in names
            },
            "triggers": rows("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"),
            "versions": [conn.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id")],
        }


def _todays_version() -> int:
    return int(read_schema().rsplit("user_version = ", 1)[1].split(";", 1)[0])


OLD_SCHEMAS = Path(__file__).parents[2] / "schemas"
"""schema.sql as it was at each version before today's, by number: 0001.sql …"""


def test_migrations_lead_from_every_older_schema_to_todays(tmp_path: Path) -> None:
    """Each version has its migration and its old schema kept, and a migrated database is what a fresh one is."""
    versions = range(1, _todays_version())
    assert [target for target, _ in read_migrations()] == [version + 1 for version in versions]
    prepare_file(tmp_path / "fresh.db")
    for version in versions:
        path = tmp_path / f"{version}.db"
        with contextlib.closing(connect(path)) as conn:
            conn.executescript((OLD_SCHEMAS / f"{version:04d}.sql").read_text("utf-8"))
        prepare_file(path)
        assert _describe(path) == _describe(tmp_path / "fresh.db"), f"from version {version}"


STEP_1 = """
ALTER TABLE meta ADD COLUMN note TEXT;  -- with a comment; and a semicolon
CREATE TABLE extra (id TEXT PRIMARY KEY, meta_key TEXT REFERENCES meta ON DELETE CASCADE) STRICT;
CREATE TRIGGER extra_kept AFTER DELETE ON extra BEGIN
    INSERT INTO meta VALUES ('last', old.id, NULL);
    DELETE FROM meta WHERE key = 'older';
END;
INSERT INTO meta VALUES ('moved', 'yes', NULL);
PRAGMA user_version = {version};
"""
STEP_2 = "CREATE INDEX extra_of_meta ON extra (meta_key);\nPRAGMA user_version = {version}"  # no semicolon at the end


def _teach(monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    """Make it the truth of tomorrow: today's schema with these steps taken."""
    today, later = read_schema(), _todays_version() + len(steps)
    migrations = [(n, step.format(version=n)) for n, step in enumerate(steps, _todays_version() + 1)]
    whole = "\n".join([today.rsplit("PRAGMA user_version", 1)[0], *(step for _, step in migrations)]) + ";\n"
    monkeypatch.setattr(room, "read_schema", lambda: whole + f"PRAGMA user_version = {later};\n")
    monkeypatch.setattr(room, "read_migrations", lambda: migrations)


def test_a_migration_is_run_to_its_last_statement(db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, triggers and unfinished last lines included; what the file held is kept."""
    prepare_file(db)
    with contextlib.closing(connect(db)) as conn:
        conn.execute("INSERT INTO meta VALUES ('kept', 'yes')")
    _teach(monkeypatch, STEP_1, STEP_2)
    prepare_file(db)
    prepare_file(tmp_path / "fresh.db")
    assert _describe(db) == _describe(tmp_path / "fresh.db")
    with contextlib.closing(connect(db)) as conn:
        assert {row["key"] for row in conn.execute("SELECT key FROM meta")} == {"kept", "moved"}
    prepare_file(db)


def test_a_migration_that_fails_changes_nothing(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its own first half nor the steps before it; today's program still opens the file."""
    prepare_file(db)
    before = _describe(db)
    with monkeypatch.context() as tomorrow:
        _teach(tomorrow, STEP_1, "CREATE TABLE more (n);\nCREATE TABLE meta (oops);")
        with pytest.raises(SetupError):
            prepare_file(db)
    assert _describe(db) == before
    prepare_file(db)


def test_many_that_start_at_once_make_one_database(db: Path) -> None:
    """Two servers, or a server and a command, on a file that is not there yet."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(prepare_file, [db] * 8))
    assert _describe(db)["versions"] == [_todays_version(), 0x53544653]


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _expect_refusal(path: Path, words: str) -> None:
    """A SetupError with these words, and a file that is byte for byte what it was."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(SetupError, match=words):
        prepare_file(path)
    assert (path.read_bytes() if path.is_file() else None) == before


def _make_foreign(path: Path, *, user_version: int = 0) -> None:
    with contextlib.closing(pysqlite3.connect(str(path))) as conn:
        conn.execute("CREATE TABLE songs (title TEXT)")
        conn.execute(f"PRAGMA user_version = {user_version}")
        conn.commit()


def test_a_newer_schema_is_refused(db: Path) -> None:
    """An older program would not know what it breaks."""
    prepare_file(db)
    with contextlib.closing(connect(db)) as conn:
        conn.execute("PRAGMA user_version = 999")
    _expect_refusal(db, "newer staffstream")


@pytest.mark.parametrize("user_version", [0, 1, 999])
def test_another_programs_database_is_refused(db: Path, user_version: int) -> None:
    """Whatever its own version is called, and not so much as its journal mode is changed."""
    _make_foreign(db, user_version=user_version)
    _expect_refusal(db, "another program's database")


@pytest.mark.parametrize("content", [b"not a database, but long enough to look like one" * 100, b"x"])
def test_a_file_that_is_no_database_is_refused(db: Path, content: bytes) -> None:
    """And not overwritten."""
    db.write_bytes(content)
    _expect_refusal(db, "damaged")


def test_a_damaged_database_is_refused(db: Path) -> None:
    """Its header is whole and its pages are not."""
    prepare_file(db)
    data = bytearray(db.read_bytes())
    data[100:4096] = b"\xff" * 3996
    db.write_bytes(data)
    _expect_refusal(db, "damaged")


def test_an_empty_file_is_a_new_database(db: Path) -> None:
    """mktemp made it."""
    db.touch()
    prepare_file(db)
    assert _describe(db)["versions"] == [_todays_version(), 0x53544653]


def test_a_start_that_was_cut_short_is_made_up_for(db: Path) -> None:
    """Killed after the journal mode was set and before there was a table."""
    with contextlib.closing(pysqlite3.connect(str(db))) as conn:
        conn.execute("PRAGMA journal_mode = WAL")
    assert db.stat().st_size > 0
    prepare_file(db)
    assert _describe(db)["versions"] == [_todays_version(), 0x53544653]


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    """With the words that mend it."""
    _expect_refusal(tmp_path / "no" / "such" / "test.db", "does not exist")


def test_a_directory_in_the_files_place_is_refused(tmp_path: Path) -> None:
    """--db is to name a file."""
    with pytest.raises(SetupError):
        prepare_file(tmp_path)


def test_an_old_sqlite_is_refused(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that can corrupt the file when the WAL is reset."""
    monkeypatch.setattr(pysqlite3, "sqlite_version_info", (3, 51, 2))
    _expect_refusal(db, "too old.*pip install")
    assert not db.exists()


NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everyone can reach, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    """Without root's right to everything."""
    if os.getuid() != 0:
        yield
        return
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


@pytest.mark.parametrize(
    ("directory_mode", "file_mode"), [(0o555, None), (0o555, 0o666), (0o777, 0o444), (0o000, None), (0o000, 0o666)]
)
def test_a_place_without_the_right_to_write_is_refused(place: Path, directory_mode: int, file_mode: int | None) -> None:
    """A read-only directory, a read-only file, a directory that cannot even be looked into."""
    directory = place / "data"
    directory.mkdir()
    if file_mode is not None:
        prepare_file(directory / "test.db")
        (directory / "test.db").chmod(file_mode)
    directory.chmod(directory_mode)
    with _as_nobody(), pytest.raises(SetupError, match="cannot be written"):
        prepare_file(directory / "test.db")
