"""`python -m bench [--smoke] [NAME …]`: run the benches, print their figures, keep them in bench/results/."""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import uvloop

from bench import figures, processes

NAMES = ("relay", "dialects", "accept", "fanout", "slow_readers", "start", "first_token")
MORE = ("memory", "crash", "soak")  # take long: run when they are named, and in short with --smoke


async def run(names: list[str], *, smoke: bool, given: dict[str, dict[str, Any]]) -> bool:
    """Whether every target was met. `given` holds the options of single benches."""
    met = True
    for name in names:
        bench = import_module(f"bench.{name}")
        print(f"\n{name}: {bench.__doc__.partition(chr(10))[0]}", flush=True)
        found: list[figures.Figure] = await bench.measure(smoke=smoke, **given.get(name, {}))
        figures.print_table(found)
        print(f"  → {figures.save(name, found, smoke=smoke).relative_to(processes.ROOT)}", flush=True)
        met = met and not any(figure.missed for figure in found)
    return met


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, beside peers, in this very run.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"some of: {', '.join(NAMES + MORE)}; default: {', '.join(NAMES)}"
    )
    parser.add_argument("--smoke", action="store_true", help="short runs without targets, to see that the benches work")
    parser.add_argument("--locomo", type=Path, metavar="FILE", help="locomo10.json: what `memory` finds in it")
    parser.add_argument("--minutes", type=float, help="how long `soak` goes on; by default 3")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES + MORE):
        parser.error(f"no bench is named {', '.join(sorted(unknown))}")
    processes.raise_file_limit()
    names = options.names or [*NAMES, *(MORE if options.smoke else ())]
    given = {"memory": {"locomo": options.locomo}, "soak": {"minutes": options.minutes}}
    met = uvloop.run(run(names, smoke=options.smoke, given=given))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
