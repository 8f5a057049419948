"""Starts that cannot succeed, and what is left of them."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import psutil
from daemon_process import PATIENCE, DaemonProcess, Start, poll


def worker_of(daemon: DaemonProcess) -> psutil.Process | None:
    """Its worker, which may not have loaded anything yet."""
    for child in psutil.Process(daemon.pid).children():
        if "edge.runtime.worker" in child.cmdline():
            return child
    return None


def check_failed(daemon: DaemonProcess) -> None:
    """Exit code 1, one error with one hint, no traceback."""
    assert daemon.process.wait(PATIENCE) == 1
    lines = daemon.log.splitlines()
    assert len([line for line in lines if line.startswith("Error: ")]) == 1
    assert len([line for line in lines if line.startswith("Try: ")]) == 1
    assert "Traceback" not in daemon.log


def test_a_model_with_damaged_weights(
    start: Start, default_model_path: Path, tmp_path: Path
) -> None:
    """The header is sound and the numbers are none: found out before anybody is served."""
    damaged = tmp_path / "damaged.gguf"
    shutil.copy(default_model_path, damaged)
    size = damaged.stat().st_size
    with open(damaged, "r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size - size // 2))
    daemon = start(model_file=damaged)
    check_failed(daemon)
    assert "damaged" in daemon.log


def test_a_worker_that_dies_while_it_loads(start: Start) -> None:
    """As when the memory does not suffice: the daemon ends, and says how the worker ended."""
    daemon = start()
    worker = poll(lambda: worker_of(daemon), "a worker")
    assert worker is not None
    worker.kill()
    check_failed(daemon)
    assert "SIGKILL" in daemon.log


def test_stopping_while_it_loads(start: Start) -> None:
    """SIGTERM before anything is ready: exit code 0, and no worker is left."""
    daemon = start()
    worker = poll(lambda: worker_of(daemon), "a worker")
    assert worker is not None
    assert daemon.stop() == 0
    assert not worker.is_running()


def test_it_answers_while_it_loads(start: Start) -> None:
    """Alive, not ready, and requests are told when to come back."""
    daemon = start()
    worker = poll(lambda: worker_of(daemon), "a worker")
    assert worker is not None
    worker.suspend()
    daemon.wait_alive()
    ready = daemon.get("/health/ready")
    refused = daemon.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
    worker.resume()
    assert ready.status_code == refused.status_code == 503
    assert int(ready.headers["retry-after"]) >= 1
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "loading"
    daemon.wait_ready()
    assert daemon.stop() == 0


def test_ctrl_c(start: Start) -> None:
    """SIGINT stops it like SIGTERM."""
    daemon = start().wait_ready()
    os.kill(daemon.pid, signal.SIGINT)
    assert daemon.process.wait(PATIENCE) == 0
