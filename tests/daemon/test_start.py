"""Starts that cannot succeed, and what is left of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
from daemon_process import MODEL, PATIENCE, DaemonProcess, Start, poll


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
    """Alive, not ready, and requests are told when to come back, or kept if they allow it."""
    daemon = start()
    worker = poll(lambda: worker_of(daemon), "a worker")
    assert worker is not None
    worker.suspend()
    daemon.wait_alive()
    ready = daemon.get("/health/ready")
    refused = daemon.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
    kept = daemon.post(
        "/v1/completions", {"prompt": "x", "max_tokens": 4, "edge": {"allow_queue": True}}
    )
    worker.resume()
    assert ready.status_code == refused.status_code == 503
    assert int(ready.headers["retry-after"]) >= 1
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "loading"
    assert kept.status_code == 202
    daemon.wait_ready()
    location = kept.headers["location"]
    poll(lambda: daemon.get(location).json()["output"], "the answer")
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engine__context": 65536}, "was trained for 8192"),
        ({"engine__backend": "cuda"}, "built without it"),
        ({"models__default": "no-such-model"}, "no-such-model"),
    ],
)
def test_a_model_that_cannot_be_served(start: Start, settings: dict[str, Any], words: str) -> None:
    """What the configuration asks for and cannot be had is named."""
    daemon = start(**settings)
    check_failed(daemon)
    assert words in daemon.log


def test_a_foreign_file(start: Start, tmp_path: Path) -> None:
    """A file that is no GGUF is refused by name, before llama.cpp sees it."""
    page = tmp_path / "page.gguf"
    page.write_text("<html>not found</html>")
    daemon = start(model_file=page)
    check_failed(daemon)
    assert f"{MODEL}.gguf" in daemon.log


def test_a_taken_port_is_known_before_anything_is_loaded(start: Start, tmp_path: Path) -> None:
    """A second daemon on the same port ends at once, with exit code 2."""
    first = start().wait_ready()
    second = start(http__port=first.port, folder=tmp_path / "second")
    assert second.process.wait(PATIENCE) == 2
    assert "cannot listen" in second.log


def test_the_worker_goes_before_the_daemon_when_memory_ends(start: Start) -> None:
    """The kernel is told to take the worker first."""
    daemon = start().wait_ready()
    score = Path(f"/proc/{daemon.worker_pid}/oom_score_adj").read_text()
    assert int(score) > int(Path(f"/proc/{daemon.pid}/oom_score_adj").read_text())
