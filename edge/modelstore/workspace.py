"""What one pull works with: a folder of its own, room on the disk, somebody who watches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from edge.errors import PullFailed

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes fetched and the bytes in all, the last time with both the same."""

# The rest of the appliance writes to the same disk: never fill it to the brim.
_MARGIN = 64_000_000


class Workspace(msgspec.Struct, frozen=True):
    folder: Path
    progress: Progress

    def require(self, size: int) -> None:
        """Raise `PullFailed` unless `size` more bytes fit on the disk."""
        free = shutil.disk_usage(self.folder).free
        if free < size + _MARGIN:
            raise PullFailed(
                f"not enough room in {self.folder}: {(size + _MARGIN) // 1_000_000} MB are needed,"
                f" {free // 1_000_000} MB are free",
                hint="make room, or point EDGE_STATE_DIR to a larger disk",
            )


class Fetched(msgspec.Struct, frozen=True):
    """A file that a source brought into the folder; its bytes are what the source promised."""

    path: Path
    sha256: str
    revision: str | None = None
