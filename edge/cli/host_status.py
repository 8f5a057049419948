"""The lines of `edge status` about the machine: what it is, its heat, its power.

The names of sensors and rails are the machine's, so they are made harmless.
"""

from __future__ import annotations

from rich.text import Text

from edge.cli.output import harmless, watts
from edge.host.clocks import Clocks
from edge.host.identity import Identity
from edge.host.sensors import HostFacts
from edge.host.thermal import Zone


def host_lines(facts: HostFacts) -> list[Text]:
    lines = [
        _board(facts.identity, facts.clocks),
        f"temperatures: {_temperatures(facts.temperatures)}",
        f"power: {_power(facts)}",
    ]
    shown = [Text(harmless(line)) for line in lines]
    if facts.throttling:
        why = f"too hot: slowed down by {', '.join(facts.throttling)}"
        shown.append(Text(harmless(why), style="bold red"))
    elif facts.expected is not None:
        soon = f"{facts.expected.zone} is slowed down in {facts.expected.seconds:.0f} s"
        shown.append(Text(harmless(f"at this rate {soon}"), style="bold yellow"))
    return shown


def _board(found: Identity | None, clocks: Clocks | None) -> str:
    if found is None or found.board is None:
        return "board: unknown"
    if not found.jetson:
        return f"board: {found.board}"
    parts = [
        found.board,
        f"JetPack {found.jetpack or 'unknown'} (L4T {found.l4t or 'unknown'})",
        f"CUDA {found.cuda or 'unknown'}",
        f"mode {found.mode.name if found.mode else 'unknown'}",
    ]
    gpu = clocks.gpu if clocks is not None else None
    if gpu is not None:
        parts.append("GPU " + ("unknown" if gpu.load is None else f"{gpu.load:.0%}"))
    return f"board: {', '.join(parts)}"


def _temperatures(zones: dict[str, Zone] | None) -> str:
    """Trip points are told once for all zones that share them, as on boards most do."""
    if not zones:
        return "unknown"
    groups: dict[str, list[str]] = {}
    for name, zone in zones.items():
        celsius = "unknown" if zone.celsius is None else f"{zone.celsius:.1f} °C"
        groups.setdefault(_trips(zone), []).append(f"{name} {celsius}")
    return "; ".join(", ".join(names) + trips for trips, names in groups.items())


def _trips(zone: Zone) -> str:
    points = []
    if zone.throttles_at is not None:
        points.append(f"slowed down from {zone.throttles_at:.1f} °C")
    if zone.shuts_down_at is not None:
        points.append(f"off at {zone.shuts_down_at:.1f} °C")
    return f" ({', '.join(points)})" if points else ""


def _power(facts: HostFacts) -> str:
    power = facts.power
    if power is None:
        return "unknown"
    rails = ", ".join(f"{name} {watts(drawn)}" for name, drawn in power.rails.items())
    spent = "" if power.joules is None else f"; {power.joules:.0f} J since the start"
    return f"{watts(power.total)} ({rails}){spent}"
