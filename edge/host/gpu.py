"""The GPU: whether there is one that llama.cpp should be using, and how busy a Jetson's is."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge.host import kernel

_NAMES = ("gpu", "ga10b", "gv11b")
"""How the folders of /sys/class/devfreq call it: JetPack 6, 5 on Orin, 5 on Xavier."""


class Gpu(msgspec.Struct, frozen=True):
    """load: 0 to 1. hertz: now. max_hertz: what mode and settings allow."""

    load: float | None
    hertz: int | None
    max_hertz: int | None


def has_nvidia_gpu(root: Path = Path("/")) -> bool:
    """True where NVIDIA's driver shows a card."""
    return (root / "dev/nvidia0").exists() or (root / "proc/driver/nvidia").exists()


def integrated(root: Path = Path("/")) -> Gpu | None:
    """The GPU on a Jetson's chip; None where there is none."""
    folder = clock(root)
    if folder is None:
        return None
    permille = kernel.number(folder / "device/load")
    return Gpu(
        load=None if permille is None else permille / 1000,
        hertz=kernel.number(folder / "cur_freq"),
        max_hertz=kernel.number(folder / "max_freq"),
    )


def clock(root: Path = Path("/")) -> Path | None:
    """The folder of its clock: `17000000.gpu`, or `17000000.ga10b` before JetPack 6."""
    folders = kernel.numbered(root / "sys/class/devfreq", "*")
    return next((one for one in folders if one.name.endswith(_NAMES)), None)
