"""NVIDIA's cards in PCs, as `nvidia-smi` tells about them. Takes up to seconds: not for the event
loop.

A Jetson has that program too, and there it knows next to nothing.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec

from edge.host import board

_FIELDS = "name,driver_version,temperature.gpu,power.draw,utilization.gpu"
_SECONDS = 10.0


class Card(msgspec.Struct, frozen=True):
    """load: 0 to 1. What the card does not tell (`[N/A]`) is None."""

    name: str
    driver: str | None
    celsius: float | None
    watts: float | None
    load: float | None


def program(root: Path = Path("/")) -> Path | None:
    """Where it is; None where the driver is not installed."""
    path = root / "usr/bin/nvidia-smi"
    return path if os.access(path, os.X_OK) else None


def cards(root: Path = Path("/")) -> list[Card] | None:
    """All cards in the driver's order; None on a Jetson, and where it does not answer."""
    path = program(root)
    if path is None or board.is_jetson(root):
        return None
    try:
        child = subprocess.run(
            [path, f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"],
            capture_output=True,
            timeout=_SECONDS,
            check=True,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [[cell.strip() for cell in line.split(",")] for line in child.stdout.splitlines()]
    return [_card(row) for row in rows if len(row) == len(_FIELDS.split(","))]


def by_name(found: list[Card] | None) -> dict[str, Card]:
    """The second card of one kind gets its number behind its name."""
    named: dict[str, Card] = {}
    for number, card in enumerate(found or []):
        named[card.name if card.name not in named else f"{card.name} {number}"] = card
    return named


def _card(row: list[str]) -> Card:
    name, driver, celsius, watts, percent = row
    load = _number(percent)
    return Card(
        name=name,
        driver=None if driver.startswith("[") else driver,
        celsius=_number(celsius),
        watts=_number(watts),
        load=None if load is None else load / 100,
    )


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
