"""A bounded window onto the head of a file: what a parser of untrusted bytes reads through.

The window grows in chunks as the parser moves on, never past the end of the file and never past
`LIMIT`, whatever lengths the file declares. So a hostile file costs at most `LIMIT` bytes of memory
and the time to walk them. (Not mmap: a file that shrinks under a mapping kills the process.)
"""

from __future__ import annotations

import struct
from typing import BinaryIO

LIMIT = 64 << 20
"""Bytes of header. A vocabulary of 256k tokens with scores, types and merges takes about 16 MiB."""

_CHUNK = 1 << 20
_LENGTH = struct.Struct("<Q")


class Malformed(Exception):
    """The bytes are not what the format asks for. The text says why, without the file's name.

    hint: what to do about it.
    """

    def __init__(self, reason: str, hint: str = "fetch or copy the model again") -> None:
        super().__init__(reason)
        self.hint = hint


class Window:
    """A cursor (`at`, in bytes) over the first `size` bytes of an open file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.at = 0
        self.size = size
        self._file = file
        self._bytes = bytearray()

    def scalar(self, form: struct.Struct) -> int | float | bool:
        """The one value that `form` unpacks."""
        start = self.at
        self.skip(form.size)
        value: int | float | bool = form.unpack_from(self._bytes, start)[0]
        return value

    def numbers(self, start: int, kind: str, count: int) -> tuple[int, ...]:
        """`count` packed whole numbers from `start`, a place that was passed already."""
        return struct.unpack_from(f"<{count}{kind}", self._bytes, start)

    def length(self) -> int:
        """An unsigned 64-bit count."""
        return int(self.scalar(_LENGTH))

    def name(self, longest: int, what: str) -> str:
        """A string of at most `longest` bytes; `what` it is, for the message."""
        length = self.length()
        start = self.at
        self.skip(length)
        raw = self.stretch(start, start + min(length, longest))
        if not 0 < length <= longest:
            raise Malformed(f"a {what} is empty or longer than {longest} bytes: {raw[:32]!r}")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed(f"the {what} {raw[:32]!r} is not UTF-8") from None

    def stretch(self, start: int, end: int) -> bytes:
        """A stretch that was passed already."""
        return bytes(self._bytes[start:end])

    def texts(self, start: int, end: int, count: int) -> list[bytes]:
        """`count` strings that fill a stretch that was passed already."""
        held, unpack = self.stretch(start, end), _LENGTH.unpack_from
        found, at = [], 0
        for _ in range(count):
            begin = at + _LENGTH.size
            at = begin + unpack(held, at)[0]
            found.append(held[begin:at])
        return found

    def skip(self, count: int) -> None:
        """Move on by `count` bytes, which are in the window afterwards."""
        self._need(self.at + count)
        self.at += count

    def skip_texts(self, count: int) -> None:
        """Move past `count` strings without making objects of them: vocabularies have 256k."""
        self._need(self.at + count * _LENGTH.size)
        at, have, unpack = self.at, len(self._bytes), _LENGTH.unpack_from
        for _ in range(count):
            after = at + _LENGTH.size
            if after > have:
                self._need(after)
                have = len(self._bytes)
            at = after + unpack(self._bytes, at)[0]
        self._need(at)
        self.at = at

    def _need(self, end: int) -> None:
        if end <= len(self._bytes):
            return
        if end > self.size:
            raise Malformed(f"truncated: its header goes on to byte {end} of {self.size}")
        if end > LIMIT:
            raise Malformed(f"its header is larger than {LIMIT >> 20} MiB")
        self._bytes += self._file.read(max(end - len(self._bytes), _CHUNK))
        if end > len(self._bytes):
            raise Malformed(f"it shrank to {len(self._bytes)} bytes while it was read")
