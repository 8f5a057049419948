"""Temperatures and the points at which the machine slows down or switches itself off.

Boards have thermal zones; the processors and disks of PCs have chips of their own under hwmon.
Not psutil: it knows no other root, and ends in an error on boards whose zones have no power.
Format: https://docs.kernel.org/driver-api/thermal/sysfs-api.html
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from edge.host import kernel

_ONLY_TELL = ("hot-surface-alert", "pwm-fan", "Fan")
"""Cooling devices that take no clock down: NVIDIA's notice at 70 °C, and fans."""

_CHIPS = ("coretemp", "k10temp", "zenpower", "nvme")
_CORES = "Core "
_COLDEST = -60.0
"""Sensors that are off read -256 °C on some boards and -274 on others."""


class Zone(msgspec.Struct, frozen=True):
    """In degrees Celsius. throttles_at: from there on clocks are taken down. shuts_down_at: there
    the kernel switches the machine off.

    enforced: it is the kernel that takes them down there, as it tells which. A processor's own
    limit is not: many raise their clocks until they are at it. Nor is a point that a firmware
    names and nothing is bound to.
    """

    celsius: float | None
    throttles_at: float | None = None
    shuts_down_at: float | None = None
    enforced: bool = False


def zones(root: Path = Path("/")) -> dict[str, Zone] | None:
    """By name, with those that cannot be read now; None where the machine has no sensor."""
    found: dict[str, Zone] = {}
    for folder in kernel.numbered(root / "sys/class/thermal", "thermal_zone*"):
        name = kernel.text(folder / "type") or folder.name
        found[_free(name, folder.name, found)] = _zone(folder)
    for chip in kernel.numbered(root / "sys/class/hwmon", "hwmon*"):
        kind = kernel.text(chip / "name")
        if kind in _CHIPS:
            _add_chip(kind, chip, found)
    return found or None


def hottest(found: dict[str, Zone]) -> tuple[str, float] | None:
    """Name and temperature of the zone nearest to where it throttles; where none has such a point,
    of the warmest."""
    known = {name: zone.celsius for name, zone in found.items() if zone.celsius is not None}
    room = {
        name: limit - celsius
        for name, celsius in known.items()
        if (limit := found[name].throttles_at) is not None
    }
    if room:
        name = min(room, key=lambda one: room[one])
        return name, known[name]
    return max(known.items(), key=lambda one: one[1], default=None)


def _zone(folder: Path) -> Zone:
    trips = [
        (name.name.removesuffix("_type"), kernel.text(name))
        for name in kernel.numbered(folder, "trip_point_*_type")
    ]
    bound = _bound(folder)
    passive = {
        celsius: trip.removeprefix("trip_point_") in bound
        for trip, kind in trips
        if kind == "passive" and _slows(bound.get(trip.removeprefix("trip_point_")))
        if (celsius := _celsius(folder / f"{trip}_temp")) is not None
    }
    critical = [_celsius(folder / f"{trip}_temp") for trip, kind in trips if kind == "critical"]
    slows = _first(passive)
    enforced = slows is not None and passive[slows]
    return Zone(_celsius(folder / "temp"), slows, _first(critical), enforced)


def _bound(folder: Path) -> dict[str, list[str]]:
    """The types of the cooling devices that each trip point, by its number, sets to work."""
    bound: dict[str, list[str]] = {}
    for link in kernel.numbered(folder, "cdev*_trip_point"):
        trip = kernel.text(link)
        kind = kernel.text(folder / link.name.removesuffix("_trip_point") / "type")
        if trip is not None and kind is not None:
            bound.setdefault(trip, []).append(kind)
    return bound


def _slows(devices: list[str] | None) -> bool:
    """Where it is not told what a trip point sets to work, it is taken at its word."""
    return devices is None or any(device not in _ONLY_TELL for device in devices)


def _first(points: Iterable[float | None]) -> float | None:
    """The lowest; 0 and less stand for a point that is not set."""
    return min((point for point in points if point is not None and point > 0), default=None)


def _add_chip(kind: str, chip: Path, found: dict[str, Zone]) -> None:
    """The sensors of a chip but those of single cores: the package's is the warmest of them."""
    for file in kernel.numbered(chip, "temp*_input"):
        sensor = file.name.removesuffix("_input")
        label = kernel.text(chip / f"{sensor}_label") or sensor
        if label.startswith(_CORES):
            continue
        # Of a processor `crit` is where it throttles itself; of a disk that is `max`.
        slow, off = ("max", "crit") if kind == "nvme" else ("crit", "emergency")
        found[_free(f"{kind} {label}", chip.name, found)] = Zone(
            _celsius(file),
            _celsius(chip / f"{sensor}_{slow}"),
            _celsius(chip / f"{sensor}_{off}"),
        )


def _free(name: str, folder: str, found: dict[str, Zone]) -> str:
    """PCs have several zones of one type."""
    return name if name not in found else f"{name} ({folder})"


def _celsius(path: Path) -> float | None:
    """From milli-degrees."""
    value = kernel.number(path)
    return None if value is None or value / 1000 < _COLDEST else value / 1000
