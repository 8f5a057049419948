"""Where bundles lie on this machine: a file, or a folder such as a mounted stick."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO


class FileSource:
    """A file, read where it lies: what was checked is what was copied, whatever a stick does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def open(self, at: int = 0) -> BinaryIO:
        """Raises `OSError`."""
        stream = self.path.open("rb")
        stream.seek(at)
        return stream


def bundles_in(folder: Path) -> list[Path]:
    """What looks like a software bundle there, by name. Raises `OSError`."""
    found = (path for path in sorted(folder.iterdir()) if path.match("edge-*.tar"))
    return [path for path in found if path.is_file()]
