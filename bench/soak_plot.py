"""The samples of a soak as a plot: one panel a measure, plain SVG, so that nothing is needed to draw it."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, PANEL, LEFT, RIGHT, GAP = 760, 110, 70, 16, 34
PANELS = (
    ("rss_mb", "resident memory, MB"),
    ("descriptors", "descriptors"),
    ("threads", "threads"),
    ("wal_mb", "WAL, MB"),
)


class Sample(NamedTuple):
    """A server at one moment, `second` seconds after the first sample."""

    second: float
    rss_mb: float
    descriptors: int
    threads: int
    wal_mb: float


def draw_samples(samples: Sequence[Sample]) -> str:
    """The SVG, each panel from 0 to a little above its largest value, over the minutes."""
    height = GAP + len(PANELS) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number, (name, title) in enumerate(PANELS):
        parts += _draw_panel(
            GAP + number * (PANEL + GAP), title, [(each.second, getattr(each, name)) for each in samples]
        )
    minutes = samples[-1].second / 60
    parts.append(_write(WIDTH - RIGHT, height - 8, f"{minutes:.0f} minutes", "end"))
    return "\n".join((*parts, "</svg>\n"))


def _draw_panel(top: float, title: str, points: Sequence[tuple[float, float]]) -> list[str]:
    last, most = max(points[-1][0], 1.0), max(max(value for _, value in points) * 1.1, 1e-9)
    bottom, width = top + PANEL, WIDTH - LEFT - RIGHT
    path = "L".join(f"{LEFT + x / last * width:.1f} {bottom - y / most * PANEL:.1f}" for x, y in points)
    return [
        f'<path d="M{LEFT} {top}V{bottom}H{WIDTH - RIGHT}" fill="none" stroke="#bbb"/>',
        f'<path d="M{path}" fill="none" stroke="#1f6feb" stroke-width="1.5"/>',
        _write(LEFT, top - 8, title, "start"),
        _write(LEFT - 8, top + 10, f"{most / 1.1:.0f}", "end"),
        _write(LEFT - 8, bottom, "0", "end"),
    ]


def _write(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333" font-size="12">{escape(text)}</text>'
