"""How facts reach the terminal: JSON for programs, aligned text for people."""

from __future__ import annotations

import re
from typing import Any

import click
import msgspec
from rich.console import Console, RenderableType
from rich.table import Table

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def json(facts: Any, *, err: bool = False) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(facts), indent=2).decode(), err=err)


def show(*parts: RenderableType) -> None:
    """On a terminal as wide as it is; elsewhere lines are never folded, for grep's sake."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    # Tables are padded to their full width.
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def columns(*headings: str) -> Table:
    """A table without lines around its cells."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading)
    return table


def harmless(text: str) -> str:
    """Text of foreign origin without the control characters that could steer a terminal."""
    return _CONTROL.sub("", text)


def size(count: float | None) -> str:
    """Bytes for people, in powers of 1000 as disks and model pages count."""
    if count is None:
        return "unknown"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def watts(drawn: float | None) -> str:
    return "unknown" if drawn is None else f"{drawn:.1f} W"


def duration(seconds: float) -> str:
    """The two largest units: `3 d 4 h`, `12 min 5 s`."""
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
