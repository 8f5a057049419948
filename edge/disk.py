"""What a power cut leaves, and what is in a file: the two questions to a disk that several ask."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
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


def write_atomically(path: Path, *pieces: bytes | memoryview, mode: int = 0o666) -> None:
    """The name appears, or changes, when the contents are on disk, and the folder is synced then.

    A process that is killed meanwhile leaves `<name>.<pid>.part` behind. mode: before the umask.
    Raises `OSError`.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    sync(path.parent)


def sha256_of(path: Path, size: int = sys.maxsize) -> str:
    """The digest of a file in hexadecimal, read in pieces: models are larger than memory.

    size: of its beginning, for one that grows. Raises `OSError`.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(min(_PIECE, size)):
            digest.update(piece)
            size -= len(piece)
    return digest.hexdigest()
