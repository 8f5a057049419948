"""The root file system takes all of its disk: images are smaller than the disks they are put on."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from firstboot.machine import Failed, Machine

WORTH_IT = 64 * 1024 * 1024
"""Bytes: less is left over by every alignment."""


def grow(machine: Machine) -> str:
    """Online. Done twice it does nothing the second time, and each half of it is one write."""
    device, kind = _root_device(machine)
    if not device.startswith("/dev/"):
        return f"the root file system is on no disk of its own ({device})"
    if kind not in ("ext4", "ext3", "ext2"):
        return f"the root file system is {kind}, which is left as it is"
    part = Path("sys/class/block") / Path(device).name
    number = machine.text(f"{part}/partition")
    if number:
        disk = "/dev/" + machine.path(str(part)).resolve().parent.name
        grow_partition(machine, disk, int(number), device)
    machine.run("resize2fs", device, patience=600)
    return f"{device} has {_gigabytes(machine)} GB"


def grow_partition(machine: Machine, disk: str, number: int, device: str) -> None:
    """To the end of the disk, if no other partition lies behind it."""
    table = json.loads(machine.run("sfdisk", "--json", disk))["partitiontable"]
    size = int(machine.run("blockdev", "--getsize64", disk)) if disk.startswith("/dev/") else None
    if room_behind(table, device, size or Path(disk).stat().st_size) < WORTH_IT:
        return
    # Writing the table anew also puts its copy where the disk really ends. The kernel refuses to
    # read a table of a disk in use, and is told of the one partition instead.
    machine.run("sfdisk", "--no-reread", "--force", "-N", str(number), disk, answer=", +\n")
    if disk.startswith("/dev/"):
        machine.run("partx", "--update", "--nr", str(number), disk)


def room_behind(table: dict[str, Any], device: str, disk_bytes: int) -> int:
    """Bytes between the end of a partition and whatever comes next."""
    sector = int(table.get("sectorsize", 512))
    ours = next((part for part in table["partitions"] if part["node"] == device), None)
    if ours is None:
        raise Failed(f"{device} is not in the partition table")
    end = ours["start"] + ours["size"]
    later = [part["start"] for part in table["partitions"] if part["start"] >= end]
    # A GPT keeps its copy in the last 33 sectors.
    limit = min(later, default=disk_bytes // sector - 34)
    return max(0, int(limit) - int(end)) * sector


def _root_device(machine: Machine) -> tuple[str, str]:
    for line in machine.text("proc/self/mounts").splitlines():
        device, place, kind = line.split()[:3]
        if place == "/":
            if device == "/dev/root":
                device = (
                    "/dev/"
                    + machine.path("sys/dev/block").joinpath(_major_minor(machine)).resolve().name
                )
            return device, kind
    raise Failed("there is no root file system in /proc/self/mounts")


def _major_minor(machine: Machine) -> str:
    found = re.search(r"^\d+ \d+ (\d+:\d+) \S+ / ", machine.text("proc/self/mountinfo"), re.M)
    if found is None:
        raise Failed("/proc/self/mountinfo does not tell where / is")
    return found[1]


def _gigabytes(machine: Machine) -> str:
    facts = os.statvfs(machine.path(""))
    return f"{facts.f_blocks * facts.f_frsize / 1e9:.0f}"
