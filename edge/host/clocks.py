"""Clocks of a Jetson: the GPU's with its load, the memory's, and whether `jetson_clocks` holds
them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge.host import gpu, kernel
from edge.host.gpu import Gpu

_EMC = ("sys/kernel/debug/bpmp/debug/clk/emc/rate", "sys/kernel/debug/clk/emc/clk_rate")


class Clocks(msgspec.Struct, frozen=True):
    """memory_hertz: the memory controller's. held: see `held`."""

    gpu: Gpu | None = None
    memory_hertz: int | None = None
    held: bool | None = None


def read(root: Path = Path("/")) -> Clocks:
    return Clocks(gpu.integrated(root), memory_hertz(root), held(root))


def held(root: Path = Path("/")) -> bool | None:
    """True where GPU and processors may not go below their highest clock: the work of
    `jetson_clocks`, which leaves no other trace. None where the GPU's clock cannot be read."""
    folder = gpu.clock(root)
    if folder is None:
        return None
    ranges = [(kernel.number(folder / "min_freq"), kernel.number(folder / "max_freq"))]
    for policy in kernel.numbered(root / "sys/devices/system/cpu/cpufreq", "policy*"):
        low, high = (kernel.number(policy / f"scaling_{end}_freq") for end in ("min", "max"))
        ranges.append((low, high))
    if any(low is None or high is None for low, high in ranges):
        return None
    return all(low == high for low, high in ranges)


def memory_hertz(root: Path = Path("/")) -> int | None:
    """The memory controller's clock now, which root alone may read."""
    rates = (kernel.number(root / path) for path in _EMC)
    return next((rate for rate in rates if rate is not None), None)
