"""The files of the log, and whose turn it is to change them.

    <state>/audit/000012-2026-11-23.jsonl      lines (chain.py): one file or more for each day, UTC
    <state>/audit/000012-2026-11-23.content    what was said in them (contents.py), where it is kept
    <state>/audit/head                         the signed end (seal.py)
    <state>/audit/public.pem                   what it is checked with
    <state>/audit/.lock                        held while any of them changes
    <state>/audit.key                          what it is signed with

The number of a file tells its place, and its day only when it was begun: clocks jump.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge.audit.seal import Head, PublicKey, SealingKey, read_public
from edge.disk import write_atomically
from edge.errors import AuditBroken

_NAME = re.compile(r"(\d{6,})-(\d{4}-\d\d-\d\d)\.jsonl")


class LogFile(msgspec.Struct, frozen=True, order=True):
    """One file of lines. day: `2026-11-23`."""

    number: int
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def day(self) -> str:
        match = _NAME.fullmatch(self.name)
        assert match is not None
        return match[2]

    @property
    def contents(self) -> Path:
        return self.path.with_suffix(".content")

    @property
    def bytes(self) -> int:
        """With what was said."""
        return size_of(self.path) + size_of(self.contents)


class Folder:
    """state: the state directory."""

    def __init__(self, state: Path) -> None:
        self.path = state / "audit"
        self.head = self.path / "head"
        self.key_file = state / "audit.key"
        self.public = self.path / "public.pem"

    def files(self) -> list[LogFile]:
        """Oldest first. Raises `OSError`."""
        if not self.path.is_dir():
            return []
        found = ((_NAME.fullmatch(path.name), path) for path in self.path.iterdir())
        return sorted(LogFile(int(match[1]), path) for match, path in found if match)

    def file(self, number: int, day: str) -> LogFile:
        return LogFile(number, self.path / f"{number:06d}-{day}.jsonl")

    def make(self) -> SealingKey:
        """Have all that a log needs, and its key. Raises `AuditBroken`, `OSError`.

        The first head is there before the key is, so that a key without a head tells that there
        was one.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.give(self.path)
        for part in self.path.glob("*.part"):  # of a process that was killed
            part.unlink(missing_ok=True)
        if self.key_file.exists():
            return SealingKey.read(self.key_file)
        key = SealingKey.generate()
        if not self.files():
            self._write(self.head, key.seal(Head()))
        self._write(self.public, key.public.pem)
        self._write(self.key_file, key.pem)
        return key

    def _write(self, path: Path, data: bytes) -> None:
        write_atomically(path, data, mode=0o600)
        self.give(path)

    def public_key(self) -> PublicKey:
        """By which this machine's log is checked: of its own key, or what came with a copy.

        Raises `AuditBroken`.
        """
        try:
            return SealingKey.read(self.key_file).public
        except OSError:
            pass
        try:
            return read_public(self.public)
        except OSError as error:
            raise AuditBroken(
                f"{self.public} cannot be read: {error.strerror}", hint="--public-key FILE"
            ) from None

    def give(self, path: Path) -> None:
        """To the user whose the state is, where root has made it. Raises `OSError`."""
        if os.geteuid() == 0:
            owner = self.path.parent.stat()
            os.chown(path, owner.st_uid, owner.st_gid)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The sole right to change the log. Raises `OSError`."""
        lock = self.path / ".lock"
        handle = os.open(lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.give(lock)
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Nobody changes the log meanwhile; of a copy, in which nobody can, nothing is locked."""
        try:
            handle = os.open(self.path / ".lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            yield
        finally:
            os.close(handle)


def size_of(path: Path) -> int:
    """0 for a file that is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
