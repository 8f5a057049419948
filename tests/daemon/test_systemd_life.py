"""What systemd hears of a daemon, and the sockets that it hands over."""

from __future__ import annotations

import os
import re
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
    """More time while it loads, READY when it answers, pings while it serves, STOPPING. A reload
    that is asked for too early comes later."""
    daemon = start_quick(environ={**systemd.environ, "WATCHDOG_USEC": "600000"})
    systemd.wait("STATUS=")
    daemon.process.send_signal(signal.SIGHUP)
    systemd.wait("READY=1")
    before = systemd.lines()
    before = before[: before.index("READY=1")]
    assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in before)
    assert any(line.startswith("STATUS=loading smollm2") for line in before)
    assert daemon.get("/health/ready").status_code == 200
    poll(lambda: "WATCHDOG=1" in systemd.lines()[len(before) :], "a ping")
    systemd.wait("RELOADING=1")
    assert "RELOADING=1" not in before
    assert systemd.status().startswith("serving smollm2")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(PATIENCE) == 0
    systemd.lines()
    stopping = next(message for message in systemd.messages if "STOPPING=1" in message)
    assert "STATUS=draining 0 requests" in stopping


def test_the_journal(start_quick: Start, tmp_path: Path) -> None:
    """Every line has its priority, that of a start that fails too: with exit code 2, which systemd
    does not try again."""
    folder = tmp_path / "daemon"
    folder.mkdir()
    (folder / "log").touch()
    stream = (folder / "log").stat()
    journal = {"JOURNAL_STREAM": f"{stream.st_dev}:{stream.st_ino}"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "unix"))
        listener.listen()
        daemon = start_quick(environ=journal, sockets=[listener])
        assert daemon.process.wait(PATIENCE) == 2
    error, hint = daemon.log.splitlines()
    assert error == "<3>Error: systemd handed over a socket of the family AF_UNIX"
    assert hint.startswith("<3>Try: edge.socket needs ListenStream=")
    daemon = start_quick(environ=journal).wait_ready()
    os.kill(daemon.worker_pid, signal.SIGKILL)
    poll(lambda: daemon.status()["restarts"] == 1, "another worker")
    assert daemon.stop() == 0
    assert all(re.match(r"<[346]>edge[.\w]*: \S", line) for line in daemon.log.splitlines())
    assert re.search(r"^<3>edge.runtime.runner: smollm2\S*: the worker died", daemon.log, re.M)


def test_a_restart_refuses_nobody(start_quick: Start, systemd: NotifySocket) -> None:
    """Who comes between two daemons is answered by the second, on systemd's socket. A reload while
    the first one stops ends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = "http://{}:{}/v1/models".format(*listener.getsockname())
        first = start_quick(sockets=[listener], environ=systemd.environ, engine__context=4096)
        systemd.wait("READY=1")
        body = body_for("The sea is", max_tokens=800)
        answers: list[int] = []
        with streaming(first, [body]) as (running,):
            poll(lambda: running.progressed(3), "three tokens")
            first.process.send_signal(signal.SIGTERM)
            systemd.wait("STOPPING=1")
            first.process.send_signal(signal.SIGHUP)
            asking = threading.Thread(
                target=lambda: answers.append(httpx.get(url, timeout=PATIENCE).status_code)
            )
            asking.start()
        assert first.process.wait(PATIENCE) == 0
        assert answers == []
        assert "RELOADING=1" not in systemd.lines()
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
