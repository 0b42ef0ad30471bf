"""The command line, run as its user runs it."""

import subprocess
import sys
from pathlib import Path


def run_command(*arguments: str | Path, db: Path) -> subprocess.CompletedProcess[str]:
    """`staffstream ARGUMENTS --db DB`, to its end, whatever that is."""
    command = [sys.executable, "-m", "staffstream", *arguments, "--db", db]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
