"""Starts that cannot succeed, and what is left of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from daemon_process import MODEL, PATIENCE, DaemonProcess, Start, poll

from edge.disk import sha256_of


@pytest.fixture
def start(start_quick: Start) -> Start:
    """A start is the same whatever the model says."""
    return start_quick


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


def test_what_is_served_cannot_be_removed(
    start: Start, tmp_path: Path, quick_model_path: Path
) -> None:
    """After the daemon's end it can."""
    # A file of its own: other tests' daemons hold the one that all of them are linked to.
    own = Path(shutil.copy(quick_model_path, tmp_path / f"{MODEL}.gguf"))
    daemon = start(model_file=own).wait_alive()
    removed = remove_model(daemon, MODEL)
    assert removed.returncode == 1
    assert "in use by a running daemon" in removed.stderr
    assert daemon.post("/v1/completions", {"prompt": "A", "max_tokens": 1}).status_code != 404
    daemon.end()
    assert remove_model(daemon, MODEL).returncode == 0
    assert own.exists()  # it was a link


def remove_model(daemon: DaemonProcess, name: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EDGE_STATE_DIR": str(daemon.folder / "state")}
    command = [sys.executable, "-m", "edge", "models", "rm", name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_model_of_an_earlier_release(
    start: Start, tmp_path: Path, quick_model_path: Path
) -> None:
    """It is taken over when the daemon starts, and answers."""
    models = tmp_path / "old" / "state" / "models"
    models.mkdir(parents=True)
    shutil.copy(quick_model_path, models / "old.gguf")
    manifest = {
        "source": "pypi:x==1/y",
        "sha256": sha256_of(quick_model_path),
        "size": quick_model_path.stat().st_size,
        "licence": "Apache-2.0",
        "pulled_at": "2024-05-01T00:00:00Z",
    }
    (models / "old.json").write_text(json.dumps(manifest))
    settings = {"models__default": "old", "folder": tmp_path / "old"}
    for _ in range(2):
        daemon = start(**settings).wait_ready()
        assert not (models / "old.gguf").exists()
        answer = daemon.post("/v1/completions", {"model": "old", "prompt": "A", "max_tokens": 1})
        assert answer.status_code == 200
        daemon.end()
