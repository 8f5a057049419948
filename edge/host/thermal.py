"""Temperatures, as the kernel's thermal zones tell them."""

from __future__ import annotations

from pathlib import Path

from edge.host import kernel


def zones(root: Path = Path("/")) -> dict[str, float] | None:
    """Degrees Celsius by the zone's type; None where there is no zone that can be read."""
    found: dict[str, float] = {}
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        # Milli-degrees; zones of parts that are switched off refuse to be read.
        value = kernel.number(folder / "temp")
        if value is not None:
            try:
                name = (folder / "type").read_text().strip()
            except OSError:
                name = folder.name
            found[name] = value / 1000
    return found or None
