"""`python -m bench.memory_page [RESULT]`: put a result of the bench `memory` into docs/MEMORY.md, plot and tables.

The latest whole result counts unless one is named. The plot is plain SVG, so that nothing is needed to draw it.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from bench.figures import RESULTS, show
from bench.memory import CPU, SPENT, TARGETS_MS, name_share
from bench.processes import ROOT

PAGE = ROOT / "docs" / "MEMORY.md"
PLOT = ROOT / "docs" / "images" / "memory-growth.svg"
IMAGE = f"![Our share of the first token over the memories in scope, with the targets](images/{PLOT.name})\n"
BEGIN, END = "<!-- figures: python -m bench.memory_page -->\n", "<!-- end of figures -->\n"

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 64, 132, 24, 56
LINES = (("p50", "#1f6feb", ""), ("p99", "#d9480f", "6 4"))

Point = tuple[float, float]


def main() -> None:
    result = Path(sys.argv[1]) if len(sys.argv) > 1 else max(RESULTS.glob("*Z-memory.json"))
    told = json.loads(result.read_text())
    values = {figure["name"]: figure["value"] for figure in told["figures"]}
    PLOT.write_text(draw_plot(values))
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + write_figures(told) + END + rest.partition(END)[2])
    print(f"{result.name} → {PAGE.relative_to(ROOT)}, {PLOT.relative_to(ROOT)}")


def find_sizes(values: Mapping[str, float]) -> list[int]:
    """How many memories the scopes had, ascending."""
    return [10**power for power in range(2, 7) if name_share(10**power, "p50") in values]


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_figures(told: Mapping[str, Any]) -> str:
    """Where the figures come from, the growth as a table, and all the other figures as they are named."""
    machine, values = told["machine"], {figure["name"]: figure["value"] for figure in told["figures"]}
    growth = [
        [f"{size:,}", *(show(values[name_share(size, part)]) for part in PARTS), _write_target(size)]
        for size in find_sizes(values)
    ]
    others = [
        [figure["name"], f"{show(figure['value'])} {figure['unit']}".strip()]
        for figure in told["figures"]
        if figure["name"] not in {name_share(size, part) for size in find_sizes(values) for part in PARTS}
    ]
    scored = " --locomo FILE" if any(name.startswith("R@") for name in values) else ""
    origin = (
        f"Measured on {told['at'][:10]} at commit {machine['commit']}: {machine['processor']}, {machine['cores']}"
        f" cores, {machine['system']}, CPython {machine['python']}; load at the end {machine['load']:.1f}."
        f" Command: `python -m bench memory{scored}`. Times in the first table are in ms.\n"
    )
    titles = ("memories in scope", *(part.replace("mean of ", "") for part in PARTS), "target, p50 / p99")
    return "\n".join((origin, IMAGE, *_write_table(titles, growth), "", *_write_table(("what", "figure"), others), ""))


PARTS = ("p50", "p99", *(f"mean of {part}" for part in (*SPENT, CPU)), "the first question")


def _write_target(size: int) -> str:
    return " / ".join(f"≤ {target:g}" for target in TARGETS_MS[size]) if size in TARGETS_MS else ""


def _write_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = (titles, ["---"] * len(titles), *rows)
    return ["| " + " | ".join(line) + " |" for line in lines]


# ── the plot ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def draw_plot(values: Mapping[str, float]) -> str:
    """p50 and p99 over the memories in scope, both axes logarithmic, with the targets as bars."""
    sizes = find_sizes(values)
    most = max(*(values[name_share(size, "p99")] for size in sizes), *(p99 for _, p99 in TARGETS_MS.values()))
    axes = _Axes(sizes[0], sizes[-1], top=10 ** math.ceil(math.log10(most)))
    parts = [*axes.draw(sizes), *(part for size in TARGETS_MS for part in axes.draw_targets(size))]
    for name, colour, dashes in LINES:
        parts += axes.draw_line([(size, values[name_share(size, name)]) for size in sizes], name, colour, dashes)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join((head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', *parts, "</svg>\n"))


class _Axes:
    """Where a number of memories and milliseconds lie."""

    def __init__(self, first: float, last: float, *, top: float) -> None:
        self._first, self._last, self._bottom, self._top = first, last, 1.0, top

    def place(self, size: float, ms: float) -> Point:
        across = math.log(size / self._first) / math.log(self._last / self._first)
        up = math.log(max(ms, self._bottom) / self._bottom) / math.log(self._top / self._bottom)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def draw(self, sizes: Sequence[int]) -> list[str]:
        """Grid, ticks and titles."""
        left, right = LEFT, WIDTH - RIGHT
        parts = []
        ms = self._bottom
        while ms <= self._top:
            for factor in (1, 2, 5) if ms < self._top else (1,):
                y = self.place(self._first, ms * factor)[1]
                parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#{"bbb" if factor == 1 else "eee"}"/>')
                parts.append(_write_text(left - 8, y + 4, f"{ms * factor:g}", "end"))
            ms *= 10
        for size in sizes:
            x = self.place(size, 1)[0]
            parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eee"/>')
            parts.append(_write_text(x, HEIGHT - BOTTOM + 20, f"{size:,}", "middle"))
        parts.append(_write_text((left + right) / 2, HEIGHT - 14, "memories in scope", "middle"))
        parts.append(_write_text(left, TOP - 8, "our share of the first token, ms", "start"))
        return parts

    def draw_line(self, points: Sequence[Point], name: str, colour: str, dashes: str) -> list[str]:
        """A curve with its points' values, named at its end."""
        places = [self.place(*point) for point in points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        style = f'fill="none" stroke="{colour}" stroke-width="2"' + (f' stroke-dasharray="{dashes}"' if dashes else "")
        parts = [f'<path d="M{path}" {style}/>']
        for (x, y), (_, ms) in zip(places, points, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
            parts.append(_write_text(x, y - 9 if dashes else y + 19, show(ms), "middle", colour))
        parts.append(_write_text(places[-1][0] + 26, places[-1][1] + 4, name, "start", colour))
        return parts

    def draw_targets(self, size: int) -> list[str]:
        """A short bar at the most that p50 and p99 may be."""
        parts = []
        for (name, colour, _), ms in zip(LINES, TARGETS_MS[size], strict=True):
            x, y = self.place(size, ms)
            parts.append(f'<path d="M{x - 14:.1f} {y:.1f}h28" stroke="{colour}" stroke-width="3" opacity=".45"/>')
            parts.append(_write_text(x - 18, y + 4, f"{name} target", "end", colour, size=10))
        return parts


def _write_text(x: float, y: float, text: str, anchor: str, colour: str = "#333", *, size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{escape(text)}</text>'
    )


if __name__ == "__main__":
    main()
