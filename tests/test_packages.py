"""The browser's side passes its own checks, one of which compares the page that is served with its source."""

import os
import subprocess
from pathlib import Path

from tests.tools.server import leave_out, require_tool

PACKAGES = Path(__file__).parents[1] / "packages"
LIMIT_S = 1200


def run_npm(*command: str) -> None:
    """Run a script of the packages; what it prints is shown when it fails."""
    npm = require_tool("npm", "apt-get install nodejs npm")
    if not (PACKAGES / "node_modules").is_dir():
        leave_out("the packages' dependencies are missing; get them with: npm ci --prefix packages")
    done = subprocess.run(
        [npm, *command],
        cwd=PACKAGES,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


def test_the_packages_are_well_typed_and_formatted() -> None:
    """biome and tsc find nothing, and the package builds."""
    run_npm("run", "build", "--workspace", "react")
    run_npm("run", "lint")


def test_the_packages_pass_their_own_tests() -> None:
    """Client, store, hook and components against a real server, and the page in a real browser."""
    run_npm("test")
