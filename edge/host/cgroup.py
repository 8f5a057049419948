"""Where the control groups of this process are, in version 1, version 2 or a mix of both.

A limit on any group above ours binds us too, so callers get all levels, ours first. Systemd's
`MemoryMax=` and `CPUQuota=` and the limits of containers all end up in these directories.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from edge.host import kernel


class Hierarchy(NamedTuple):
    """version: 1 or 2, which decides the file names. levels: our group, then each above it."""

    version: int
    levels: list[Path]


def of_process(controller: str, root: Path = Path("/")) -> Hierarchy | None:
    """The groups that rule `controller` ("cpu", "memory") for this process; None if unknown."""
    membership = _membership(controller, root)
    if membership is None:
        return None
    version, group = membership
    mount = _mount(controller if version == 1 else None, root)
    if mount is None:
        return None
    mounted_group, directory = mount
    top = root / str(directory).lstrip("/")
    # A container without a cgroup namespace sees the host's name of its group, while its mount
    # shows that very group as the top.
    inner = group.relative_to(mounted_group) if group.is_relative_to(mounted_group) else None
    leaf = top / inner if inner is not None else top
    return Hierarchy(version, [leaf, *(up for up in leaf.parents if up.is_relative_to(top))])


def _membership(controller: str, root: Path) -> tuple[int, PurePosixPath] | None:
    """From /proc/self/cgroup: `4:memory:/group` is version 1, `0::/group` is version 2."""
    unified = None
    for line in (kernel.text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        if controller in controllers.split(","):
            return 1, PurePosixPath(group)
        if not controllers:
            unified = 2, PurePosixPath(group)
    return unified


def _mount(controller: str | None, root: Path) -> tuple[PurePosixPath, PurePosixPath] | None:
    """The group at the top of the mount and the mount point; controller None: version 2.

    Line format: proc(5), `36 35 98:0 /group /mount/point options … - fstype source options`.
    """
    for line in (kernel.text(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        place, system = before.split(), after.split()
        if len(place) < 5 or len(system) < 3:
            continue
        if controller is None:
            matches = system[0] == "cgroup2"
        else:
            matches = system[0] == "cgroup" and controller in system[2].split(",")
        if matches:
            return PurePosixPath(place[3]), PurePosixPath(place[4])
    return None
