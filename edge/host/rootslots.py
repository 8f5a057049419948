"""The two root file systems of a Jetson that was flashed with `ROOTFS_AB=1`, as `nvbootctrl` tells.

    Current rootfs slot: A
    Active rootfs slot: A
    num_slots: 2
    slot: 0,             retry_count: 3,             status: normal
    slot: 1,             retry_count: 3,             status: normal

Active is the one that the next boot takes. Only root can ask. Source: NVIDIA's developer guide,
"Root File System Redundancy", and outputs that people published (L4T 35 and 36).
"""

from __future__ import annotations

import re
import shutil
import subprocess

import msgspec

SECONDS = 10.0


class RootSlots(msgspec.Struct, frozen=True):
    """current: the slot that runs; active: the one that boots next. Both `A` or `B`."""

    current: str
    active: str
    statuses: list[str]


def read() -> RootSlots | None:
    """None where there is one root file system, or nobody who knows."""
    program = shutil.which("nvbootctrl", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        return None
    command = [program, "-t", "rootfs", "dump-slots-info"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse(said.stdout) if said.returncode == 0 else None


def parse(said: str) -> RootSlots | None:
    """None for one slot, and for words such as those of a board without redundancy."""
    current = re.search(r"^Current rootfs slot: *([AB])", said, re.M)
    active = re.search(r"^Active rootfs slot: *([AB])", said, re.M)
    statuses = re.findall(r"^slot: *\d+,.*status: *(.+?) *$", said, re.M)
    if current is None or active is None or len(statuses) < 2:
        return None
    return RootSlots(current[1], active[1], statuses)
