"""Clients that are slow, broken or of bad will: each is dropped, and its slot is free.

The bounds on time are shortened here, so the door runs in this process; see `serving.py`.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
from collections.abc import AsyncGenerator, Iterable, Iterator
from itertools import repeat

import pytest
from daemon_process import poll
from serving import Serving, read_to_end, read_until, request, serving
from starlette.types import Message

from edge.api.http import body, connection
from edge.api.http.stream import EventStream

SHORT = 0.3
MANY = 100_000
"""Pieces, more of them than all the buffers on the way can hold."""
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """All bounds on time, shortened."""
    for name in ("HEADER_SECONDS", "STALL_SECONDS", "LINGER_SECONDS"):
        monkeypatch.setattr(connection, name, SHORT)
    monkeypatch.setattr(body, "SECONDS", SHORT)


@pytest.fixture
def patient_door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """A door that only sizes can close."""
    for name in ("HEADER_SECONDS", "STALL_SECONDS"):
        monkeypatch.setattr(connection, name, 1000)
    monkeypatch.setattr(connection, "LINGER_SECONDS", SHORT)
    monkeypatch.setattr(body, "SECONDS", 1000)
    with serving() as served:
        yield served


@pytest.fixture
def door(short: None) -> Iterator[Serving]:
    with serving() as served:
        yield served


def trickle(sock: socket.socket, pieces: Iterable[bytes], seconds: float = 0.02) -> bytes:
    """Send the pieces one by one until the server ends the connection; returns what it said."""
    said = b""
    for piece in pieces:
        try:
            sock.sendall(piece)
            if select.select([sock], [], [], seconds)[0]:
                heard = sock.recv(65536)
                if not heard:
                    return said
                said += heard
        except ConnectionError:
            return said
    raise AssertionError("the connection was still open at the end")


def still_serves(door: Serving) -> None:
    """A good client is served, and the books are clean."""
    with door.connect() as sock:
        sock.sendall(request(stream=True))
        assert read_until(sock, b"[DONE]").count(b'"word "') == 4
    door.wait_free()
    door.wait_connections(0)


def test_a_client_that_says_nothing(door: Serving) -> None:
    """It is dropped without a word."""
    with door.connect() as sock:
        assert read_to_end(sock) == b""
    still_serves(door)


def test_headers_that_trickle(door: Serving) -> None:
    """A byte now and then does not buy more time."""
    with door.connect() as sock:
        assert trickle(sock, [HEAD, *repeat(b"X: y\r\n", 1000)]) == b""
    still_serves(door)


def test_headers_that_trickle_after_a_good_request(door: Serving) -> None:
    """The time is bounded for every request of a connection, not for its first one only."""
    with door.connect() as sock:
        sock.sendall(request())
        read_until(sock, b"}}")
        assert trickle(sock, [HEAD, *repeat(b"X: y\r\n", 1000)]) == b""
    still_serves(door)


@pytest.mark.parametrize("line", [b"X: y\r\n", b"x" * 1000, b"X-" + b"y" * 1000 + b": z\r\n"])
def test_headers_without_end(patient_door: Serving, line: bytes) -> None:
    """Refused above a size, however fast they come."""
    with patient_door.connect() as sock:
        said = trickle(sock, [HEAD, *repeat(line * 20, MANY)], 0)
    assert said == b"" or said.startswith(b"HTTP/1.1 400")
    still_serves(patient_door)


@pytest.mark.parametrize(
    "start",
    [b"1\r\n{\r\n0\r\n", b"1;", b"1;x=y"],
    ids=["trailers", "chunk header", "chunk extension"],
)
def test_framing_without_end(patient_door: Serving, start: bytes) -> None:
    """What a chunked body has beside the body is bounded in the same way."""
    start = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + start
    line = b"X: y\r\n" * 200 if start.endswith(b"\n") else b"x" * 1000
    with patient_door.connect() as sock:
        trickle(sock, [start, *repeat(line, MANY)], 0)
    still_serves(patient_door)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"nonsense " * 10_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n",
        HEAD + b"Content-Length: five\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999999999999999\r\n\r\n",
    ],
    ids=lambda raw: ascii(raw.removeprefix(HEAD))[2:30],
)
def test_what_is_not_http(door: Serving, garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """400 in the shape of all errors, and the connection ends; who floods, floods no log."""
    with door.connect() as sock:
        sock.sendall(garbage)
        head, _, answer = read_to_end(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer)["error"]["code"] == "invalid_request_error"
    assert "Invalid HTTP" not in caplog.text
    still_serves(door)


def test_a_body_that_trickles(door: Serving) -> None:
    """408, and the connection ends although the client goes on."""
    with door.connect() as sock:
        said = trickle(sock, [HEAD + b"Content-Length: 100000\r\n\r\n", *repeat(b" ", 1000)])
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in said
    still_serves(door)


def test_a_body_that_never_comes(door: Serving) -> None:
    """The same for a client that has stopped sending."""
    with door.connect() as sock:
        sock.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        assert read_to_end(sock).startswith(b"HTTP/1.1 408 ")
    still_serves(door)


def test_a_body_without_end(patient_door: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """413, and the connection ends although the client goes on."""
    monkeypatch.setattr(body, "MOST_DISCARDED", 2**20)
    chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
    with patient_door.connect() as sock:
        start = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        said = trickle(sock, [start, *repeat(chunk, MANY)], 0)
    assert said == b"" or said.startswith(b"HTTP/1.1 413 ")
    still_serves(patient_door)


def test_a_body_for_a_route_that_reads_none(door: Serving) -> None:
    """The answer comes at once, and the body has no end to wait for."""
    with door.connect() as sock:
        start = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
        said = trickle(sock, [start, *repeat(b" ", 1000)])
    assert said.startswith(b"HTTP/1.1 404 ")
    still_serves(door)


def test_an_answer_before_the_end_of_the_body_can_be_read(door: Serving) -> None:
    """The client still sends when the refusal is there: it is not lost in a reset."""
    with door.connect() as sock:
        sock.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        sock.sendall(b" " * 500_000)
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 404 ")
    still_serves(door)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_takes_no_data(short: None, stream: bool) -> None:
    """A stream that nobody reads is cut and its slot is free; so is a whole answer."""
    with serving(piece="word " * 1000, send_buffer=4096) as door:
        with door.connect(receive_buffer=4096) as sock:
            sock.sendall(request(max_tokens=100_000 if stream else 200, stream=stream))
            door.wait_connections(1)
            door.wait_connections(0)
            door.wait_free()
        with door.connect() as sock:
            sock.sendall(request(stream=True))
            read_until(sock, b"[DONE]")


def test_a_client_that_takes_a_byte_now_and_then(short: None) -> None:
    """It is as good as none."""
    with serving(piece="word " * 1000, send_buffer=4096) as door:
        with door.connect(receive_buffer=4096) as sock:
            sock.sendall(request(max_tokens=100_000, stream=True))
            door.wait_connections(1)
            while door.server.server_state.connections:
                select.select([], [], [], 0.02)
                sock.recv(1)
        door.wait_free()
        assert door.runner.cancelled


def test_an_answer_that_is_never_collected(short: None) -> None:
    """Also one that is smaller than what makes the server wait for its client."""
    with serving(piece="word " * 100, send_buffer=4096) as door:
        with door.connect(receive_buffer=4096) as sock:
            sock.sendall(request(max_tokens=100).replace(b"Host: x", b"Connection: close"))
            door.wait_connections(1)
            door.wait_connections(0)
        door.wait_free()


def test_an_answer_that_is_never_collected_on_a_connection_that_stays(
    short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of keep-alive closes, and closing does not wait for ever."""
    with serving(piece="word " * 100, send_buffer=4096) as door:
        door.server.config.timeout_keep_alive = 0
        with door.connect(receive_buffer=4096) as sock:
            sock.sendall(request(max_tokens=100))
            door.wait_connections(1)
            door.wait_connections(0)
        door.wait_free()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_while_it_is_served(stream: bool) -> None:
    """The work is cancelled, streamed or not; the slot is free for another."""
    with serving(slots=1, endless=True) as door:
        with door.connect() as sock:
            sock.sendall(request(stream=stream))
            if stream:
                read_until(sock, b'"word "')
            poll_running(door, 1)
        door.wait_free()
        assert len(door.runner.cancelled) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_while_it_waits(stream: bool) -> None:
    """It gives up its place; the one that runs does not notice."""
    with serving(slots=1, endless=True) as door, door.connect() as first:
        first.sendall(request(stream=True))
        read_until(first, b'"word "')
        with door.connect() as second:
            second.sendall(request(stream=stream))
            poll_waiting(door, 1)
        poll_waiting(door, 0)
        assert len(door.runner.running) == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("behind", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", request()])
def test_a_client_that_leaves_with_requests_on_their_way(stream: bool, behind: bytes) -> None:
    """Requests behind the one that is served do not hide that the client has left."""
    with serving(slots=1, endless=True) as door:
        with door.connect() as sock:
            sock.sendall(request(stream=stream) + behind * 5)
            poll_running(door, 1)
        door.wait_free()
        assert len(door.runner.cancelled) == 1


def test_a_client_that_resets_the_connection(door: Serving) -> None:
    """An RST in mid-stream is a leaving like another."""
    with door.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.sendall(request(stream=True, max_tokens=10_000))
        read_until(sock, b'"word "')
    still_serves(door)


async def test_a_client_that_leaves_before_the_first_event() -> None:
    """The work behind a stream that was never begun is closed, and not left to be collected."""
    closed = []

    async def work() -> AsyncGenerator[str, None]:
        try:
            yield "a token"
        finally:
            closed.append(True)

    async def events() -> AsyncGenerator[bytes, None]:
        yield b"never read"

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        await asyncio.Event().wait()  # the answer before this one fills all buffers

    working = work()
    await working.__anext__()
    await EventStream(events(), working, {})({"type": "http"}, receive, send)
    assert closed


def test_pipelined_requests(door: Serving) -> None:
    """Answered one after another, in their order."""
    health = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: pipe-2\r\n\r\n"
    last = request(max_tokens=3).replace(b"Host: x", b"Connection: close")
    with door.connect() as sock:
        sock.sendall(request(stream=True) + health + last)
        said = read_to_end(sock)
    assert said.count(b"HTTP/1.1 200 OK") == 3
    assert said.index(b"[DONE]") < said.index(b"pipe-2") < said.index(b'"completion_tokens":3')
    still_serves(door)


def test_pipelining_without_end(short: None) -> None:
    """Behind an answer that is on its way only so many requests are read from a client."""
    with serving(slots=1, endless=True) as door, door.connect() as sock:
        sock.sendall(request(stream=True))
        read_until(sock, b'"word "')
        flood = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
        sock.setblocking(False)
        # Writing comes to a halt when neither side's buffers take any more.
        while select.select([], [sock], [], 1)[1]:
            sock.send(flood)
        (served,) = door.server.server_state.connections
        assert len(served.pipeline) < 20_000


def test_garbage_behind_a_request(door: Serving) -> None:
    """It ends the connection, and never gets into the answer that is on its way."""
    with door.connect() as sock:
        sock.sendall(request(stream=True, max_tokens=10_000))
        said = read_until(sock, b'"word "')
        sock.sendall(b"\x00\x01 nonsense\r\n\r\n")
        said += read_to_end(sock)
    assert said.count(b"HTTP/1.1") == 1
    still_serves(door)


def test_too_many_connections(short: None) -> None:
    """The one too many is closed at once; when another has left there is room again."""
    with serving(max_connections=2) as door:
        with door.connect(), door.connect() as second:
            door.wait_connections(2)
            with door.connect() as third:
                assert read_to_end(third) == b""
            second.sendall(request(stream=True))
            read_until(second, b"[DONE]")
        door.wait_connections(0)
        still_serves(door)


@pytest.mark.parametrize("stream", [True, False])
def test_too_many_waiting(stream: bool) -> None:
    """503 with a time to come back, before any work; those that wait are served."""
    with serving(slots=1, endless=True, max_waiting=1) as door, door.connect() as first:
        first.sendall(request(stream=True))
        read_until(first, b'"word "')
        with door.connect() as second, door.connect() as third:
            second.sendall(request(stream=True))
            poll_waiting(door, 1)
            third.sendall(request(stream=stream))
            head, _, _ = read_until(third, b"}}").partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert int(head.lower().partition(b"retry-after: ")[2].split()[0]) >= 1
            first.close()
            read_until(second, b'"word "')


@pytest.mark.parametrize("stream", [True, False])
def test_waiting_for_too_long(stream: bool) -> None:
    """503 `overloaded` once limits.max_wait_seconds have passed, and the place is given up."""
    with serving(slots=1, endless=True, max_wait_seconds=0.2) as door, door.connect() as first:
        first.sendall(request(stream=True))
        read_until(first, b'"word "')
        with door.connect() as second:
            second.sendall(request(stream=stream))
            head, _, answer = read_until(second, b"}}").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in head.lower()
        assert json.loads(answer)["error"]["code"] == "overloaded"
        assert door.runner.waiting == 0
        # The one that has a slot may take as long as it needs.
        assert len(door.runner.running) == 1


def test_a_wait_that_ends_in_time(short: None) -> None:
    """The bound is on waiting, not on being served."""
    with serving(slots=1, max_wait_seconds=0.2) as door, door.connect() as sock:
        sock.sendall(request(stream=True, max_tokens=500))
        assert read_until(sock, b"[DONE]").count(b'"word "') == 500


def test_a_model_that_could_not_be_restarted(door: Serving) -> None:
    """Told at once, and not after a wait for a slot that nobody will have."""
    door.runner.state = "failed"
    with door.connect() as sock:
        sock.sendall(request())
        head, _, answer = read_until(sock, b"}}").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(answer)["error"]["code"] == "loading"


def poll_running(door: Serving, count: int) -> None:
    poll(lambda: len(door.runner.running) == count, f"{count} running")


def poll_waiting(door: Serving, count: int) -> None:
    poll(lambda: door.runner.waiting == count, f"{count} waiting")
