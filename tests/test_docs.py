"""The pages in docs/ and the README say what is true: what is generated is up to date, what is code runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_reference_pages_are_up_to_date() -> None:
    """Every setting and every command has its entry, written from the code."""
    script = [sys.executable, ROOT / "scripts" / "write_reference.py", "--check"]
    checked = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + "run: python scripts/write_reference.py"


def test_the_readme_names_real_make_targets() -> None:
    """Each `make …` of the README is a target of the Makefile."""
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    named = set(re.findall(r"^make (\w+)", readme, re.MULTILINE))
    assert named
    assert named <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))


PAGES = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("**/*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """A relative link names a file that is there."""
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
