"""Power rails of Jetson modules: the INA3221 monitors, each with three channels.

Format: https://docs.kernel.org/hwmon/ina3221.html
"""

from __future__ import annotations

from pathlib import Path

from edge.host import kernel

_WHOLE = ("VDD_IN",)
"""The module's input on Orin NX and Orin Nano: all other rails are fed from it."""

_WITHIN = ("VDDQ_VDD2_1V8AO",)
"""Rails that are fed from another one that is measured: on AGX Orin the memory's, from
VIN_SYS_5V0. The rest of the table: NVIDIA's developer guide, "Software-Based Power Consumption
Modeling"."""


def rails(root: Path = Path("/")) -> dict[str, float | None] | None:
    """Watts by the rail's name, None for one that cannot be read; None without any rail."""
    found: dict[str, float | None] = {}
    for chip in kernel.numbered(root / "sys/class/hwmon", "hwmon*"):
        if kernel.text(chip / "name") != "ina3221":
            continue
        for channel in ("1", "2", "3"):
            label = kernel.text(chip / f"in{channel}_label")
            if label and label != "NC":
                found[label] = _watts(chip, channel)
    return found or None


def total(found: dict[str, float | None]) -> float | None:
    """Watts of the whole module; None when a rail that counts cannot be read."""
    whole = [name for name in _WHOLE if name in found]
    counted = whole or [name for name in found if name not in _WITHIN]
    watts = [found[name] for name in counted]
    known = [one for one in watts if one is not None]
    return sum(known) if known and len(known) == len(watts) else None


def _watts(chip: Path, channel: str) -> float | None:
    """From millivolts and milliamperes."""
    volts = kernel.number(chip / f"in{channel}_input")
    amperes = kernel.number(chip / f"curr{channel}_input")
    return None if volts is None or amperes is None else volts * amperes / 1e6
