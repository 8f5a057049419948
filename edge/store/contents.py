"""The bytes of a file beside the ledger: written to a draft, then put in their place at once.

All that touches the disk is done on a thread, a piece at a time: contents are never in memory as
a whole. Knows nothing of SQLite.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from edge.disk import sync
from edge.errors import FileNotFound, StoreBroken, StoreFull

DRAFT = ".draft"
"""Suffix of a file that is still being written."""

_PIECE = 1 << 20
_BOM = b"\xef\xbb\xbf"


class Draft:
    """A file that nobody sees yet. Use `async with`: what was not sealed is removed at the end.

    Methods raise `StoreFull` and `StoreBroken`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.sealed = False
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._file: BinaryIO | None = None

    async def __aenter__(self) -> Draft:
        await asyncio.to_thread(self._open)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.sealed:
            await asyncio.shield(asyncio.to_thread(self._discard))

    async def write(self, data: bytes) -> None:
        """Take some bytes; they go to the disk in larger pieces."""
        self._pieces.append(data)
        self._waiting += len(data)
        self.size += len(data)
        if self._waiting >= _PIECE:
            await asyncio.to_thread(self._write, self._take())

    async def seal(self) -> None:
        """All of it is on the disk, under its name; a power cut leaves the whole file or none."""
        await asyncio.to_thread(self._seal, self._take())
        self.sealed = True

    def _take(self) -> bytes:
        data, self._pieces, self._waiting = b"".join(self._pieces), [], 0
        return data

    def _open(self) -> None:
        with explained(self.path):
            self._file = open(self.path.with_suffix(DRAFT), "xb")  # noqa: SIM115

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        with explained(self.path):
            self._file.write(data)

    def _seal(self, data: bytes) -> None:
        assert self._file is not None
        with explained(self.path):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.rename(self.path.with_suffix(DRAFT), self.path)
            sync(self.path.parent)

    def _discard(self) -> None:
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
        remove(self.path.with_suffix(DRAFT))


class Line(msgspec.Struct, frozen=True):
    """A line of a file: its number from 1, its text, and where the next one begins.

    text has no white space around it, and is None where it is longer than was allowed.
    """

    number: int
    text: bytes | None
    end: int


def read_lines(
    path: Path, position: int, number: int, *, most: int, most_bytes: int, longest: int
) -> list[Line]:
    """The lines after line `number`, which ends at `position`; none at the end of the file.

    At most `most` of them, and about `most_bytes`, but always one. For a thread.
    Raises `FileNotFound` where somebody took the contents away, and `StoreBroken`.
    """
    if not path.exists():
        raise FileNotFound(f"the contents of `{path.name}` are gone")
    found: list[Line] = []
    read = 0
    with explained(path), open(path, "rb") as file:
        file.seek(position)
        while len(found) < most and read < most_bytes:
            text = file.readline(longest + 1)
            if not text:
                break
            whole = len(text)
            number += 1
            while not text.endswith(b"\n") and (more := file.readline(_PIECE)):
                whole += len(more)
                text = text[: longest + 1] + more[-1:]
            start, position = position, position + whole
            read += whole
            if start == 0:
                text = text.removeprefix(_BOM)
            too_long = whole > longest + 1
            found.append(Line(number, None if too_long else text.strip(), position))
    return found


def remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what the operating system raises into our errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(
                f"no room on the disk for {path}", hint="free some space", retry_after=10.0
            ) from error
        raise StoreBroken(
            f"{path} cannot be used: {error}", hint="check the disk", retry_after=10.0
        ) from error
