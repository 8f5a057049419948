"""Where pages go when memory gets scarce."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge.host import kernel


class Swap(msgspec.Struct, frozen=True):
    """In bytes. compressed: all of it is zram, which is memory itself. devices: on disks."""

    total: int
    used: int
    compressed: bool
    devices: tuple[str, ...]


def swap(root: Path = Path("/")) -> Swap | None:
    """All places together, from /proc/swaps; total 0 where there is none, None where unknown."""
    listed = kernel.text(root / "proc/swaps")
    if listed is None:
        return None
    rows = [line.split() for line in listed.splitlines()[1:]]
    places = [(row[0], int(row[2]), int(row[3])) for row in rows if len(row) >= 4]
    devices = tuple(name for name, _, _ in places if "zram" not in name)
    return Swap(
        total=sum(size for _, size, _ in places) * 1024,
        used=sum(used for _, _, used in places) * 1024,
        compressed=bool(places) and not devices,
        devices=devices,
    )
