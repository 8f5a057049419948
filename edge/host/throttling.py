"""Whether the machine slows itself down now, and how often its supply was too weak."""

from __future__ import annotations

from pathlib import Path

from edge.host import kernel

_OVER_CURRENT = {
    "oc1": "under-voltage",
    "oc2": "average over-current",
    "oc3": "instantaneous over-current",
}
"""The events of Orin's hardware. The last is common at full speed, and no fault."""


def active(root: Path = Path("/")) -> list[str] | None:
    """The cooling devices that take clocks down now: `gpu-throttle-alert`, `cpufreq-cpu0`; None
    where none tells."""
    told = False
    working = []
    for folder in kernel.numbered(root / "sys/class/thermal", "cooling_device*"):
        kind, state = kernel.text(folder / "type"), kernel.number(folder / "cur_state")
        if kind is None or state is None or not _slows(kind):
            continue
        told = True
        if state > 0:
            working.append(kind)
    return list(dict.fromkeys(working)) if told else None


def over_current(root: Path = Path("/")) -> dict[str, int] | None:
    """Events since the boot by what they are; None where the machine does not count them."""
    for chip in kernel.numbered(root / "sys/class/hwmon", "hwmon*"):
        if kernel.text(chip / "name") == "soctherm_oc":
            counts = {
                meaning: kernel.number(chip / f"{event}_event_cnt")
                for event, meaning in _OVER_CURRENT.items()
            }
            return {meaning: count for meaning, count in counts.items() if count is not None}
    return None


def _slows(kind: str) -> bool:
    """ACPI's name for a processor, the drivers of clocks, and NVIDIA's alerts."""
    return kind == "Processor" or kind.startswith(("cpufreq-", "devfreq-")) or "-throttle-" in kind
