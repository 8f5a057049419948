"""Room on the file system that a directory is on, or will be on once it is made."""

from __future__ import annotations

import os
from pathlib import Path


def free_bytes(directory: Path) -> int | None:
    """Bytes that an ordinary user may still write; the nearest existing parent is asked."""
    for place in (directory, *directory.absolute().parents):
        try:
            facts = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return facts.f_bavail * facts.f_frsize
    return None
