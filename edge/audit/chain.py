"""The form of a line: JSON whose last member ties it to all lines before.

    {"seq":7,"time":"2026-11-23T05:31:07.123456Z", … ,"chain":"<64 hex digits>"}

`chain` is the SHA-256 of the `chain` of the line before, in hex, and of the line up to it, closed
with a brace. So every byte of a line counts, and a line fits behind one other alone. Pure.
"""

from __future__ import annotations

import hashlib

import msgspec

from edge.audit.event import Event

ORIGIN = "0" * 64
"""What stands for the line before the first."""

_BEFORE, _AFTER = b',"chain":"', b'"}\n'
_FRAME = len(_BEFORE) + 64 + len(_AFTER)


class BadLine(Exception):
    """What is wrong with a line."""


def line_of(previous: str, event: Event) -> tuple[bytes, str]:
    """The bytes of a line with its line feed, and its `chain`."""
    body = msgspec.json.encode(event)
    chain = _digest(previous, body)
    return body[:-1] + _BEFORE + chain.encode() + _AFTER, chain


def read_line(line: bytes) -> tuple[Event, str]:
    """The event of a line, and its `chain`, not compared with anything. Raises `BadLine`."""
    body, chain = _split(line)
    try:
        return msgspec.json.decode(body, type=Event), chain
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadLine("it cannot be read") from None


def check_line(previous: str, line: bytes) -> tuple[Event, str]:
    """The same for a line that has to follow another. Raises `BadLine`."""
    body, chain = _split(line)
    if chain != _digest(previous, body):
        raise BadLine("it was changed, or does not follow the line before")
    return read_line(line)


def _split(line: bytes) -> tuple[bytes, str]:
    frame = line[-_FRAME:]
    whole = frame.startswith(_BEFORE) and frame.endswith(_AFTER) and len(frame) == _FRAME
    if not whole:
        raise BadLine("it is not whole")
    chain = frame[len(_BEFORE) : -len(_AFTER)].decode("latin-1")
    return line[:-_FRAME] + b"}", chain


def _digest(previous: str, body: bytes) -> str:
    return hashlib.sha256(previous.encode() + body).hexdigest()
