"""Reading a bundle: once, from front to back, and nothing is believed before it was checked.

The manifest's signature comes first, then each file against the manifest. What is copied away
is what was checked, in the same pass: a stick that changes its contents in between gains nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

import msgspec

from edge.bundles import archive
from edge.bundles.keys import SIGNATURE_SIZE, TrustedKeys
from edge.bundles.manifest import BundleManifest, Member, decode
from edge.errors import BundleRefused
from edge.modelstore.workspace import Progress, unwatched

Taker: TypeAlias = Callable[[Member, Iterator[bytes]], None]
"""Takes all pieces of a file, which may turn out to be wrong at the last of them."""


class Bundle(msgspec.Struct, frozen=True):
    """An open one, whose signature was checked. key: fingerprint of who signed it."""

    path: Path
    file: BinaryIO
    manifest: BundleManifest
    key: str

    def read(self, take: Taker, progress: Progress = unwatched) -> None:
        """Give all files to `take`, in order, once. Raises `BundleRefused`, `OSError`."""
        meter = archive.Meter(progress, self.manifest.size)
        with named(self.path):
            for member in self.manifest.files:
                pieces = archive.read_file(self.file, member.path, member.size)
                digest = hashlib.sha256()
                take(member, hashed(meter.passing(pieces), digest))
                if digest.hexdigest() != member.sha256:
                    raise archive.damaged(member.path)
            archive.read_end(self.file)


@contextmanager
def opened(path: Path, trusted: TrustedKeys) -> Iterator[Bundle]:
    """Raises `BundleRefused` for what is no bundle or not signed by one of the keys, `OSError`."""
    with open(path, "rb") as file:
        with named(path):
            content = archive.read_manifest(file)
            sealed = archive.read_file(file, archive.SIGNATURE, SIGNATURE_SIZE)
            key = trusted.verify(content, b"".join(sealed))
            manifest = decode(content)
        yield Bundle(path, file, manifest, key)


def passed_over(member: Member, pieces: Iterator[bytes]) -> None:
    """A taker that only has the files checked."""
    for _ in pieces:
        pass


@contextmanager
def named(path: Path | str) -> Iterator[None]:
    """Have a refusal say which bundle it is about."""
    try:
        yield
    except BundleRefused as error:
        raise BundleRefused(f"{path}: {error.message}", hint=error.hint) from None


def hashed(pieces: Iterator[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece
