"""What a bench hands in, as a table and as JSON."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "aiohttp", "anthropic", "chromadb", "fastapi", "hypercorn", "numpy", "onnxruntime", "pysqlite3", "sse-starlette",
    "uvicorn", "uvloop",
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One number. `target` is the most it may be; None for a number that only explains another."""

    name: str
    value: float
    unit: str
    target: float | None = None

    @property
    def missed(self) -> bool:
        return self.target is not None and self.value > self.target


def can_measure(what: str, modules: Sequence[str]) -> bool:
    """Whether the modules that it takes are installed; else it is said that it is left out."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        print(f"  {what} is left out: {', '.join(missing)} not installed", flush=True)
    return not missing


def take_quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values is below."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def print_table(figures: Sequence[Figure]) -> None:
    """One line a figure: what, how much, at most, and whether it is met."""
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        verdict = "" if figure.target is None else f"≤ {figure.target:<6g} {'MISSED' if figure.missed else 'met'}"
        print(f"{figure.name:<{width}}  {show(figure.value):>8} {figure.unit:<9} {verdict}".rstrip(), flush=True)


def show(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def save(name: str, figures: Sequence[Figure], *, smoke: bool) -> Path:
    """Write a bench's figures to bench/results/, with what machine, versions and load they come from."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}-{name}{'-smoke' if smoke else ''}.json"
    described = {"bench": name, "smoke": smoke, "at": now.isoformat(timespec="seconds"), "machine": describe_machine()}
    path.write_text(json.dumps(described | {"figures": [asdict(figure) for figure in figures]}, indent=1) + "\n")
    return path


def describe_machine() -> dict[str, object]:
    """What a figure depends on beside the code, and the code's commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cores": os.cpu_count(),
        "processor": _find_processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _find_version(name) for name in PACKAGES},
        "commit": commit.stdout.strip(),
        "load": os.getloadavg()[0],
    }


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a peer's, from an extra
        return None


def _find_processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
