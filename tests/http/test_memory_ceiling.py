"""Short of memory, the least urgent work is refused first, and before it is read."""

from __future__ import annotations

import gc
import json
import socket
import weakref
from collections.abc import Iterator

import psutil
import pytest
from daemon_process import PATIENCE, DaemonProcess, Start, poll
from serving import Serving, read_to_end, read_until, request, serving

from edge.ceiling import STEP, MemoryCeiling
from edge.config.doors import Limits
from edge.errors import Overloaded
from edge.host import memory
from edge.metrics import Metrics
from edge.types import Priority

MB = 1 << 20
HEAD = "POST /v1/completions HTTP/1.1\r\nHost: x\r\n"


class Held:
    """What the process seems to hold, of a ceiling of 100 MB."""

    def __init__(self) -> None:
        self.mb = 10

    def __call__(self) -> int:
        return self.mb * MB


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def ceiling(held: Held) -> MemoryCeiling:
    return MemoryCeiling(Limits(max_memory_mb=100), Metrics(), held)


async def refused(ceiling: MemoryCeiling) -> list[Priority]:
    """Measured now."""
    with ceiling.body() as body:
        ceiling.note(body, STEP, more=False)
    found: list[Priority] = []
    for priority in ("batch", "normal", "critical"):
        try:
            ceiling.check(priority)
        except Overloaded:
            found.append(priority)
    return found


async def test_the_least_urgent_first_and_the_most_urgent_last(
    ceiling: MemoryCeiling, held: Held
) -> None:
    """At 80, 90 and 100 %; each is let in again 5 % below that."""
    seen = {}
    for held.mb in (79, 80, 89, 90, 99, 100, 96, 94, 86, 84, 76, 74):
        seen[held.mb] = await refused(ceiling)
    batch, normal, every = ["batch"], ["batch", "normal"], ["batch", "normal", "critical"]
    rising = {79: [], 80: batch, 89: batch, 90: normal, 99: normal, 100: every}
    assert seen == rising | {96: every, 94: normal, 86: normal, 84: batch, 76: batch, 74: []}


async def test_the_largest_bodies_are_given_up(ceiling: MemoryCeiling, held: Held) -> None:
    """Of those that still come, and no more of them than are needed."""
    with ceiling.body() as small, ceiling.body() as large, ceiling.body() as whole:
        ceiling.note(whole, 50 * MB, more=False)
        ceiling.note(small, 3 * MB, more=True)
        held.mb = 91
        with pytest.raises(Overloaded):
            ceiling.note(large, 20 * MB, more=True)
        ceiling.note(small, 1 * MB, more=True)
        ceiling.note(whole, 0, more=False)


async def test_what_knows_itself_is_freed_too(ceiling: MemoryCeiling, held: Held) -> None:
    """Python looks for circles of references when many objects are new, and not for their size."""

    class Answer:
        def __init__(self) -> None:
            self.itself = self

    gone = weakref.ref(Answer())
    gc.disable()
    try:
        await ceiling._turn()
        assert gone() is not None
        held.mb = 85
        await ceiling._turn()
        assert gone() is None
    finally:
        gc.enable()


async def test_where_nothing_is_known_nothing_is_refused(held: Held) -> None:
    ceiling = MemoryCeiling(Limits(max_memory_mb=100), Metrics(), lambda: None)
    assert await refused(ceiling) == []


def test_the_ceiling_of_a_machine() -> None:
    """Between bounds, and never more than half of what there is at all."""
    limit = MemoryCeiling(Limits(), Metrics()).limit_bytes
    assert 0 < limit <= min(2048 * MB, (memory.total_bytes() or 0) // 2)
    assert memory.resident_bytes() == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)


@pytest.fixture
def door(held: Held, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    with serving(max_memory_mb=100) as served:
        monkeypatch.setattr(served.service.ceiling, "_resident", held)
        yield served


def press(door: Serving, held: Held, mb: int) -> None:
    """From now on it holds so much; nothing runs in this door that would measure by itself."""
    held.mb = mb
    door.service.ceiling._measure()


def said(door: Serving, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer to what may not be a whole request."""
    with door.connect() as sock:
        sock.sendall(raw.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n"))
        head, _, body = read_to_end(sock).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, body


@pytest.mark.parametrize(
    ("mb", "start", "status"),
    [
        (85, HEAD + "X-Edge-Priority: batch\r\n", 503),
        (85, "POST /v1/files HTTP/1.1\r\nHost: x\r\n", 503),
        (95, HEAD, 503),
        (95, HEAD + "X-Edge-Priority: normal\r\n", 503),
        (105, HEAD + "X-Edge-Priority: critical\r\n", 503),
    ],
)
def test_refused_before_it_is_read(
    door: Serving, held: Held, mb: int, start: str, status: int
) -> None:
    """Nothing of the body has been sent yet when the answer comes, with a time to come back."""
    press(door, held, mb)
    got, headers, body = said(door, (start + "Content-Length: 1000000\r\n\r\n").encode())
    assert (got, json.loads(body)["error"]["code"]) == (status, "overloaded")
    assert int(headers["retry-after"]) >= 1


def test_a_small_body_may_say_how_urgent_it_is(door: Serving, held: Held) -> None:
    """Where only the body knows; what it says then decides."""
    press(door, held, 95)
    assert said(door, request(edge={"priority": "critical"}))[0] == 200
    assert said(door, request())[0] == 503
    press(door, held, 82)
    assert said(door, request())[0] == 200
    assert said(door, request(edge={"priority": "batch"}))[0] == 503


def test_who_looks_is_always_answered(door: Serving, held: Held) -> None:
    """Health and metrics, and what an administrator does."""
    press(door, held, 120)
    for path in ("/health", "/metrics"):
        status, _, body = said(door, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert status == 200
    assert b"edge_memory_pressure 3.0" in body
    status, _, _ = said(door, b"POST /admin/v1/jobs/x/cancel HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status != 503


def test_a_body_is_given_up_while_it_comes(door: Serving, held: Held) -> None:
    """Also where its client is silent; one that has come is answered."""
    with door.connect() as slow, door.connect() as whole:
        whole.sendall(request(stream=True, max_tokens=100_000))
        read_until(whole, b'"word "')
        slow.sendall((HEAD + f"Content-Length: {8 * MB}\r\n\r\n").encode() + b" " * (2 * MB))
        poll(lambda: door.service.ceiling.facts.body_bytes > MB, "the body")
        loop = door.server.servers[0].get_loop()  # type: ignore[attr-defined]
        loop.call_soon_threadsafe(press, door, held, 95)
        assert read_until(slow, b"overloaded").startswith(b"HTTP/1.1 503 ")
        read_until(whole, b'"word "')
    door.wait_free()


class Flood:
    """Clients that each send a part of a large body, as fast as it is taken."""

    def __init__(self, port: int, count: int) -> None:
        start = HEAD.encode() + b"Content-Length: %d\r\n\r\n" % (8 * MB) + b" " * 6 * MB
        self._left: dict[socket.socket, memoryview] = {}
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
            sock.setblocking(False)
            self._left[sock] = memoryview(start)

    def go_on(self) -> None:
        for sock, rest in [*self._left.items()]:
            try:
                self._left[sock] = rest[sock.send(rest) :]
            except BlockingIOError:
                pass
            except OSError:  # refused
                sock.close()
                del self._left[sock]

    @property
    def left(self) -> int:
        """Clients that still hold the daemon's memory, or wait for it."""
        return len(self._left)

    def close(self) -> None:
        for sock in self._left:
            sock.close()


def urgent(daemon: DaemonProcess) -> int:
    body = {"prompt": "x"}
    return daemon.post("/v1/completions", body, X_Edge_Priority="critical").status_code


def test_floods_of_large_bodies_stay_under_the_ceiling(start_quick: Start) -> None:
    """A real daemon, and bodies of twice its ceiling; urgent requests are served meanwhile, and
    all are when the flood is over."""
    daemon = start_quick(limits__max_memory_mb=320).wait_ready()
    told = daemon.get("/admin/v1/status").json()["limits"]
    assert told["memory"]["limit_bytes"] == 320 * MB
    # This one's connection, and perhaps one that has not quite ended.
    assert (told["memory"]["pressure"], told["addresses"]) == (0, 1)
    assert told["connections"] >= 1
    process, most = psutil.Process(daemon.pid), 0
    flood = Flood(daemon.port, 100)

    def given_up() -> bool:
        nonlocal most
        for _ in range(20):
            flood.go_on()
            most = max(most, process.memory_info().rss)
        return daemon.metrics()["edge_http_bodies_given_up_total"] > 0

    poll(given_up, "bodies given up")
    # What was given up goes back within moments; a caller that was refused in between comes again.
    poll(lambda: urgent(daemon) == 200, "an urgent answer")
    assert flood.left
    flood.close()
    # What is given up is freed a moment later, while the next bodies come.
    assert most < 1.1 * 320 * MB
    body = {"prompt": "x", "edge": {"priority": "batch"}}
    poll(lambda: daemon.post("/v1/completions", body).status_code == 200, "the flood is over")
