"""The browser's side passes its own checks, one of which compares the page that is served with its source."""

import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

from tests.tools.server import leave_out, require_tool

PACKAGES = Path(__file__).parents[1] / "packages"
LIMIT_S = 1200


def run_npm(*command: str, folder: Path = PACKAGES) -> None:
    """Run npm in a folder; what it prints is shown when it fails."""
    npm = require_tool("npm", "apt-get install nodejs npm")
    if not (PACKAGES / "node_modules").is_dir():
        leave_out("the packages' dependencies are missing; get them with: npm ci --prefix packages")
    done = subprocess.run(
        [npm, *command],
        cwd=folder,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


def test_the_packages_are_well_typed_and_formatted() -> None:
    """biome and tsc find nothing; publint and attw find nothing wrong in what would be published."""
    run_npm("run", "lint")
    run_npm("run", "check")


def test_the_packed_package_works_in_a_new_app(tmp_path: Path) -> None:
    """Installed as the guide says: its licence is in it, its links lead somewhere, `vite build` bundles one React."""
    run_npm("pack", "--workspace", "react", "--pack-destination", str(tmp_path))
    (packed,) = tmp_path.glob("*.tgz")
    with tarfile.open(packed) as archive:
        names = archive.getnames()
        readme = archive.extractfile("package/README.md")
        assert readme is not None
        links = re.findall(r"\]\(([^)]+)\)", readme.read().decode())
    assert "package/LICENSE" in names
    assert links
    for link in links:
        path = link.removeprefix("https://github.com/staffstream/staffstream/blob/main/")
        assert (PACKAGES.parent / path).is_file(), link

    app = tmp_path / "app"
    app.mkdir()
    versions = json.loads((PACKAGES / "package.json").read_text())["devDependencies"]
    vite = json.loads((PACKAGES / "page" / "package.json").read_text())["devDependencies"]["vite"]
    dependencies = {"@staffstream/react": f"file:{packed}", "vite": vite, "react": versions["react"]}
    dependencies["react-dom"] = versions["react-dom"]
    (app / "package.json").write_text(json.dumps({"private": True, "type": "module", "dependencies": dependencies}))
    (app / "index.html").write_text('<div id="root"></div><script type="module" src="./main.js"></script>')
    (app / "main.js").write_text(
        'import { StaffChat } from "@staffstream/react"\nimport "@staffstream/react/styles.css"\n'
        'import { createElement } from "react"\nimport { createRoot } from "react-dom/client"\n'
        'createRoot(document.getElementById("root")).render(createElement(StaffChat, { staffId: "a" }))\n'
    )
    run_npm("install", "--prefer-offline", "--no-audit", "--no-fund", folder=app)
    run_npm("exec", "vite", "build", folder=app)
    assert [path.parent.name for path in app.glob("**/node_modules/react/package.json")] == ["react"]
    bundle = "".join(path.read_text() for path in (app / "dist" / "assets").glob("*.js"))
    assert bundle.count(".forwardRef=") == 1


def test_the_packages_pass_their_own_tests() -> None:
    """Client, store, hook and components against a real server, and the page in a real browser."""
    run_npm("test")
