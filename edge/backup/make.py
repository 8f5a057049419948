"""Making a backup, beside a daemon that works. Blocking; needs room for a copy of the databases.

    state ─► links and copies, of one moment ─► digests ─► one file

Files that are only ever replaced or removed are held by hard links, so that what is removed
meanwhile is still there; of those that grow, the bytes up to now. Files of callers are linked
before the ledger is copied and once more after: then all that the copy knows is there.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from edge import __version__
from edge.audit.folder import Folder
from edge.backup import archive
from edge.backup.parts import CONFIG, DATABASES, FILES, FOLDERS, Entry, Manifest, is_kept, path_of
from edge.disk import sha256_of, sync
from edge.errors import BackupRefused
from edge.modelstore.locks import turn
from edge.store.copy import copy_database

DRAFT = ".backup"
STDOUT = "-"


class Held(msgspec.Struct, frozen=True):
    """A file as it is now. source: where its bytes are; size: of them that count."""

    path: str
    source: Path
    size: int
    mode: int


def make(target: str, state: Path, config: Path | None, device: str) -> Manifest:
    """Write a backup of a state directory to a file, or with `-` to the standard output.

    config: the configuration's file, None if there is none. The file appears when it is whole.
    Raises `BackupRefused` where there is nothing to back up, `StoreBroken`, `StoreFull`, `OSError`.
    """
    if not state.is_dir():
        raise BackupRefused(f"{state} is not there", hint="--state DIR, or EDGE_STATE_DIR")
    with _draft(state) as draft:
        held = _hold(state, draft, config)
        if not held:
            raise BackupRefused(f"there is nothing in {state}", hint="--state DIR")
        entries = [
            Entry(one.path, one.size, sha256_of(one.source, one.size), one.mode) for one in held
        ]
        manifest = Manifest(archive.FORMAT, __version__, device, time.time(), entries)
        with _target(target) as file:
            archive.write_head(file, manifest)
            for one, entry in zip(held, entries, strict=True):
                with open(one.source, "rb") as source:
                    archive.write_file(file, entry, source)
            archive.write_end(file)
    return manifest


@contextmanager
def _draft(state: Path) -> Iterator[Path]:
    """A folder beside what it is of, for one backup at a time."""
    draft = state / DRAFT
    with turn(state / f"{DRAFT}.lock"):
        shutil.rmtree(draft, ignore_errors=True)  # of one that was killed
        draft.mkdir(mode=0o700)
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _target(target: str) -> Iterator[BinaryIO]:
    if target == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(target)
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync(path.absolute().parent)
    finally:
        part.unlink(missing_ok=True)


def _hold(state: Path, draft: Path, config: Path | None) -> list[Held]:
    links = _Links(state, draft)
    for folder in FOLDERS:
        if folder != "audit":
            links.folder(folder)
    with Folder(state).still():  # its head fits its lines
        links.folder("audit")
    for name in FILES:
        links.file(name)
    for name in DATABASES:
        if (state / name).exists():
            copy_database(state / name, draft / name)
            links.add(name, draft / name)
    links.folder("files")
    if config is not None and config.exists():
        links.held.append(_facts(CONFIG, config))
    return sorted(links.held, key=lambda one: one.path)


class _Links:
    """What was held so far, each with the size that it had then."""

    def __init__(self, state: Path, draft: Path) -> None:
        self._state = state
        self._draft = draft
        self.held: list[Held] = []

    def folder(self, folder: str) -> None:
        place = self._state / folder
        if place.is_dir():
            for name in sorted(os.listdir(place)):
                if is_kept(folder, name):
                    self.file(f"{folder}/{name}")

    def file(self, place: str) -> None:
        """Nothing where it is gone, is no file, or is held already."""
        source, link = self._state / place, self._draft / place
        if link.exists() or source.is_symlink() or not source.is_file():
            return
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, link)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                raise
            shutil.copy2(source, link)  # on another file system, or on one without links
        self.add(place, link)

    def add(self, place: str, source: Path) -> None:
        self.held.append(_facts(path_of(place), source))


def _facts(path: str, source: Path) -> Held:
    facts = source.stat()
    return Held(path, source, facts.st_size, facts.st_mode & 0o777)
