"""The measurements as a picture: throughput and latency against the load.

One SVG file that needs nothing else, with colours for light and dark pages. The line at p95 is
dashed, so that nothing is told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

import msgspec

from edge.cli import output
from edge.cli.load import figures
from edge.cli.load.report import Report

PANEL, GAP, TOP, HEIGHT = 250, 60, 76, 190
"""Pixels: width of a panel and space beside it, where its plot begins, and how high that is."""

STYLE = """
  .page { fill: #ffffff } .grid { stroke: #d0d7de } .axis { fill: #57606a }
  text { fill: #1f2328; font: 12px system-ui, sans-serif } .title { font-weight: 600 }
  .large { font-size: 15px; font-weight: 600 } .p95 { stroke-dasharray: 5 4 }
  polyline { fill: none; stroke: #0550ae; stroke-width: 2 } circle { fill: #0550ae }
  .bad { fill: #a40e26 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .grid { stroke: #30363d } .axis { fill: #9ea7b3 }
    text { fill: #e6edf3 } .bad { fill: #ff8182 }
    polyline { stroke: #6cb6ff } circle { fill: #6cb6ff }
  }
"""


class Line(msgspec.Struct):
    """One line of a panel; None where nothing was measured. name: the end is labelled with it."""

    name: str
    values: list[float | None]


def draw(report: Report) -> str:
    """The whole file."""
    runs = report.measured
    every = [figures.of_run(run) for run in runs]
    loads = [f"{run.rate:g}" if run.rate is not None else str(run.clients) for run in runs]
    axis = "requests per second" if runs and runs[0].rate is not None else "clients"
    failed = [sum(some.failed.values()) for some in every]
    first, last = [some.first_token for some in every], [some.latency for some in every]
    panels = [
        ("Output tokens per second", [Line("", [some.tokens_per_second for some in every])]),
        ("First token, seconds", [Line(p, [getattr(one, p) for one in first]) for p in PARTS]),
        ("Whole answer, seconds", [Line(p, [getattr(one, p) for one in last]) for p in PARTS]),
    ]
    width = len(panels) * (PANEL + GAP) + GAP // 2
    height = TOP + HEIGHT + 64
    title = f"{report.workload}: {report.model or 'default model'}"
    where = f"{report.url}" + (f", edge {report.edge}" if report.edge else "")
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">',
        f"<title>{_safe(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        f'<text class="large" x="{GAP}" y="26">{_safe(title)}</text>',
        f'<text class="axis" x="{GAP}" y="44">{_safe(where)}</text>',
    ]
    for number, (name, lines) in enumerate(panels):
        left = GAP + number * (PANEL + GAP)
        body += _panel(left, name, lines, loads, axis)
    body += _failures(loads, failed)
    return "\n".join([*body, "</svg>", ""])


PARTS = ("p50", "p95")


def _panel(
    left: float, name: str, lines: Sequence[Line], loads: Sequence[str], axis: str
) -> list[str]:
    highest = max((v for line in lines for v in line.values if v is not None), default=0.0)
    step = _step(highest)
    top = step * max(1, math.ceil(highest / step))
    found = [f'<text class="title" x="{left}" y="{TOP - 12}">{name}</text>']
    for tick in range(round(top / step) + 1):
        y = _y(tick * step, top)
        found.append(f'<path class="grid" d="M{left} {y:.1f}h{PANEL}"/>')
        found.append(
            f'<text class="axis" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{tick * step:g}</text>"
        )
    for place, load in enumerate(loads):
        x = _x(left, place, len(loads))
        found.append(_middle(x, TOP + HEIGHT + 18, load, "axis"))
    found.append(_middle(left + PANEL / 2, TOP + HEIGHT + 36, axis, "axis"))
    for line in lines:
        found += _line(left, line, len(loads), top)
    return found


def _line(left: float, line: Line, count: int, top: float) -> list[str]:
    points = [
        (_x(left, place, count), _y(value, top), value)
        for place, value in enumerate(line.values)
        if value is not None
    ]
    if not points:
        return []
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    found = [f'<polyline class="{line.name}" points="{joined}"/>']
    found += [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{value:.4g}</title></circle>'
        for x, y, value in points
    ]
    x, y, _ = points[-1]
    # The lines may end in one place: the upper one is named above it, the other below.
    y += -2 if line.name == "p95" else 12
    found.append(f'<text x="{x + 5:.1f}" y="{y:.1f}">{line.name}</text>')
    return found


def _failures(loads: Sequence[str], failed: Sequence[int]) -> list[str]:
    """Failed requests below the first panel: speed that was bought with them is none."""
    return [
        _middle(_x(GAP, place, len(loads)), TOP + HEIGHT + 54, f"{count} failed", "bad")
        for place, count in enumerate(failed)
        if count
    ]


def _x(left: float, place: int, count: int) -> float:
    """Loads stand at equal distances: they are usually doubled."""
    return left + PANEL * (place + 0.5) / count


def _y(value: float, top: float) -> float:
    return TOP + HEIGHT * (1 - value / top)


def _step(highest: float) -> float:
    """1, 2 or 5 times a power of ten: four to ten lines of a grid from zero to `highest`."""
    if highest <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(highest))
    return next(power * part for part in (0.2, 0.5, 1.0, 2.0) if highest / (power * part) <= 7)


def _middle(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="middle">{_safe(text)}</text>'


def _safe(text: str) -> str:
    return escape(output.harmless(text))
