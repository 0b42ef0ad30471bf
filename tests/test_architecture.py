"""docs/ARCHITECTURE.md names files and functions that exist."""

import ast
import re
from pathlib import Path

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
