"""schema.sql and the migrations that lead to it, as the package carries them."""

import importlib.resources
from pathlib import Path


def read_schema() -> str:
    """schema.sql: beside the package in a wheel, at the repository's top in an editable install."""
    inside = importlib.resources.files("staffstream").joinpath("schema.sql")
    if inside.is_file():
        return inside.read_text("utf-8")
    return (Path(__file__).parents[3] / "schema.sql").read_text("utf-8")


def read_version(schema: str | None = None) -> int:
    """The version of today's tables."""
    return int((schema or read_schema()).rsplit("user_version = ", 1)[1].split(";", 1)[0])


def read_migrations() -> list[tuple[int, str]]:
    """(version it leads to, SQL) of each migration, in order. `0002_….sql` leads from version 1 to version 2."""
    folder = importlib.resources.files("staffstream").joinpath("storage", "migrations")
    files = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql")) if folder.is_dir() else []
    return [(int(name[:4]), folder.joinpath(name).read_text("utf-8")) for name in files]
