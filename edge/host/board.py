"""The board: what the device tree of an ARM machine or the firmware of a PC calls it."""

from __future__ import annotations

import re
from pathlib import Path

from edge.host import kernel


def model(root: Path = Path("/")) -> str | None:
    """`NVIDIA Jetson AGX Orin Developer Kit`; on a PC its maker and product."""
    name = kernel.text(root / "proc/device-tree/model")
    if name:
        return name
    identity = root / "sys/class/dmi/id"
    words = [kernel.text(identity / file) for file in ("sys_vendor", "product_name")]
    return " ".join(word for word in words if word) or None


def module(root: Path = Path("/")) -> str | None:
    """NVIDIA's number of the module on the carrier board: `p3701-0005` is an AGX Orin 64 GB."""
    for name in _compatible(root):
        if match := re.fullmatch(r"nvidia,(p\d{4}-\d{4})", name):
            return match[1]
    return None


def chip(root: Path = Path("/")) -> str | None:
    """The system on a chip: `tegra234` is Orin's."""
    for name in reversed(_compatible(root)):
        if match := re.fullmatch(r"nvidia,(tegra\d+\w*)", name):
            return match[1]
    return None


def is_jetson(root: Path = Path("/")) -> bool:
    """True on NVIDIA's embedded boards; carrier boards rename the model but keep the release."""
    name = kernel.text(root / "proc/device-tree/model") or ""
    return "jetson" in name.lower() or (root / "etc/nv_tegra_release").exists()


def _compatible(root: Path) -> list[str]:
    """From the most particular name to the most general one, with NULs between them."""
    return (kernel.text(root / "proc/device-tree/compatible") or "").split("\0")
