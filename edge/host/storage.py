"""What kind of disk a directory is on: weights are read from it at each load."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from edge.host import kernel

Kind = Literal["NVMe", "SSD", "hard disk", "eMMC", "SD card"]


class Disk(msgspec.Struct, frozen=True):
    """device: `/dev/nvme0n1p1`, or what else is mounted there. kind: None where it is unknown."""

    device: str
    kind: Kind | None


def disk_of(directory: Path, root: Path = Path("/")) -> Disk | None:
    """The disk with the file system that the directory is on. Format: proc(5), mountinfo."""
    best, found = -1, None
    for line in (kernel.text(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        place, system = before.split(), after.split()
        if len(place) < 5 or len(system) < 2:
            continue
        point = PurePosixPath(place[4])
        # Of two on the same point the later one hides the other.
        if directory.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), (place[2], system[1])
    if found is None:
        return None
    number, device = found
    return Disk(device, _kind(_block(number, device, root), root))


def _block(number: str, device: str, root: Path) -> str:
    """The kernel's name, by major and minor number: `/dev/root` and names of mappings say
    nothing. In a container that may be forbidden."""
    try:
        return Path(os.readlink(root / "sys/dev/block" / number)).name
    except OSError:
        return Path(device).name


def _kind(name: str, root: Path) -> Kind | None:
    blocks = root / "sys/block"
    if match := re.match(r"(mmcblk\d+)", name):
        card = kernel.text(blocks / match[1] / "device/type")
        return "SD card" if card == "SD" else "eMMC" if card == "MMC" else None
    if name.startswith("nvme"):
        return "NVMe"
    if match := re.match(r"([sv]d[a-z]+)", name):
        turns = kernel.number(blocks / match[1] / "queue/rotational")
        return None if turns is None else "hard disk" if turns else "SSD"
    # A mapping (encryption, LVM) is what it lies on.
    below = kernel.numbered(blocks / name / "slaves", "*") if name.startswith("dm-") else []
    return _kind(below[0].name, root) if below else None
