"""What calls itself a broker and sends whatever it likes: packets of MQTT 5 with something wrong in
them, or no packets at all. A thread for each connection."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress

from mutator import broken

CONNACK = bytes.fromhex("2003000000")
SUBACK = bytes.fromhex("90040001") + b"\0\1"
PINGRESP = b"\xd0\0"
PUBACK = bytes.fromhex("40020001")
PUBREL = bytes.fromhex("62020001")
DISCONNECT = bytes.fromhex("e0028b00")
AUTH = bytes.fromhex("f00218001500")
ENDLESS = b"\x30\xff\xff\xff\x7f" + b"x" * 1000
"""A message of 256 MB, of which the beginning comes."""


def publish(topic: bytes, payload: bytes, *, qos: int = 1, properties: bytes = b"") -> bytes:
    """Lengths below 128 only have one byte each."""
    head = len(topic).to_bytes(2, "big") + topic + (b"\0\7" if qos else b"")
    rest = head + bytes([len(properties)]) + properties + payload
    return bytes([0x30 | qos << 1, len(rest)]) + rest


PACKETS = (
    *(CONNACK, SUBACK, PINGRESP, PUBACK, PUBREL, DISCONNECT, AUTH, ENDLESS),
    publish(b"edge/press-07/chat", b'{"prompt": "x"}'),
    publish(b"edge/press-07/chat", b"x", properties=b"\x02\0\0\0\1\x08\0\3a/b\x09\0\2id"),
    publish(b"edge/press-07/chat", b"x", properties=b"\x26\0\1a\0\1b"),
    publish(b"edge/press-07/infer/\xff\xfe", b"\0", qos=0),
    publish(b"edge/press-07/cancel", b'{"id": 1}', qos=2),
    publish(b"$SYS/#", b""),
    publish(b"edge/press-07/as/x", b""),
)


class HostileBroker:
    """Every connection has a `Random` of its own, made of `seed` and its number."""

    def __init__(self, seed: int, port: int = 0) -> None:
        self.seed = seed
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            chance = random.Random(self.seed + self.connections)
            self.connections += 1
            threading.Thread(target=self._speak, args=(sock, chance), daemon=True).start()

    def _speak(self, sock: socket.socket, chance: random.Random) -> None:
        with sock, suppress(OSError):
            sock.settimeout(0.2)
            sock.recv(4096)
            if chance.random() < 0.1:
                sock.sendall(chance.randbytes(chance.randrange(1, 2000)))
                return
            sock.sendall(_maybe_broken(chance, CONNACK, 0.1))
            sock.recv(4096)
            sock.sendall(_maybe_broken(chance, SUBACK, 0.1))
            for _ in range(chance.randrange(8)):
                sock.sendall(_maybe_broken(chance, chance.choice(PACKETS), 0.5))
            sock.recv(4096)


def _maybe_broken(chance: random.Random, packet: bytes, often: float) -> bytes:
    return broken(chance, packet) if chance.random() < often else packet
