"""A machine whose requests are refused one after the other takes nothing from the others."""

from __future__ import annotations

import itertools
import socket

import pytest
from serving import Serving, read_to_end, read_until, request, serving

from edge.api.http import connection
from edge.api.http.nuisances import CONNECTIONS_A_SECOND, FREE, MOST, Nuisances

GARBAGE = b"\x16\x03\x01 nonsense\r\n\r\n"
WRONG = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_some_refusals_have_no_consequence() -> None:
    known = Nuisances(Clock())
    assert not any(known.refused("10.0.0.1") for _ in range(int(FREE)))
    assert known.hears("10.0.0.1")
    assert known.refused("10.0.0.1")
    assert not known.refused("10.0.0.2")


def test_a_nuisance_is_heard_at_a_rate() -> None:
    """And no other machine less for it."""
    clock = Clock()
    known = Nuisances(clock)
    for _ in range(200):
        known.refused("10.0.0.1")
    heard = [known.hears("10.0.0.1") for _ in range(20)]
    assert sum(heard) == CONNECTIONS_A_SECOND
    assert all(known.hears("10.0.0.2") for _ in range(20))
    clock.now += 1.0
    assert sum(known.hears("10.0.0.1") for _ in range(20)) == CONNECTIONS_A_SECOND


def test_who_stops_is_let_alone() -> None:
    """However long it went on before."""
    clock = Clock()
    known = Nuisances(clock)
    for _ in range(10_000):
        known.refused("10.0.0.1")
    clock.now += MOST - FREE
    assert all(known.hears("10.0.0.1") for _ in range(20))


def ask(door: Serving, address: str, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", door.port), 60, (address, 0)) as sock:
        sock.sendall(data)
        return read_to_end(sock)


@pytest.mark.parametrize("data", [GARBAGE, WRONG])
def test_a_flood_of_what_is_refused(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held up and then ended without an answer; others, and who speaks already, go on."""
    monkeypatch.setattr(connection, "HOLD_SECONDS", 0.2)
    with serving() as door:
        early = socket.create_connection(("127.0.0.1", door.port), 60, ("127.0.0.2", 0))
        early.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        read_until(early, b"}")
        ended = data.replace(b"Host: x", b"Host: x\r\nConnection: close")
        answers = (ask(door, "127.0.0.2", ended) for _ in itertools.count())
        assert next(answer for answer in answers if b"400" not in answer) == b""
        with door.connect() as good:
            good.sendall(request(stream=True))
            read_until(good, b"[DONE]")
        early.sendall(request(stream=True))
        read_until(early, b"[DONE]")
        early.close()
        metrics = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        told = ask(door, "127.0.0.3", metrics)
    assert b'edge_http_connections_dropped_total{reason="nuisance"}' in told


def test_the_last_answer_to_a_nuisance_ends_its_connection() -> None:
    """Else it would go on with the connection that it has."""
    with serving() as door:
        sock = socket.create_connection(("127.0.0.1", door.port), 60, ("127.0.0.2", 0))
        for _ in range(int(FREE) + 1):
            sock.sendall(WRONG)
            answer = read_until(sock, b"}}")
        assert b"connection: close" in answer.lower()
        assert read_to_end(sock) == b""
        sock.close()


def test_the_machine_itself_is_let_alone() -> None:
    """Its own programs are its owner's."""
    with serving() as door, door.connect() as sock:
        for _ in range(int(FREE) + 10):
            sock.sendall(WRONG)
            assert b"connection: close" not in read_until(sock, b"}}").lower()
