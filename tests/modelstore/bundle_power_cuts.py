"""Cuts the power at some of the calls of an install, and looks at what is on the disk.

`python bundle_power_cuts.py FOLDER COUNT`: prints how often it had the older and the newer bundle.
The exit code is 77 where no file system can be mounted.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from bundle_kill_points import version
from bundling import Factory, Machine
from kill_points import CALLS, check
from loop_disk import LoopDisk

from edge.bundles.install import Installer
from edge.modelstore import workspace


def install_and_cut(installer: Installer, bundle: Path, disk: LoopDisk, point: int) -> None:
    """In a process of its own; without a cut when it makes fewer calls."""
    child = os.fork()
    if child == 0:
        calls, cutting = iter(range(point)), False

        def audit(event: str, _: object) -> None:
            nonlocal cutting
            if not cutting and event in CALLS and next(calls, None) is None:
                cutting = True
                disk.cut()
                os._exit(0)

        sys.addaudithook(audit)
        installer.install(bundle)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def main(folder: Path, count: int) -> None:
    workspace._MARGIN = 0  # the disk is a small one
    factory = Factory(folder / "factory")
    older, newer = factory.bundle(1), factory.bundle(2)
    try:
        disk = LoopDisk(folder / "disk")
        disk.mount()
    except (OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(77)
    try:
        machine = Machine(disk.place / "machine", factory.key)
        machine.install(older)
    finally:
        disk.unmount()
    disk.save()
    seen = Counter[int]()
    for point in sorted(random.Random(2).sample(range(100), count)):
        disk.restore()
        disk.mount()
        try:
            install_and_cut(machine.installer, newer, disk, point)
        finally:
            disk.unmount()
        disk.mount()
        try:
            check(machine.store)
            machine.store.settle()
            check(machine.store)
            seen[version(machine)] += 1
            machine.install(newer)
            assert version(machine) == 2
        finally:
            disk.unmount()
    print(seen[1], seen[2])  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
