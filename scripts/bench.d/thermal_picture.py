"""The picture of `./scripts/bench thermal`: an SVG of panels over one time axis, drawn here.

Coordinates are SVG's: x to the right and y down, in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 560, 150
LEFT, TOP, GAP = 62, 96, 44
MOST_POINTS = 300
"""Of a line, which has no room for more."""

INK, FAINT = "#1f2933", "#9aa5b1"
BANDS = ("#ffffff", "#fff8db", "#ffedb8", "#ffdca8", "#ffc7a3", "#f7a8a0")
"""Behind all panels, by level."""


@dataclass
class Panel:
    """One diagram. Values of its axis are from `low` to `high`."""

    title: str
    low: float
    high: float
    unit: str
    marks: list[str] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)


class Column:
    """The panels of one run, above each other, over `seconds`."""

    def __init__(self, number: int, title: str, seconds: float) -> None:
        self.x = LEFT + number * (WIDTH + LEFT + 24)
        self.title = title
        self.seconds = seconds
        self.bands: list[tuple[float, float, int]] = []
        self.panels: list[Panel] = []

    def panel(self, title: str, low: float, high: float, unit: str) -> None:
        self.panels.append(Panel(title, low, high, unit))

    def line(self, points: Points, colour: str, name: str = "", dash: str = "") -> None:
        """Into the last panel."""
        points = points[:: max(1, len(points) // MOST_POINTS)]
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        path = " ".join(f"{self._across(at):.1f},{self._up(value):.1f}" for at, value in points)
        self._put(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dashes}/>'
        )
        if name:
            self.panels[-1].legend.append((name, colour))

    def dots(self, points: Points, colour: str, name: str = "") -> None:
        for at, value in points:
            x, y = self._across(at), self._up(value)
            self._put(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}"/>')
        if name:
            self.panels[-1].legend.append((name, colour))

    def svg(self) -> str:
        height = len(self.panels) * (HEIGHT + GAP)
        parts = [_text(self.x, TOP - 38, self.title, size=16, weight="bold")]
        for begin, end, level in self.bands:
            x, width = self._across(begin), self._across(end) - self._across(begin)
            parts += [
                f'<rect x="{x:.1f}" y="{_top(row)}" width="{width:.1f}" height="{HEIGHT}" '
                f'fill="{BANDS[level]}"/>'
                for row in range(len(self.panels))
            ]
        for row, panel in enumerate(self.panels):
            parts += [*self._frame(row, panel), *panel.marks]
        parts.append(_text(self.x + WIDTH, TOP + height - 12, "seconds", anchor="end"))
        return "\n".join(parts)

    def _frame(self, row: int, panel: Panel) -> list[str]:
        top, right = _top(row), self.x + WIDTH
        parts = [
            f'<rect x="{self.x}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" '
            f'stroke="{FAINT}"/>',
            _text(self.x, top - 7, f"{panel.title}, {panel.unit}", weight="bold"),
        ]
        x = right
        for name, colour in reversed(panel.legend):
            parts.append(_text(x, top - 7, name, colour=colour, anchor="end"))
            x -= 7 * len(name) + 14
        for part in (0.0, 0.5, 1.0):
            value = panel.low + part * (panel.high - panel.low)
            y = top + HEIGHT * (1 - part)
            parts.append(_text(self.x - 6, y + 4, f"{value:g}", anchor="end"))
        step = 30 if self.seconds <= 300 else 60
        for at in range(0, int(self.seconds) + 1, step):
            parts.append(_text(self._across(at), top + HEIGHT + 14, str(at), anchor="middle"))
        return parts

    def _put(self, mark: str) -> None:
        self.panels[-1].marks.append(mark)

    def _across(self, at: float) -> float:
        return self.x + WIDTH * min(at, self.seconds) / self.seconds

    def _up(self, value: float) -> float:
        panel, row = self.panels[-1], len(self.panels) - 1
        part = (min(max(value, panel.low), panel.high) - panel.low) / (panel.high - panel.low)
        return _top(row) + HEIGHT * (1 - part)


def write(
    path: Path, title: str, bands: Sequence[str], notes: Sequence[str], columns: Sequence[Column]
) -> None:
    """bands: what the colours behind the panels stand for, from level 1 on. notes: lines below the
    panels, on what is simulated."""
    width = max(column.x for column in columns) + WIDTH + 24
    bottom = TOP + max(len(column.panels) for column in columns) * (HEIGHT + GAP)
    height = bottom + 22 * len(notes) + 20
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(LEFT, 30, title, size=20, weight="bold"),
        *_swatches(bands, width),
        *(column.svg() for column in columns),
        *(_text(LEFT, bottom + 22 * row + 14, note, size=13) for row, note in enumerate(notes)),
        "</svg>",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def smoothed(times: Sequence[float], seconds: float, window: float = 8.0) -> Points:
    """Events a second, over a window that moves in half seconds."""
    points, ats = [], sorted(times)
    for half in range(int(seconds * 2)):
        at = half / 2
        count = sum(at - window < one <= at for one in ats)
        points.append((at, count / window))
    return points


def _swatches(bands: Sequence[str], width: float) -> list[str]:
    """In the title's line, to the right."""
    parts, step = [], 118
    for place, name in enumerate(bands):
        x = width - 24 - step * (len(bands) - place)
        colour = BANDS[place + 1]
        parts.append(
            f'<rect x="{x}" y="18" width="14" height="14" fill="{colour}" stroke="{FAINT}"/>'
        )
        parts.append(_text(x + 20, 30, name))
    return parts


def _top(row: int) -> float:
    return TOP + row * (HEIGHT + GAP)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    colour: str = INK,
    anchor: str = "start",
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
        f'text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
    )
