"""Copy a model or an adapter from a path of this machine, such as a USB stick, into the store's
folder. A model in parts is joined on the way.

Never a hard link: whoever may write to the original could then change a file that was checked.
"""

from __future__ import annotations

import fcntl
import hashlib
from pathlib import Path
from typing import BinaryIO

from edge.disk import sha256_of
from edge.errors import PullFailed
from edge.modelstore.catalog import FileSource
from edge.modelstore.gguf import read_installable
from edge.modelstore.parts import join, parts_at
from edge.modelstore.workspace import Fetched, Workspace

_PIECE = 4 << 20

_FICLONE = 0x40049409
"""Share the bytes until one side changes (ioctl_ficlonerange(2)); btrfs, XFS and others can."""


def fetch(source: FileSource, work: Workspace) -> Fetched:
    """Raises `BadModelFile` before anything is copied, `PullFailed` and `OSError`."""
    paths, target = parts_at(Path(source.path)), work.folder / "model.gguf"
    target.unlink(missing_ok=True)  # of a copy that was killed
    if len(paths) > 1:
        work.require(sum(path.stat().st_size for path in paths))
        return Fetched(target, join(paths, target, work.progress))
    path = paths[0]
    size = read_installable(path).size_bytes
    with open(path, "rb") as original, open(target, "wb") as copy:
        if _cloned(original, copy):
            sha256 = sha256_of(target)
        else:
            work.require(size)
            sha256 = _copy(original, copy, size, work)
    if target.stat().st_size != size:
        target.unlink()
        raise PullFailed(f"{path} changed while it was copied", hint="import it again")
    work.progress(size, size)
    return Fetched(target, sha256)


def _cloned(original: BinaryIO, copy: BinaryIO) -> bool:
    try:
        fcntl.ioctl(copy, _FICLONE, original.fileno())
    except OSError:  # another file system, or one that cannot
        return False
    return True


def _copy(original: BinaryIO, copy: BinaryIO, size: int, work: Workspace) -> str:
    digest, done = hashlib.sha256(), 0
    work.progress(0, size)
    while piece := original.read(_PIECE):
        digest.update(piece)
        copy.write(piece)
        done += len(piece)
        work.progress(min(done, size), size)
    return digest.hexdigest()
