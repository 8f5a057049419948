"""An ext4 file system in a file, whose power a test can cut: what was not synced is lost.

Needs root, and a kernel that lends loop devices.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSHING = 2
"""FS_IOC_SHUTDOWN and FS_SHUTDOWN_FLAGS_NOLOGFLUSH of <linux/fs.h>."""


class LoopDisk:
    """Raises `OSError` or `CalledProcessError` where none can be made."""

    def __init__(self, folder: Path, megabytes: int = 16) -> None:
        folder.mkdir()
        self.place = folder / "mounted"
        self.place.mkdir()
        self._image, self._saved = folder / "image", folder / "saved"
        with open(self._image, "wb") as image:
            image.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", str(self._image))

    def mount(self) -> None:
        # Without the option, ext4 hides a file that was renamed before it was synced.
        _run("mount", "-o", "loop,noauto_da_alloc", str(self._image), str(self.place))

    def unmount(self) -> None:
        _run("umount", str(self.place))

    def save(self) -> None:
        """Remember it as it is, unmounted."""
        shutil.copyfile(self._image, self._saved)

    def restore(self) -> None:
        shutil.copyfile(self._saved, self._image)

    def cut(self) -> None:
        """From now on every call fails, and what is not on the disk will not get there."""
        handle = os.open(self.place, os.O_RDONLY)
        fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING))
        os.close(handle)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
