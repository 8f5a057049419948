"""Ports of loopback on which nothing listens, and nothing will unless a test means to.

Below those that the kernel gives to whoever asks for any: a port which it gave and which was closed
again may be another server's a moment later, where a test counts on it to be dead, or to be there
for a server that comes back.
"""

from __future__ import annotations

import random
import socket

FIRST, LAST = 18_000, 32_000
"""Linux gives away those from 32768 on (`net.ipv4.ip_local_port_range`)."""

_given: set[int] = set()


def free_port() -> int:
    """A port that nothing listens on, and that this process is not told of again."""
    # Not of the tests' own seed: two processes would be given the same ports in the same order.
    source = random.SystemRandom()
    while True:
        port = source.randrange(FIRST, LAST)
        if port in _given:
            continue
        _given.add(port)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
