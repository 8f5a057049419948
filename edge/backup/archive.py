"""The file format: a plain tar, of which every byte is known before it is read.

    manifest.json     what follows, with sizes and digests
    manifest.sha256   the digest of the manifest, in hex
    …                 its files, in its order; then two empty blocks and nothing else

What may come next is known from the manifest, so the one header that a file can have is made and
compared. Nothing here interprets a tar: no links, no paths that lead elsewhere, and a byte that is
another, missing or too many is noticed before anything is put in its place.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from edge.backup.parts import Entry, Manifest
from edge.errors import BackupRefused

MANIFEST, DIGEST = "manifest.json", "manifest.sha256"
FORMAT = 1

MOST_MANIFEST_BYTES = 64 << 20

_PIECE = 1 << 20
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_SIZE_FIELD = slice(124, 135)


def write_head(archive: BinaryIO, manifest: Manifest) -> None:
    """Raises `OSError`."""
    body = msgspec.json.encode(manifest)
    digest = hashlib.sha256(body).hexdigest().encode()
    for name, data in ((MANIFEST, body), (DIGEST, digest)):
        archive.write(_header(name, len(data)) + data + _padding(len(data)))


def write_file(archive: BinaryIO, entry: Entry, source: BinaryIO) -> None:
    """Raises `OSError`, and `BackupRefused` where the source has become another meanwhile."""
    archive.write(_header(entry.path, entry.size))
    digest, left = hashlib.sha256(), entry.size
    while left and (piece := source.read(min(left, _PIECE))):
        digest.update(piece)
        archive.write(piece)
        left -= len(piece)
    if left or digest.hexdigest() != entry.sha256:
        raise BackupRefused(f"{entry.path} changed while it was read", hint="try again")
    archive.write(_padding(entry.size))


def write_end(archive: BinaryIO) -> None:
    archive.write(_END)


def read_head(archive: BinaryIO) -> Manifest:
    """Raises `BackupRefused`, `OSError`."""
    header = archive.read(_BLOCK)
    digits = header[_SIZE_FIELD]
    size = int(digits, 8) if re.fullmatch(b"[0-7]{11}", digits) else MOST_MANIFEST_BYTES + 1
    if size > MOST_MANIFEST_BYTES or header != _header(MANIFEST, size):
        raise BackupRefused("it is no backup", hint="edge backup FILE writes one")
    body = b"".join(_contents(archive, size, MANIFEST))
    digest = hashlib.sha256(body).hexdigest().encode()
    expected = _header(DIGEST, len(digest)) + digest + _padding(len(digest))
    if archive.read(len(expected)) != expected:
        raise _damaged(MANIFEST)
    try:
        made = msgspec.json.decode(body, type=Manifest)
    except msgspec.DecodeError:
        raise BackupRefused("its manifest cannot be read", hint="is this software older?") from None
    if made.format != FORMAT:
        raise BackupRefused(
            f"it has format {made.format}, this software knows {FORMAT}",
            hint=f"restore it with the version that made it, {made.version}",
        )
    return made


def read_file(archive: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """Its pieces; after the last one it is certain that they were right.

    Raises `BackupRefused`, `OSError`.
    """
    header = _header(entry.path, entry.size)
    if archive.read(len(header)) != header:
        raise _damaged(entry.path)
    digest = hashlib.sha256()
    for piece in _contents(archive, entry.size, entry.path):
        digest.update(piece)
        yield piece
    if digest.hexdigest() != entry.sha256:
        raise _damaged(entry.path)


def read_end(archive: BinaryIO) -> None:
    """Raises `BackupRefused` when anything else follows."""
    if archive.read(len(_END) + 1) != _END:
        raise _damaged("its end")


def _contents(archive: BinaryIO, size: int, path: str) -> Iterator[bytes]:
    left = size
    while left:
        piece = archive.read(min(left, _PIECE))
        if not piece:
            raise _damaged(path)
        left -= len(piece)
        yield piece
    padding = _padding(size)
    if archive.read(len(padding)) != padding:
        raise _damaged(path)


def _header(path: str, size: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _damaged(what: str) -> BackupRefused:
    return BackupRefused(
        f"{what} is not what was written there: it was changed, damaged or cut",
        hint="copy it again from where it was made, or take an older one",
    )
