"""How it ends: what runs is finished, and nothing stays behind."""

from __future__ import annotations

import os
import signal

import psutil
from daemon_process import PATIENCE, Start, poll
from streams import body_for, check_complete, streaming


def test_stopping_lets_streams_finish(start: Start) -> None:
    """SIGTERM: a running answer is completed, a new request is refused with 503, exit code 0."""
    daemon = start().wait_ready()
    body = body_for("The sea is", max_tokens=60)
    with streaming(daemon, [body]) as (running,):
        poll(lambda: running.progressed(3), "three tokens")
        daemon.process.send_signal(signal.SIGTERM)
        poll(lambda: "stopping" in daemon.log, "stopping")
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


def test_no_worker_outlives_the_daemon(start_quick: Start) -> None:
    """kill -9 of the daemon: its worker ends by itself."""
    daemon = start_quick().wait_ready()
    worker = psutil.Process(daemon.worker_pid)
    daemon.process.kill()
    daemon.process.wait()
    worker.wait(PATIENCE)
