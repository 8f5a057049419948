"""What every GGUF file has, whatever it is for: metadata and a table of tensors.

Everything here is bounded by the size of the file, and every doubt is a `BadModelFile` that names
the file and the reason. The weights are not read.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from edge.errors import BadModelFile
from edge.modelstore.foreign import looks_like
from edge.modelstore.metadata import Metadata, read_metadata
from edge.modelstore.tensors import Tensors, aligned, read_tensors
from edge.modelstore.window import Malformed, Window

MAGIC = b"GGUF"
_U32 = struct.Struct("<I")

# Far above any real model, and small enough that nobody waits for a file that lies about them.
_MOST_ENTRIES = 65_536


class Contents(NamedTuple):
    """weights: the byte at which they begin."""

    version: int
    metadata: Metadata
    tensors: Tensors
    alignment: int
    weights: int


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what is wrong with a file into a `BadModelFile` that names it."""
    try:
        yield
    except Malformed as error:
        raise BadModelFile(f"{path}: {error}", hint=error.hint) from None
    except OSError as error:
        raise BadModelFile(
            f"{path}: cannot be read: {error.strerror or error}",
            hint="look at the file's rights and at the disk",
        ) from None


def open_gguf(path: Path) -> BinaryIO:
    """The file, at its first byte. Raises `Malformed` where it is something else, and `OSError`."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
        raise Malformed("not a regular file")
    file = open(path, "rb")  # noqa: SIM115 - it is the caller's
    head = file.read(256)
    if not head.startswith(MAGIC):
        size = os.fstat(file.fileno()).st_size
        file.close()
        raise Malformed(f"not a GGUF file ({looks_like(head, size)})")
    file.seek(0)
    return file


def read_contents(window: Window) -> Contents:
    """From the first byte on. Raises `Malformed`."""
    window.skip(len(MAGIC))
    version = int(window.scalar(_U32))
    if version not in (2, 3):
        odd = "big-endian" if version and not version & 0xFFFF else "not one that llama.cpp reads"
        raise Malformed(f"its GGUF version, {version}, is {odd}")
    count, entries = window.length(), window.length()
    if not 0 < entries <= _MOST_ENTRIES:
        raise Malformed(f"it declares {entries} metadata entries")
    if count > _MOST_ENTRIES:
        raise Malformed(f"it declares {count} tensors")
    metadata = read_metadata(window, entries)
    alignment = metadata.number("general.alignment", 1, 1 << 31)
    alignment = 32 if alignment is None else alignment
    tensors = read_tensors(window, count, alignment)
    return Contents(version, metadata, tensors, alignment, aligned(window.at, alignment))
