"""A daemon of our own for the benchmark: a free port, a state directory that goes away."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from edge.config.place import state_dir
from edge.config.tree import Config
from edge.modelstore.catalog import load_catalog
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore


class Appliance:
    """A running `edge serve`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, state: Path) -> None:
        self.process = process
        self.port = port
        self.state = state

    def memory_mb(self) -> tuple[int, int]:
        """Resident memory of the daemon and of its workers, in MB."""
        daemon = psutil.Process(self.process.pid)
        workers = sum(child.memory_info().rss for child in daemon.children())
        return daemon.memory_info().rss // 2**20, workers // 2**20


def default_model() -> Path:
    """The file of the default model, fetched where it is missing."""
    name = Config().models.default
    store = ModelStore(state_dir() / "models")
    present = store.find(name)
    return present.path if present else pull(store, load_catalog()[name]).path


@contextlib.contextmanager
def serving(model: Path, **settings: object) -> Iterator[Appliance]:
    """`settings` are configuration keys with `__` for the dot, such as `engine__slots=32`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as state:
        models = Path(state) / "models"
        models.mkdir()
        (models / model.name).symlink_to(model)
        environ = {
            **os.environ,
            "EDGE_STATE_DIR": state,
            "EDGE_HTTP__PORT": str(port),
            "EDGE_MODELS__DEFAULT": model.stem,
            "EDGE_MQTT__ENABLED": "false",
            "EDGE_CACHE__ENABLED": "false",
            **{f"EDGE_{key.upper()}": str(value) for key, value in settings.items()},
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "edge", "serve"], env=environ, stderr=subprocess.DEVNULL
        )
        try:
            _wait_until_ready(process, port)
            yield Appliance(process, port, Path(state))
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    while process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5)
            return
        time.sleep(0.2)
    raise RuntimeError("edge serve ended before it was ready")
