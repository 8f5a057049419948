"""The file format: a plain tar in which nothing is left to chance.

`tar -tf` reads it, but nothing here interprets a tar. What is to follow is known from the manifest,
so the one header that may stand there is made and compared: links, sparse files, other
encodings, names that lead out of a folder, and files that nobody signed have no way to be written.

    manifest.json   signed
    manifest.sig    the signer's public key, and the signature over all bytes of manifest.json
    …               its files, in its order; then two empty blocks and nothing else
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from edge.bundles.manifest import MOST_BYTES
from edge.errors import BundleRefused
from edge.modelstore.workspace import Progress

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"

_PIECE = 1 << 20
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100x8s247x")
_NAME_SIZE = 100
_SIZE_FIELD = slice(124, 135)

PLAIN, EXECUTABLE = 0o644, 0o755


def write_file(
    archive: BinaryIO, path: str, size: int, pieces: Iterator[bytes], mode: int = PLAIN
) -> str:
    """Add a file of that many bytes; returns its sha256. Raises `OSError`."""
    archive.write(_header(path, size, mode))
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        archive.write(piece)
    archive.write(_padding(size))
    return digest.hexdigest()


def write_end(archive: BinaryIO) -> None:
    archive.write(_END)


def read_manifest(archive: BinaryIO) -> bytes:
    """The first file, whose size nobody knows yet. Raises `BundleRefused`, `OSError`."""
    _, content = read_first(archive, re.compile(re.escape(MANIFEST)))
    return content


def read_first(archive: BinaryIO, name: re.Pattern[str]) -> tuple[str, bytes]:
    """Name and contents of the first file, if it is called so and has at most `MOST_BYTES`.

    Raises `BundleRefused`, `OSError`.
    """
    header = archive.read(_BLOCK)
    digits = header[_SIZE_FIELD]
    size = int(digits, 8) if re.fullmatch(b"[0-7]{11}", digits) else MOST_BYTES + 1
    called = header[:_NAME_SIZE].rstrip(b"\0").decode("ascii", "replace")
    if size > MOST_BYTES or not name.fullmatch(called) or header != _header(called, size):
        raise BundleRefused("it is no bundle", hint="edge bundle make writes one")
    return called, b"".join(_contents(archive, size))


def read_file(archive: BinaryIO, path: str, size: int, mode: int = PLAIN) -> Iterator[bytes]:
    """The pieces of the file that has to come next. Raises `BundleRefused`, `OSError`."""
    header = _header(path, size, mode)
    if archive.read(len(header)) != header:
        raise damaged(path)
    return _contents(archive, size)


def read_rest(archive: BinaryIO, size: int, done: int) -> Iterator[bytes]:
    """The pieces of a file of that size from `done` on, where the archive stands there already."""
    return _contents(archive, size, done)


def head_size(path: str, size: int) -> int:
    """Bytes before the contents of a file."""
    return len(_header(path, size))


def span(path: str, size: int) -> int:
    """Bytes that a file takes in the archive."""
    return head_size(path, size) + size + len(_padding(size))


def read_end(archive: BinaryIO) -> None:
    """Raises `BundleRefused` when anything else follows."""
    if archive.read(len(_END) + 1) != _END:
        raise damaged("its end")


def pieces_of(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


class Meter:
    """Tells somebody who watches how much of all files has passed."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        progress(0, total)

    def passing(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._done += len(piece)
            self._progress(self._done, self._total)
            yield piece


def damaged(what: str) -> BundleRefused:
    return BundleRefused(
        f"{what} is not what the manifest says: it was altered, damaged or cut",
        hint="copy it again from where it was made",
    )


def _contents(archive: BinaryIO, size: int, done: int = 0) -> Iterator[bytes]:
    left = size - done
    while left:
        piece = archive.read(min(left, _PIECE))
        if not piece:
            raise damaged("its length")
        left -= len(piece)
        yield piece
    padding = _padding(size)
    if archive.read(len(padding)) != padding:
        raise damaged("its padding")


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _header(path: str, size: int, mode: int = PLAIN) -> bytes:
    """The only one that a file of that path, size and mode can have, in the GNU format of tar(5).

    A longer path than fits comes as a file of its own before it.
    """
    name = path.encode()
    if len(name) <= _NAME_SIZE:
        return _header_block(name, size, b"0", mode)
    long = name + b"\0"
    before = _header_block(b"././@LongLink", len(long), b"L") + long + _padding(len(long))
    return before + _header_block(name[:_NAME_SIZE], size, b"0", mode)


def _header_block(name: bytes, size: int, kind: bytes, mode: int = PLAIN) -> bytes:
    """name, mode, uid, gid, size, mtime, checksum, type, magic: all else is empty."""
    # 8 GiB and more do not fit into octal digits: then it is a number, marked by the first bit.
    field = b"%011o\0" % size if size < 8**11 else (size | 1 << 95).to_bytes(12, "big")
    fields = (name, b"%07o\0" % mode, b"0000000\0", b"0000000\0", field, b"%011o\0" % 0)
    block = _FIELDS.pack(*fields, b" " * 8, kind, b"ustar  \0")
    return _FIELDS.pack(*fields, b"%06o\0 " % sum(block), kind, b"ustar  \0")
