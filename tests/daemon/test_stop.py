"""How it ends: what runs is finished, and nothing stays behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
from daemon_process import PATIENCE, SLOWER, Start, poll
from streams import body_for, check_complete, streaming


def test_stopping_lets_streams_finish(start: Start) -> None:
    """SIGTERM: a running answer is completed, a new request is refused with 503, exit code 0."""
    daemon = start().wait_ready()
    # The daemon waits as long as ever for it, and the model may be emulated.
    body = body_for("The sea is", max_tokens=max(15, int(60 / SLOWER)))
    with streaming(daemon, [body]) as (running,):
        poll(lambda: running.progressed(3), "three tokens")
        daemon.process.send_signal(signal.SIGTERM)
        poll(lambda: "stopping" in daemon.log, "stopping")
        daemon.process.send_signal(signal.SIGTERM)  # which changes nothing
        refused = daemon.post("/v1/completions", body_for("The sky is"))
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    check_complete(running, body)
    assert daemon.process.wait(PATIENCE) == 0


def test_ctrl_c(start_quick: Start) -> None:
    """SIGINT stops it like SIGTERM."""
    daemon = start_quick().wait_ready()
    os.kill(daemon.pid, signal.SIGINT)
    assert daemon.process.wait(PATIENCE) == 0


def test_ctrl_c_again(start: Start) -> None:
    """Whoever sits before it need not wait for what still runs; one that comes twice is one."""
    daemon = start(engine__context=2048).wait_ready()
    with streaming(daemon, [body_for("The sea is", max_tokens=2000)]) as (running,):
        poll(lambda: running.progressed(3), "three tokens")
        os.kill(daemon.pid, signal.SIGINT)
        os.kill(daemon.pid, signal.SIGINT)
        poll(lambda: "1 live requests may finish" in daemon.log, "stopping")
        seen = len(running.first.tokens)
        poll(lambda: running.progressed(seen + 1), "goes on")

        def again() -> bool:
            os.kill(daemon.pid, signal.SIGINT)
            return "1 live requests are cut" in daemon.log

        poll(again, "cut")
    assert not running.done
    assert running.error is not None
    assert "Traceback" not in daemon.log
    assert daemon.process.wait(PATIENCE) == 0


def test_its_terminal_is_gone(start_quick: Start, tmp_path: Path) -> None:
    """SIGHUP is a reload, and no reason to go on without the window that it was started in."""
    terminal, its_end = os.openpty()
    daemon = start_quick(log=its_end)
    os.close(its_end)
    poll(lambda: b"ready" in os.read(terminal, 65536), "ready")
    os.kill(daemon.pid, signal.SIGHUP)
    poll(lambda: b"read anew" in os.read(terminal, 65536), "a reload")
    os.close(terminal)
    os.kill(daemon.pid, signal.SIGHUP)
    assert daemon.process.wait(PATIENCE) == 0


def test_no_worker_outlives_the_daemon(start_quick: Start) -> None:
    """kill -9 of the daemon: its worker ends by itself."""
    daemon = start_quick().wait_ready()
    worker = psutil.Process(daemon.worker_pid)
    daemon.process.kill()
    daemon.process.wait()
    worker.wait(PATIENCE)
