"""What `edge doctor` says about the machine itself: board, power mode, heat, swap, disk.

Like `checks.py`: facts in, a finding and its cure out. What takes no part in answering (the
board's name, watts) is told and never a warning.
"""

from __future__ import annotations

import time
from pathlib import Path

from edge.cli.checks import Check
from edge.cli.daemon_status import Status
from edge.cli.output import size, watts
from edge.errors import EdgeError
from edge.host import board, clocks, gpu, identity, smi, storage, swap, thermal, throttling
from edge.host.identity import Identity
from edge.host.power import Power, PowerMeter
from edge.host.storage import Disk
from edge.host.swap import Swap
from edge.host.thermal import Zone
from edge.host.watched import within

_SECONDS = 10.0
"""Longest time for one kind of sensor: a driver that hangs leaves its facts unknown."""

REFUSES_MEMORY = "36.4.7"
"""A release of L4T whose allocator has a fault that 36.5 has not."""

_BUSY_SWAP = 0.25
"""Part of the swap in use from which on the machine is taken to be short of memory."""


def board_checks(root: Path) -> list[Check]:
    """What the machine is, is set to, feels and draws."""
    found = within(_SECONDS, lambda: identity.read(root))
    zones = within(_SECONDS, lambda: thermal.zones(root))
    slowed = within(_SECONDS, lambda: throttling.active(root))
    events = within(_SECONDS, lambda: throttling.over_current(root))
    checks = [machine(found), heat(zones, slowed, events)]
    if found is not None and found.jetson:
        held = within(_SECONDS, lambda: clocks.held(root))
        checks.insert(1, power_mode(found, held))
    return [*checks, power(within(_SECONDS, lambda: _measured(root)))]


def memory_checks(root: Path, state: Path) -> list[Check]:
    """Where pages and weights are."""
    return [
        swapping(within(_SECONDS, lambda: swap.swap(root))),
        disk(within(_SECONDS, lambda: storage.disk_of(state, root)), state),
    ]


def machine(found: Identity | None) -> Check:
    if found is None or found.board is None:
        return Check("board", "ok", "unknown: it does not name itself")
    if not found.jetson:
        return Check("board", "ok", found.board)
    name = f"{found.board} ({found.module})" if found.module else found.board
    release = f"L4T {found.l4t or 'unknown'}"
    finding = f"{name}, JetPack {found.jetpack or 'unknown'}, {release}"
    finding += f", CUDA {found.cuda or 'unknown'}"
    if found.l4t is None:
        fix = "in a container: mount /etc/nv_tegra_release, or start it with --runtime nvidia"
        return Check("board", "warn", finding, fix)
    if found.cuda is None:
        return Check("board", "warn", finding, "apt install nvidia-jetpack")
    if found.l4t == REFUSES_MEMORY:
        fix = "upgrade to L4T 36.5: apt update, apt dist-upgrade, reboot"
        finding += ": this one refuses large pieces of GPU memory that is free (NvMap error 12)"
        return Check("board", "warn", finding, fix)
    return Check("board", "ok", finding)


def power_mode(found: Identity, held: bool | None) -> Check:
    """Less than the strongest mode is somebody's choice, and no fault: it is told with the way to
    change it."""
    mode, best = found.mode, found.strongest_mode
    if mode is None:
        return Check("power mode", "warn", "unknown", "sudo nvpmodel -q")
    how = {True: "held at their highest", False: "as the load asks", None: "unknown"}
    finding = f"{mode.name}, clocks {how[held]}"
    if best is None or best == mode:
        return Check("power mode", "ok", finding)
    fix = f"sudo nvpmodel -m {best.id}, if supply and cooling allow it"
    return Check("power mode", "ok", f"{finding}; below the strongest, {best.name}", fix)


def heat(
    zones: dict[str, Zone] | None, slowed: list[str] | None, events: dict[str, int] | None
) -> Check:
    """Whether the machine slows itself down now, or was short of volts since its start."""
    near = thermal.hottest(zones or {})
    if zones is None or near is None:
        fix = "show /sys of the machine to the container, if this is one"
        return Check("heat", "warn", "temperatures unknown: no sensor can be read", fix)
    name, celsius = near
    limit = zones[name].throttles_at
    finding = f"{name} {celsius:.1f} °C"
    finding += f", slowed down from {limit:.1f} °C on" if limit else ""
    blind = [name for name, zone in zones.items() if zone.celsius is None]
    finding += f"; unknown: {', '.join(blind)}" if blind else ""
    if slowed or (limit is not None and celsius >= limit):
        by = f" by {', '.join(slowed)}" if slowed else ""
        fix = "free the fan and the air, or choose a lower power mode"
        return Check("heat", "warn", f"too hot, slowed down now{by}: {finding}", fix)
    if volts := (events or {}).get("under-voltage"):
        fix = "a stronger power supply, or a shorter and thicker cable"
        return Check("heat", "warn", f"{finding}; under-voltage {volts} times since boot", fix)
    return Check("heat", "ok", finding)


def power(found: Power | None) -> Check:
    if found is None:
        return Check("power", "ok", "unknown: nothing here measures it")
    rails = ", ".join(f"{name} {watts(drawn)}" for name, drawn in found.rails.items())
    if found.total is None and all(drawn is None for drawn in found.rails.values()):
        fix = "ask as root: since Linux 5.10 others may not read these counters"
        return Check("power", "ok", f"unknown: {', '.join(found.rails)}", fix)
    return Check("power", "ok", f"{watts(found.total)}: {rails}")


def swapping(found: Swap | None) -> Check:
    """Weights and KV cells that were swapped out come back at a page a time."""
    if found is None:
        return Check("swap", "warn", "unknown", "is /proc mounted?")
    if found.total == 0:
        return Check("swap", "ok", "none")
    where = "zram, which is memory itself" if found.compressed else ", ".join(found.devices)
    finding = f"{size(found.used)} of {size(found.total)} used, {where}"
    if found.used > _BUSY_SWAP * found.total:
        fix = "choose a smaller model or engine.context, or stop other programs"
        return Check("swap", "warn", f"the machine is short of memory: {finding}", fix)
    return Check("swap", "ok", finding)


def disk(found: Disk | None, state: Path) -> Check:
    if found is None or found.kind is None:
        what = "unknown" if found is None else f"{found.device}, of an unknown kind"
        return Check("disk kind", "ok", f"{state} is on {what}")
    finding = f"{state} is on {found.device}, {found.kind}"
    if found.kind in ("eMMC", "SD card", "hard disk"):
        fix = "point EDGE_STATE_DIR to an NVMe disk: models load many times as fast from it"
        return Check("disk kind", "warn", finding, fix)
    return Check("disk kind", "ok", finding)


def layers(status: Status | EdgeError | None, root: Path) -> list[Check]:
    """How much of each loaded model is on the GPU, where there is one and a daemon to ask."""
    if not isinstance(status, Status) or not (board.is_jetson(root) or gpu.has_nvidia_gpu(root)):
        return []
    loaded = [model for model in status.models if model.facts is not None]
    if not loaded:
        return []
    finding = "; ".join(f"{model.name} on {model.back_end}" for model in loaded)
    facts = [model.facts for model in loaded if model.facts is not None]
    gave_way = [model.memory.note for model in loaded if model.memory and model.memory.note]
    if any(one.gpu_layers < one.layers for one in facts):
        finding = "; ".join([f"not all layers are on the GPU: {finding}", *gave_way])
        fix = "a CUDA build (see llama.cpp above), engine.gpu_layers: auto, or a smaller model"
        return [Check("gpu layers", "warn", finding, fix)]
    if any(one.left_on_cpu for one in facts):
        fix = "engine.kv_type: f16, or a model that llama.cpp computes whole on this GPU"
        return [Check("gpu layers", "warn", f"the GPU waits for the CPU: {finding}", fix)]
    return [Check("gpu layers", "ok", finding)]


def _measured(root: Path) -> Power | None:
    """Counters of energy have to be read twice."""
    meter = PowerMeter(root, lambda: smi.cards(root))
    first = meter.sample()
    if first is None or first.total is not None:
        return first
    time.sleep(0.5)
    return meter.sample()
