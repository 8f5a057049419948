"""Energy counters of PC processors: RAPL, running average power limit.

Format: https://docs.kernel.org/power/powercap/powercap.html. Since Linux 5.10 root alone may read
them.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge.host import kernel


class Counter(msgspec.Struct, frozen=True):
    """joules: since some moment; it starts again from 0 after `span`."""

    joules: float
    span: float


def counters(root: Path = Path("/")) -> dict[str, Counter | None] | None:
    """Of each processor package and its memory, by name, None for what must not be read; None
    without any. The cores are in their package and not told apart."""
    found: dict[str, Counter | None] = {}
    for folder in kernel.numbered(root / "sys/class/powercap", "intel-rapl:*"):
        name = kernel.text(folder / "name")
        if name is None or not name.startswith(("package", "dram")):
            continue
        if name == "dram" and "dram" in found:  # one for each package
            name = f"dram {folder.name.split(':')[1]}"
        found[name] = _counter(folder)
    return found or None


def spent(before: Counter, after: Counter) -> float:
    """Joules between two readings."""
    joules = after.joules - before.joules
    return joules if joules >= 0 else joules + after.span


def _counter(folder: Path) -> Counter | None:
    micro = kernel.number(folder / "energy_uj")
    span = kernel.number(folder / "max_energy_range_uj")
    return None if micro is None or span is None else Counter(micro / 1e6, span / 1e6)
