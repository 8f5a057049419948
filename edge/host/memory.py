"""Memory: what the machine has, and how much of it this process can still take.

`MemAvailable` and not `MemFree`: the page cache counts as free, which matters most on boards where
CPU and GPU share one pool. Control groups (systemd's `MemoryMax=`, containers) may allow less.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

from edge.host import cgroup, kernel

# Version 1 writes the largest page-aligned 64-bit number where there is no limit.
_UNLIMITED = 1 << 60


def total_bytes(root: Path = Path("/")) -> int | None:
    return _meminfo("MemTotal", root)


def available_bytes(root: Path = Path("/")) -> int | None:
    """What can be allocated now without swapping or meeting a control group's limit."""
    rooms = [_meminfo("MemAvailable", root)]
    hierarchy = cgroup.of_process("memory", root)
    if hierarchy is not None:
        for level in hierarchy.levels:
            limit = _limit(level, hierarchy.version)
            if limit is not None:
                used = _used(level, hierarchy.version)
                rooms.append(None if used is None else max(0, limit - used))
    known = [room for room in rooms if room is not None]
    # The smallest of them counts, so one unknown makes the whole answer unknown.
    return min(known) if len(known) == len(rooms) else None


def cgroup_limit_bytes(root: Path = Path("/")) -> int | None:
    """The tightest limit that a control group sets on this process; None where there is none."""
    hierarchy = cgroup.of_process("memory", root)
    if hierarchy is None:
        return None
    limits = [_limit(level, hierarchy.version) for level in hierarchy.levels]
    return min((limit for limit in limits if limit is not None), default=None)


def resident_bytes(root: Path = Path("/")) -> int | None:
    """What this process holds, its shared libraries included. It is cheap to ask."""
    fields = (kernel.text(root / "proc/self/statm") or "").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else None


_M_MMAP_THRESHOLD = -3
LARGE_BLOCK = 1 << 20


def return_large_blocks() -> None:
    """From now on the C library gives blocks of a megabyte back to the kernel when they are freed.
    Else it learns from the first of them to keep what is as large (mallopt(3))."""
    with suppress(OSError, AttributeError):  # another C library than GNU's
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)


def trim() -> None:
    """Give back to the kernel what the C library keeps free; some milliseconds."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _meminfo(key: str, root: Path) -> int | None:
    value = kernel.field(root / "proc/meminfo", key)
    return int(value.split()[0]) * 1024 if value else None


def _limit(level: Path, version: int) -> int | None:
    # Above memory.high the kernel throttles until nothing moves: for us the same as the end.
    files = ("memory.limit_in_bytes",) if version == 1 else ("memory.max", "memory.high")
    limits = [kernel.number(level / file) for file in files]
    return min(
        (limit for limit in limits if limit is not None and limit < _UNLIMITED), default=None
    )


def _used(level: Path, version: int) -> int | None:
    """What the group holds and would not give back: its usage without idle page cache."""
    usage, idle = (
        ("memory.usage_in_bytes", "total_inactive_file")
        if version == 1
        else ("memory.current", "inactive_file")
    )
    used = kernel.number(level / usage)
    if used is None:
        return None
    cache = kernel.field(level / "memory.stat", idle, separator=" ")
    return max(0, used - int(cache or 0))
