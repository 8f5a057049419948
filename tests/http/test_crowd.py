"""One machine, or a few of them, cannot take all connections."""

from __future__ import annotations

import socket

from serving import Serving, read_to_end, read_until, request, serving

from edge.api.http.crowd import Crowd
from edge.config.doors import Limits
from edge.metrics import Metrics


class Held:
    """A connection that only its crowd knows."""

    def __init__(self, crowd: Crowd, idle: bool = True) -> None:
        self.crowd = crowd
        self.idle = idle
        self.dropped: str | None = None

    def drop(self, reason: str) -> None:
        self.dropped = reason
        self.crowd.leave(self)


def crowd_of(most: int, per_address: int) -> Crowd:
    limits = Limits(max_connections=most, max_connections_per_address=per_address)
    return Crowd(lambda: limits, Metrics())


def fill(crowd: Crowd, address: str, count: int, idle: bool = True) -> list[Held]:
    held = [Held(crowd, idle) for _ in range(count)]
    assert all(crowd.join(one, address) for one in held)
    return held


def test_an_address_has_only_so_many() -> None:
    """Others are let in, and so is the same one when one of its connections has ended."""
    crowd = crowd_of(10, 2)
    first, _ = fill(crowd, "10.0.0.1", 2)
    assert not crowd.join(Held(crowd), "10.0.0.1")
    fill(crowd, "10.0.0.2", 1)
    crowd.leave(first)
    crowd.leave(first)
    fill(crowd, "10.0.0.1", 1)
    assert (crowd.size, crowd.addresses) == (3, 2)


def test_a_network_of_ipv6_is_one_machine() -> None:
    """It has 2^64 addresses to itself; an IPv4 address in IPv6's clothes is still that one."""
    crowd = crowd_of(10, 1)
    fill(crowd, "2001:db8::1", 1)
    assert not crowd.join(Held(crowd), "2001:db8::2")
    fill(crowd, "::ffff:10.0.0.1", 1)
    assert not crowd.join(Held(crowd), "10.0.0.1")


def test_who_has_the_most_gives_one_up() -> None:
    """The oldest on which nothing is asked; when nobody has more than the new one, it has to go."""
    crowd = crowd_of(4, 4)
    (busy,) = fill(crowd, "10.0.0.1", 1, idle=False)
    hoard = fill(crowd, "10.0.0.1", 2)
    fill(crowd, "10.0.0.2", 1)
    fill(crowd, "10.0.0.3", 1)
    assert [one.dropped for one in [busy, *hoard]] == [None, "displaced", None]
    assert not crowd.join(Held(crowd), "10.0.0.3")
    assert crowd.size == 4


def test_nobody_is_displaced_while_he_is_served() -> None:
    """Then it is the new one that has to come again."""
    crowd = crowd_of(2, 2)
    fill(crowd, "10.0.0.1", 2, idle=False)
    assert not crowd.join(Held(crowd), "10.0.0.2")


def connect_from(door: Serving, address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", door.port), 60, (address, 0))


def test_connections_that_only_hold_on() -> None:
    """All connections are held by two machines; a third one is served, in the place of one."""
    with serving(max_connections=6, max_connections_per_address=4) as door:
        held = [connect_from(door, f"127.0.0.{2 + number % 2}") for number in range(6)]
        door.wait_connections(6)
        with connect_from(door, "127.0.0.9") as good:
            good.sendall(request(stream=True))
            read_until(good, b"[DONE]")
        assert read_to_end(held[0]) == b""
        for sock in held:
            sock.close()


def test_too_many_connections_of_one_address() -> None:
    """Closed at once, and counted."""
    with serving(max_connections_per_address=2) as door:
        with connect_from(door, "127.0.0.2"), connect_from(door, "127.0.0.2"):
            door.wait_connections(2)
            with connect_from(door, "127.0.0.2") as third:
                assert read_to_end(third) == b""
            with connect_from(door, "127.0.0.3") as good:
                good.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                told = read_to_end(good)
        assert b'edge_http_connections_dropped_total{reason="address"} 1.0' in told
        assert b"edge_http_connections 3.0" in told
