"""A disk for a daemon's state that a test can fill, and give room again."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

from daemon_process import DaemonProcess


class SmallDisk:
    """2 MB of tmpfs, where this user may mount one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0

    def fill(self, daemon: DaemonProcess) -> None:
        if not self.mounted:  # as near as it gets: no file of the daemon may grow
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            return
        with open(self.folder / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass

    def free(self, daemon: DaemonProcess) -> None:
        if not self.mounted:
            endless = resource.RLIM_INFINITY
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (endless, endless))
            return
        (self.folder / "filler").unlink()

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
