"""What one pull works with: a folder of its own, room on the disk, a pace, somebody who watches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from edge.errors import PullFailed
from edge.modelstore.pace import Pace

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes fetched and the bytes in all, the last time with both the same."""

# The rest of the appliance writes to the same disk: never fill it to the brim.
_MARGIN = 64_000_000


def unwatched(done: int, total: int) -> None:
    """The progress of a pull that nobody watches."""


class Workspace(msgspec.Struct, frozen=True):
    """pace: None where the network may be used as it is."""

    folder: Path
    progress: Progress
    pace: Pace | None = None

    def require(self, size: int) -> None:
        """Raise `PullFailed` unless `size` more bytes fit on the disk."""
        free = shutil.disk_usage(self.folder).free
        if free < size + _MARGIN:
            raise PullFailed(
                f"not enough room in {self.folder}: {(size + _MARGIN) // 1_000_000} MB are needed,"
                f" {free // 1_000_000} MB are free",
                hint="make room, or point EDGE_STATE_DIR to a larger disk",
            )

    def received(self, size: int) -> None:
        """Bytes that came over the network: waits where that was too fast."""
        if self.pace is not None:
            self.pace.charge(size)


class Fetched(msgspec.Struct, frozen=True):
    """A file that a source brought into the folder; its bytes are what the source promised."""

    path: Path
    sha256: str
    revision: str | None = None
