"""Hundreds of bad clients against the real daemon: nothing stays behind, nobody else notices."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
from daemon_process import PATIENCE, DaemonProcess, poll
from serving import read_until, request

RESET = b"\1\0\0\0\0\0\0\0"
ENDLESS = {"ignore_eos": True, "max_tokens": 400}


def connect(daemon: DaemonProcess) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", daemon.port), PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return sock


def misbehave(daemon: DaemonProcess, number: int) -> None:
    """One bad client, of a kind by its number; it leaves with a reset."""
    kinds: list[bytes] = [
        b"",
        b"POST /v1/chat/comp",
        b"\x16\x03\x01 nonsense\r\n\r\n",
        request(**ENDLESS)[:-5],
        request(**ENDLESS),
        request(**ENDLESS, stream=True),
        request(**ENDLESS, n=3, stream=True),
        request("/v1/nothing"),
        request("/v1/chat/completions"),
        request(**ENDLESS) * 3,
    ]
    kind = kinds[number % len(kinds)]
    with connect(daemon) as sock:
        sock.sendall(kind)
        if b'"stream": true' in kind:
            read_until(sock, b"data: ")


def all_misbehave(daemon: DaemonProcess, count: int) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: misbehave(daemon, number), range(count)))
    daemon.wait_idle()


def test_nothing_stays_behind(daemon: DaemonProcess) -> None:
    """Descriptors and memory of daemon and worker are what they were, after 200 more of them."""
    all_misbehave(daemon, 60)
    files, memory, worker_memory = daemon.resources()
    all_misbehave(daemon, 200)
    poll(lambda: daemon.resources()[0] <= files, "descriptors given back")
    _, memory_after, worker_memory_after = daemon.resources()
    assert memory_after - memory < 16 * 2**20
    assert worker_memory_after - worker_memory < 32 * 2**20
    assert daemon.status()["restarts"] == 0


def test_a_good_client_does_not_notice(
    daemon: DaemonProcess, token_id: Callable[[str], int]
) -> None:
    """Its stream is complete and right to the last token."""
    # Several words, drawn: one would be drafted, and over before the others have come.
    words = [" river", " sea", " lake", " rain"]
    body = {"prompt": "x", "max_tokens": 200, "stream": True, "temperature": 1}
    body["logit_bias"] = {str(token_id(word)): 100 for word in words}

    def stream() -> str:
        url = daemon.url + "/v1/completions"
        with httpx.stream("POST", url, json=body, timeout=PATIENCE) as answer:
            *chunks, done = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
        assert done == "[DONE]"
        return "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)

    with ThreadPoolExecutor(1) as pool:
        good = pool.submit(stream)
        daemon.wait_running(1)
        all_misbehave(daemon, 40)
        said = good.result().split(" ")[1:]
        assert len(said) == 200
        assert {f" {word}" for word in said} <= set(words)


def test_a_slot_is_free_as_soon_as_its_client_left(daemon: DaemonProcess) -> None:
    """Not streamed, and streamed: all slots are taken by clients that leave, and free again."""
    before = daemon.wait_idle()["steps"]
    for stream in (False, True):
        socks = [connect(daemon) for _ in range(8)]
        for sock in socks:
            sock.sendall(request(**ENDLESS, stream=stream))
        daemon.wait_running(8)
        for sock in socks:
            sock.close()
        daemon.wait_idle()
    # Far fewer steps than the 400 tokens that each of them had asked for.
    assert daemon.wait_idle()["steps"] - before < 400
