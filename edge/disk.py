"""What a power cut leaves, and what is in a file: the two questions to a disk that several ask."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_PIECE = 1 << 20


def sync(path: Path) -> None:
    """Have the bytes of a file, or the names in a folder, on disk before going on.

    Raises `OSError`.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """The digest of a file in hexadecimal, read in pieces: models are larger than memory.

    Raises `OSError`.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
