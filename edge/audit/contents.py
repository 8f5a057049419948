"""What was said, beside the log and removable from it.

A line of the log has the digest of a random salt and of the digest of what was said. Salt and
digest, and with `audit.content: full` what was said, are a line of the file beside it:

    {"seq":7,"who":"press-07","salt":"<32 hex digits>","sha256":"<of the content>","content":{…}}

Without this line nobody can find out by trying what was said, and the log is as valid as before.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge.disk import sync


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """content: JSON; none with `audit.content: hash`."""

    seq: int
    who: str
    salt: str
    sha256: str
    content: msgspec.Raw = msgspec.Raw()

    @property
    def digest(self) -> str:
        """As it stands in the line of the log. Of the digits, in which no byte can be another."""
        return hashlib.sha256(f"{self.salt}{self.sha256}".encode()).hexdigest()


class BadContent(Exception):
    """What is wrong with a line."""


def make(seq: int, who: str, said: bytes, *, full: bool) -> Content:
    """said: JSON."""
    kept = msgspec.Raw(said) if full else msgspec.Raw()
    return Content(seq, who, secrets.token_hex(16), hashlib.sha256(said).hexdigest(), kept)


def line_of(content: Content) -> bytes:
    fields = {"seq": content.seq, "who": content.who, "salt": content.salt}
    body = msgspec.json.encode({**fields, "sha256": content.sha256})
    if bytes(content.content):
        body = body[:-1] + b',"content":' + bytes(content.content) + b"}"
    return body + b"\n"


def read_line(line: bytes) -> Content:
    """Raises `BadContent` for one in which any byte is not as it was written."""
    try:
        content = msgspec.json.decode(line, type=Content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadContent("it cannot be read") from None
    said = bytes(content.content)
    if line != line_of(content) or (said and hashlib.sha256(said).hexdigest() != content.sha256):
        raise BadContent("it was changed")
    return content


def lines(path: Path, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The lines of a file from one byte to another, the last one whole or not; none where there is
    no file. Raises `OSError`."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return
    with file:
        file.seek(start)
        at = start
        for line in file:
            if end is not None and at + len(line) > end:
                if at < end:
                    yield line[: end - at]
                return
            at += len(line)
            yield line


def forget(path: Path, who: str) -> int:
    """Take away all lines of somebody; returns how many. For whoever has the log's turn.

    The file is another one afterwards, at once. Raises `OSError`.
    """
    part, gone = path.with_name(f"{path.name}.part"), 0
    facts = path.stat()
    with open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as kept:
        for line in lines(path):
            try:
                mine = read_line(line).who == who
            except BadContent:
                mine = False
            if mine:
                gone += 1
            else:
                kept.write(line)
        kept.flush()
        os.fsync(kept.fileno())
        os.fchown(kept.fileno(), facts.st_uid, facts.st_gid)
    os.replace(part, path)
    sync(path.parent)
    return gone
