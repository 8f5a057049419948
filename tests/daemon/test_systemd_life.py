"""What systemd hears of a daemon, and the sockets that it hands over."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from daemon_process import PATIENCE, Start, poll
from notify_socket import NotifySocket
from streams import body_for, check_complete, streaming


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[NotifySocket]:
    listening = NotifySocket(tmp_path / "notify")
    yield listening
    listening.close()


def test_a_life(start_quick: Start, systemd: NotifySocket) -> None:
    """More time while it loads, READY when it answers, pings while it serves, STOPPING."""
    daemon = start_quick(environ={**systemd.environ, "WATCHDOG_USEC": "600000"})
    systemd.wait("READY=1")
    before = systemd.lines()
    before = before[: before.index("READY=1")]
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in before)
    assert any(line.startswith("STATUS=loading smollm2") for line in before)
    assert daemon.get("/health/ready").status_code == 200
    poll(lambda: "WATCHDOG=1" in systemd.lines()[len(before) :], "a ping")
    assert systemd.status().startswith("serving smollm2")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(PATIENCE) == 0
    systemd.lines()
    stopping = next(message for message in systemd.messages if "STOPPING=1" in message)
    assert "STATUS=draining 0 requests" in stopping


def test_a_restart_refuses_nobody(start_quick: Start, systemd: NotifySocket) -> None:
    """Who comes between two daemons is answered by the second, on systemd's socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = "http://{}:{}/v1/models".format(*listener.getsockname())
        first = start_quick(sockets=[listener], environ=systemd.environ, engine__context=4096)
        systemd.wait("READY=1")
        body = body_for("The sea is", max_tokens=2000)
        answers: list[int] = []
        with streaming(first, [body]) as (running,):
            poll(lambda: running.progressed(3), "three tokens")
            first.process.send_signal(signal.SIGTERM)
            systemd.wait("STOPPING=1")
            asking = threading.Thread(
                target=lambda: answers.append(httpx.get(url, timeout=PATIENCE).status_code)
            )
            asking.start()
        assert first.process.wait(PATIENCE) == 0
        assert answers == []
        check_complete(running, body)
        start_quick(sockets=[listener]).wait_ready()
        asking.join(PATIENCE)
    assert answers == [200]


def test_the_address_is_the_sockets(start_quick: Start) -> None:
    """It decides whether keys are needed, whatever http.host says."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        daemon = start_quick(sockets=[listener]).wait_alive()
        assert daemon.port == listener.getsockname()[1]
        reached = f"http://127.0.0.1:{daemon.port}/v1/models"
        assert httpx.get(reached, timeout=PATIENCE).status_code == 401


def test_a_socket_of_another_kind_is_refused(start_quick: Start, tmp_path: Path) -> None:
    """With exit code 2, which systemd does not try again, and a hint."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "unix"))
        listener.listen()
        daemon = start_quick(sockets=[listener])
        assert daemon.process.wait(PATIENCE) == 2
    assert "Error: systemd handed over a socket of the family AF_UNIX" in daemon.log
    assert "Try: edge.socket needs ListenStream=" in daemon.log


@pytest.mark.parametrize("when", ["starting", "stopping"])
def test_a_reload_at_the_wrong_time(start_quick: Start, systemd: NotifySocket, when: str) -> None:
    """While it starts it is done afterwards; while it stops it is not, and ends nothing."""
    daemon = start_quick(environ=systemd.environ, engine__context=4096)
    if when == "starting":
        systemd.wait("STATUS=")
        daemon.process.send_signal(signal.SIGHUP)
        systemd.wait("RELOADING=1")
        lines = systemd.lines()
        assert lines.index("READY=1") < lines.index("RELOADING=1")
        assert daemon.stop() == 0
        return
    systemd.wait("READY=1")
    with streaming(daemon, [body := body_for("The sea is", max_tokens=2000)]) as (running,):
        poll(lambda: running.progressed(3), "three tokens")
        daemon.process.send_signal(signal.SIGTERM)
        systemd.wait("STOPPING=1")
        daemon.process.send_signal(signal.SIGHUP)
    check_complete(running, body)
    assert daemon.process.wait(PATIENCE) == 0
    assert "RELOADING=1" not in systemd.lines()
