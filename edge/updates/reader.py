"""Reading a software bundle: signature first, then each file against the manifest, in order.

The archive is edge/bundles' strict tar, so the place of every byte is known from the manifest, and
reading can begin at any file, or in the middle of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Protocol

from edge.bundles import archive
from edge.bundles.keys import SIGNATURE_SIZE, TrustedKeys
from edge.bundles.reader import named
from edge.errors import BundleRefused
from edge.updates.manifest import NAME, PURPOSE, File, Head, decode


class Source(Protocol):
    """Where a bundle lies: a file, or an address. Told to people by `name`."""

    name: str

    def open(self, at: int = 0) -> BinaryIO:
        """Its bytes from there on. Raises `OSError`, `FetchFailed`."""
        ...


def read_head(source: Source, trusted: TrustedKeys) -> Head:
    """Raises `BundleRefused` for what is no bundle or not signed by one of the keys, `OSError`."""
    with named(source.name), source.open() as stream:
        try:
            path, content = archive.read_first(stream, NAME)
        except BundleRefused:
            raise BundleRefused(
                "it is no signed software bundle",
                hint="scripts/make-offline-bundle --sign makes one; edge bundle installs models",
            ) from None
        folder = path.split("/")[0]
        pieces = archive.read_file(stream, f"{folder}/{archive.SIGNATURE}", SIGNATURE_SIZE)
        seal = b"".join(pieces)
        key = trusted.verify(PURPOSE + content, seal)
        return Head(folder, content, seal, decode(content), key)


class Files:
    """The files of a bundle from one of them on, or from its middle. Close it."""

    def __init__(self, source: Source, head: Head, first: int, done: int) -> None:
        """done: bytes of the first one that are there already."""
        self._head = head
        self._left = head.software.files[first:]
        self._done = done
        before = head.software.files[:first]
        at = head.size + sum(archive.span(head.name(file), file.size) for file in before)
        if done:
            at += archive.head_size(head.name(self._left[0]), self._left[0].size) + done
        self._stream = source.open(at)

    def __iter__(self) -> Iterator[tuple[File, Iterator[bytes]]]:
        """Each file with its pieces, all of which have to be taken before the next."""
        for file in self._left:
            if self._done:
                done, self._done = self._done, 0
                yield file, archive.read_rest(self._stream, file.size, done)
            else:
                name = self._head.name(file)
                yield file, archive.read_file(self._stream, name, file.size, file.mode)
        archive.read_end(self._stream)

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
