"""The processor: its name, its instruction sets, and how much of it this process may use."""

from __future__ import annotations

import os
from pathlib import Path

from edge.host import cgroup, kernel


def model(root: Path = Path("/")) -> str | None:
    """The marketing name on x86; ARM kernels give only the designer's and the part's number."""
    cpuinfo = root / "proc/cpuinfo"
    name = kernel.field(cpuinfo, "model name")
    if name:
        return name
    designer, part = kernel.field(cpuinfo, "CPU implementer"), kernel.field(cpuinfo, "CPU part")
    return f"ARM designer {designer} part {part}" if designer and part else None


def features(root: Path = Path("/")) -> frozenset[str] | None:
    """Instruction sets by their kernel names (`avx2`, `asimddp`) that every processor has."""
    common: frozenset[str] | None = None
    for line in (kernel.text(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            here = frozenset(value.split())
            common = here if common is None else common & here
    return common


def usable_cores(root: Path = Path("/")) -> int:
    """Physical cores that this process may keep busy, at least 1.

    Hyper-threads of one core count once: two llama.cpp threads on one core only wait for each
    other. A CPU quota is rounded down, since the threads of one step spin until the slowest is
    done and a throttled one holds up all.
    """
    cores = {_siblings(cpu, root) for cpu in _allowed_cpus(root)}
    quota = quota_cpus(root)
    return max(1, min(len(cores), int(quota)) if quota is not None else len(cores))


def quota_cpus(root: Path = Path("/")) -> float | None:
    """CPU time that the control groups allow, in processors; None where nothing limits it."""
    hierarchy = cgroup.of_process("cpu", root)
    if hierarchy is None:
        return None
    read = _quota_v1 if hierarchy.version == 1 else _quota_v2
    return min((quota for level in hierarchy.levels if (quota := read(level))), default=None)


def _quota_v1(level: Path) -> float | None:
    quota = kernel.number(level / "cpu.cfs_quota_us")
    period = kernel.number(level / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _quota_v2(level: Path) -> float | None:
    words = (kernel.text(level / "cpu.max") or "").split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or words[1] == "0":
        return None
    return int(words[0]) / int(words[1])


def _allowed_cpus(root: Path) -> set[int]:
    listed = kernel.field(root / "proc/self/status", "Cpus_allowed_list")
    return _parse_list(listed) if listed else os.sched_getaffinity(0)


def _siblings(cpu: int, root: Path) -> frozenset[int]:
    """The hyper-threads that share a core with `cpu`, itself included."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    listed = kernel.text(topology / "thread_siblings_list")
    return frozenset(_parse_list(listed)) if listed else frozenset([cpu])


def _parse_list(listed: str) -> set[int]:
    """CPU numbers from the kernel's list format, such as `0-3,8`."""
    cpus: set[int] = set()
    for part in listed.split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus
