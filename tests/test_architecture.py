"""docs/ARCHITECTURE.md names files and functions that exist, and the rooms keep what import-linter cannot check."""

import ast
import graphlib
import re
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "staffstream"
TEXT = (ROOT / "docs" / "ARCHITECTURE.md").read_text("utf-8")
_NAMED = re.compile(r"`([\w/]+(?:\.py|/))(?::([\w.]+))?`")


def _list_names(path: Path) -> set[str]:
    """Functions, classes and methods of a module, as `name` and `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef))
            names |= {f"{node.name}.{method.name}" for method in methods}
    return names


def test_every_file_and_function_that_is_named_exists() -> None:
    """Paths are relative to the package."""
    found = _NAMED.findall(TEXT)
    assert len(found) > 30
    for file, name in found:
        path = PACKAGE / file
        assert path.exists(), file
        assert not name or name in _list_names(path), f"{file} has no {name}"


def test_every_room_is_in_the_picture() -> None:
    """And the picture has no room that is not there."""
    picture = TEXT.split("```")[1]
    drawn = {line.split()[0].rstrip("/") for line in picture.splitlines() if "/ " in line.split("  ")[0] + " "}
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert drawn == rooms


# ── what import-linter cannot check ──────────────────────────────────────────────────────────────────────────────────

_SQL = re.compile(
    r"\s*(SELECT\s.+|INSERT\s+(OR \w+ )?INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|WITH\s+\w+.*\bAS\s*\(|PRAGMA\s+\w"
    r"|(CREATE|ALTER|DROP)\s+(TABLE|INDEX|VIEW|TRIGGER)\b|BEGIN\b.*IMMEDIATE|COMMIT\s*$|ROLLBACK\s*$)",
    re.DOTALL,
)
_EXECUTE = {"execute", "executemany", "executescript", "execute_fetchall"}


def find_sql(source: str) -> list[int]:
    """The lines of a module that hold a statement of SQL or execute one."""
    found = []
    for node in ast.walk(ast.parse(source)):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and _SQL.match(node.value)
        is_call = isinstance(node, ast.Attribute) and node.attr in _EXECUTE
        if is_text or is_call:
            found.append(node.lineno)
    return found


def test_only_storage_holds_sql() -> None:
    """Each other module asks a function of storage/."""
    modules = [path for path in PACKAGE.rglob("*.py") if "storage" not in path.relative_to(PACKAGE).parts]
    assert len(modules) > 100
    found = {str(path.relative_to(PACKAGE)): lines for path in modules if (lines := find_sql(path.read_text("utf-8")))}
    assert found == {}


@pytest.mark.parametrize(
    "statement",
    [
        "conn.execute(statement)",
        "x = 'SELECT 1'",
        "x = f'SELECT * FROM {table}'",
        "x = ' INSERT INTO runs (id) VALUES (?)'",
        "x = 'UPDATE runs SET state = 1'",
        "x = 'DELETE FROM runs'",
        "x = 'WITH a AS (SELECT 1) SELECT * FROM a'",
        "x = 'PRAGMA user_version'",
        "x = 'BEGIN IMMEDIATE'",
    ],
)
def test_sql_is_found(statement: str) -> None:
    """So that the test above can fail."""
    assert find_sql(statement)


def test_storage_is_full_of_sql() -> None:
    """What looks for statements finds them where they are."""
    modules = [path for path in (PACKAGE / "storage").glob("*.py") if find_sql(path.read_text("utf-8"))]
    assert len(modules) > 15


def test_support_knows_no_value_of_the_domain() -> None:
    """Of `domain` it may use functions for times and texts, and no class."""
    used = {
        name.name
        for path in (PACKAGE / "support").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "staffstream.domain"
        for name in node.names
    }
    assert used == {"clean_text", "format_time", "load_zone", "parse_time"}


def test_no_module_is_long() -> None:
    """A module of over 400 lines is two."""
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert len(lengths) > 100
    assert {str(path.relative_to(PACKAGE)): length for path, length in lengths.items() if length > 400} == {}


def test_each_room_has_its_paragraph_and_three_modules() -> None:
    """A room of fewer modules is a module."""
    rooms = [path.parent for path in PACKAGE.glob("*/__init__.py")]
    assert len(rooms) == 8
    for room in rooms:
        assert ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8"))), room
        assert len(list(room.glob("*.py"))) > 3, room


_MODULE = re.compile(r"(?<![\w.*-])((?:\w+/)*\w+\.py)\b")


def test_every_module_that_a_comment_names_exists() -> None:
    """In docstrings and comments of the package, by its name or by its path from a room or from the top."""
    places = [*ROOT.glob("*.py"), *(path for top in ("src", "bench", "scripts") for path in (ROOT / top).rglob("*.py"))]
    known = [f"/{path.relative_to(ROOT)}" for path in places]
    named = {
        (str(path.relative_to(PACKAGE)), name)
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        for name in _MODULE.findall(line)
    }
    assert len(named) > 20
    assert [each for each in sorted(named) if not any(path.endswith(f"/{each[1]}") for path in known)] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Within a room too, where import-linter's floors allow it."""
    graph = grimp.build_graph("staffstream", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 100
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, with the circle
