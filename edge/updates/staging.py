"""A bundle on its way to this machine: its files below one folder, each checked as it comes.

    <folder>/manifest.json, manifest.sig   of the bundle that the rest belongs to
    <folder>/bundle/…                      its files; what installs it is run from here

A cut leaves files behind, whole ones and one that is not. All of them are read again before the
rest is fetched, for a power cut may have left anything in them. Nothing is run before all is whole.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from edge.bundles.archive import MANIFEST, SIGNATURE, Meter, damaged, pieces_of
from edge.bundles.reader import hashed, named
from edge.disk import sync, write_atomically
from edge.errors import BundleRefused, FetchFailed
from edge.modelstore.workspace import Progress
from edge.updates.manifest import File, Head
from edge.updates.reader import Files, Source

MARGIN = 64_000_000
"""Bytes that stay free: the rest of the machine writes to the same disk."""


class Staging:
    """Owns the folder. One user at a time: the update's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "bundle"

    def clear(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def missing(self, head: Head) -> int:
        """Bytes of the bundle that are not here yet, by the sizes of what is."""
        if not self._is_of(head):
            return head.software.size
        return sum(file.size - min(file.size, self._size(file)) for file in head.software.files)

    def require(self, head: Head) -> None:
        """Raise `FetchFailed` unless the rest of the bundle, and what it becomes, have room."""
        place = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        needed = self.missing(head) + head.software.installed_bytes + MARGIN
        free = shutil.disk_usage(place).free
        if free < needed:
            raise FetchFailed(
                f"not enough room in {self.folder.parent}: {needed // 1_000_000 + 1} MB are needed,"
                f" {free // 1_000_000} MB are free",
                hint=f"make room; what takes it: du -xhd1 {self.folder.parent}",
            )

    def fetch(self, source: Source, head: Head, progress: Progress) -> None:
        """Until all is here, on disk, and as the manifest says.

        Raises `BundleRefused`, `FetchFailed`, `OSError`; what was whole stays for the next time.
        """
        self._begin(head)
        with named(source.name):
            try:
                self._fetch(source, head, progress)
            except _Stale as stale:
                # What an earlier try had left of this file was not what it had fetched.
                (self.root / stale.file.path).unlink()
                self._fetch(source, head, progress)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                self.clear()  # the appliance needs the room more
                raise FetchFailed(
                    f"no room was left in {self.folder.parent}", hint="make room, then again"
                ) from None
        for folder, _, _ in os.walk(self.folder):
            sync(Path(folder))

    def _is_of(self, head: Head) -> bool:
        try:
            return (self.folder / MANIFEST).read_bytes() == head.content
        except FileNotFoundError:
            return False

    def _begin(self, head: Head) -> None:
        """Keep what there is of this bundle, and nothing of another."""
        if not self._is_of(head):
            self.clear()
            self.folder.mkdir(parents=True, mode=0o700)
            write_atomically(self.folder / SIGNATURE, head.seal)
            write_atomically(self.folder / MANIFEST, head.content)
        self.root.mkdir(exist_ok=True)

    def _fetch(self, source: Source, head: Head, progress: Progress) -> None:
        files = head.software.files
        first = self._whole(files)
        if first == len(files):
            return
        done = self._partial(files[first])
        before = sum(file.size for file in files[:first]) + done
        meter = Meter(lambda now, total: progress(before + now, total), head.software.size)
        with Files(source, head, first, done) as rest:
            for file, pieces in rest:
                self._take(file, meter.passing(pieces), done)
                done = 0

    def _whole(self, files: list[File]) -> int:
        """How many of the first files are here, byte for byte."""
        for count, file in enumerate(files):
            path = self.root / file.path
            if not path.is_file() or path.stat().st_size != file.size:
                return count
            if _digest(path).hexdigest() != file.sha256:
                path.unlink()
                return count
            path.chmod(file.mode)
        return len(files)

    def _partial(self, file: File) -> int:
        size = self._size(file)
        if size >= file.size:
            (self.root / file.path).unlink(missing_ok=True)
            return 0
        return size

    def _size(self, file: File) -> int:
        path = self.root / file.path
        return path.stat().st_size if path.exists() else 0

    def _take(self, file: File, pieces: Iterator[bytes], done: int) -> None:
        path = self.root / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = _digest(path) if done else hashlib.sha256()
        with open(path, "ab" if done else "wb") as out:
            for piece in hashed(pieces, digest):
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() == file.sha256:
            path.chmod(file.mode)
        elif done:
            raise _Stale(file)
        else:
            path.unlink()
            raise damaged(file.path)


class _Stale(BundleRefused):
    def __init__(self, file: File) -> None:
        super().__init__(f"{file.path} was left damaged by an earlier try")
        self.file = file


def _digest(path: Path) -> hashlib._Hash:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in pieces_of(file):
            digest.update(piece)
    return digest
