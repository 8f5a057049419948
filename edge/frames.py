"""Messages between the daemon and a worker: length-prefixed MessagePack, both ways, over one Unix
stream socket pair. What the messages are is said where they are used.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any, Generic, TypeVar

import msgspec

from edge.errors import PayloadTooLarge

HEADER = struct.Struct("!I")
LARGEST_MESSAGE = 256 * 1024 * 1024
"""Bytes, which whoever reads it has in memory at once."""

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


def pack(message: msgspec.Struct) -> bytes:
    """Raises `PayloadTooLarge` for what the other side would not take."""
    body = _encoder.encode(message)
    if len(body) > LARGEST_MESSAGE:
        raise PayloadTooLarge(
            f"it takes {len(body):,} bytes, and {LARGEST_MESSAGE:,} at most are passed on"
        )
    return HEADER.pack(len(body)) + body


def body_size(header: bytes) -> int:
    """Raises ValueError for a length that cannot be: the other side is out of step."""
    (size,) = HEADER.unpack(header)
    if size > LARGEST_MESSAGE:
        raise ValueError(f"a message of {size} bytes")
    return int(size)


class Connection(Generic[T]):
    """The worker's end of the socket pair: one thread reads, any may write."""

    def __init__(self, sock: socket.socket, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._socket = sock
        self._reader = sock.makefile("rb")
        self._decoder = decoder
        self._writing = threading.Lock()

    def receive(self) -> T | None:
        """The next command; None when the daemon is gone."""
        header = self._reader.read(HEADER.size)
        if len(header) < HEADER.size:
            return None
        size = body_size(header)
        body = self._reader.read(size)
        return self._decoder.decode(body) if len(body) == size else None

    def send(self, report: Any) -> None:
        """Raises `OSError` when the daemon is gone."""
        message = pack(report)
        with self._writing:
            self._socket.sendall(message)
