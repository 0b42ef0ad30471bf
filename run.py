"""Start staffstream here and now: `python run.py`. Without ANTHROPIC_API_KEY a stand-in answers; see README.md."""

import sys

from staffstream.cli.main import run_locally

if __name__ == "__main__":
    sys.exit(run_locally())
