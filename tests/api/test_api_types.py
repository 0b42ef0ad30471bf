"""The TypeScript types of the packages come from the API's own description."""

import importlib.util
from pathlib import Path
from types import ModuleType

from tests.tools.server import leave_out

SCRIPT = Path(__file__).parents[2] / "scripts" / "write_api_types.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_api_types", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_packages_types_are_fresh() -> None:
    """After a change of the API: make types."""
    script = load_script()
    if not script.GENERATOR.exists():
        leave_out("openapi-typescript is missing; get it with: npm ci --prefix packages")
    assert script.TARGET.read_text("utf-8") == script.write_types()
