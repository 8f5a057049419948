"""The appliance as users run it: `python -m edge serve` in a child process, with a real model.

Shared by the tests of the HTTP door and of the daemon. A test that looks at the books does so
through `/admin/v1/status`, as an operator would.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from thread_transport import ThreadTransport

MODEL = "smollm2-135m-instruct"
SLOWER = float(os.environ.get("EDGE_TEST_PATIENCE", 1))
"""How many times longer everything may take than on a machine that is busy with other things: more
than 1 where the processor is emulated."""

PATIENCE = 90.0 * SLOWER
"""Seconds: far more than anything takes, because the machine may be busy with other things."""

LEAST_PAUSE, MOST_PAUSE = 0.02 * SLOWER, 0.1 * SLOWER
"""Seconds between two questions."""

HAND_OVER = """
import fcntl, os, sys
fds = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 100) for one in sys.argv[1:] if one.isdecimal()]
for place, fd in enumerate(fds):
    os.dup2(fd, 3 + place)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))
os.execv(sys.argv[1 + len(fds)], sys.argv[1 + len(fds):])
"""
"""Becomes the daemon with sockets from descriptor 3 on, as systemd does it."""

fd_of = socket.socket.fileno

T = TypeVar("T")


def poll(probe: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """The first true result of `probe`, asked again and again for a bounded time.

    A probe mostly asks a daemon, which costs both processes some milliseconds that they could do
    with for what is waited for: so the longer it takes, the less often it is asked.
    """
    began = time.monotonic()
    while not (result := probe()):
        waited = time.monotonic() - began
        assert waited < seconds, f"{what}: not within {seconds:.0f} s"
        time.sleep(min(MOST_PAUSE, max(LEAST_PAUSE, waited / 10)))
    return result


class DaemonProcess:
    """One `edge serve`; its log is a file beside its state.

    A second one in the same folder goes on with what the first one kept.
    """

    def __init__(
        self,
        folder: Path,
        model_file: Path,
        preload: tuple[str, ...] = (),
        yaml: str = "",
        environ: Mapping[str, str] | None = None,
        sockets: Sequence[socket.socket] = (),
        log: int | None = None,
        **settings: Any,
    ) -> None:
        """`settings` are configuration keys: `engine__slots=4` becomes EDGE_ENGINE__SLOTS=4; they
        win over `yaml`, which is the file. `environ` is what else it finds, `sockets` what it is
        handed over as by systemd, `log` a descriptor to write its log to in place of a file."""
        models = folder / "state" / "models"
        models.mkdir(parents=True, exist_ok=True)
        for name in (MODEL, *preload):
            if not (models / f"{name}.gguf").is_symlink():
                (models / f"{name}.gguf").symlink_to(model_file)
        (folder / "edge.yaml").write_text(yaml)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGE_")}
        environment["EDGE_STATE_DIR"] = str(folder / "state")
        environment["EDGE_CONFIG"] = str(folder / "edge.yaml")
        # One thread: two that wait for each other crawl when something else wants a core.
        wanted = {"http__port": 0, "engine__slots": 4, "engine__context": 512}
        # Without the cache, or a question that was asked before would not reach the engine.
        wanted |= {"engine__threads": 1, "mqtt__enabled": "false", "cache__enabled": "false"}
        wanted |= settings
        if preload:
            wanted["models__preload"] = f"[{', '.join(preload)}]"
        self.default = str(wanted.get("models__default", MODEL))
        self.slots, self.context = wanted["engine__slots"], wanted["engine__context"]
        environment |= {f"EDGE_{key.upper()}": str(value) for key, value in wanted.items()}
        environment |= environ or {}
        command = [sys.executable, "-m", "edge", "serve"]
        if sockets:
            command = [sys.executable, "-c", HAND_OVER, *map(str, map(fd_of, sockets)), *command]
        self.folder = folder
        self._log_file = folder / "log"
        self._shown = 0
        # One client, because making one costs more than a request.
        self.http = httpx.Client(transport=ThreadTransport(), timeout=PATIENCE)
        with open(self._log_file, "wb") as file:
            self.process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=[fd_of(one) for one in sockets],
                stdin=subprocess.DEVNULL,
                stdout=log or file,
                stderr=log or file,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    def new_log(self) -> str:
        """What was logged since this was last asked."""
        text = self.log[self._shown :]
        self._shown += len(text)
        return text

    @cached_property
    def url(self) -> str:
        """Where it listens; waits until it does."""

        def address() -> str | None:
            assert self.process.poll() is None, self.log
            found = re.search(r"listens on (https?://\S+)", self.log)
            return found[1] if found else None

        return poll(address, "listening")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str) -> httpx.Response:
        return self.http.get(self.url + path)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(self.url + path, json=body, headers=named)

    def wait_alive(self) -> DaemonProcess:
        """Wait until it answers, ready or not."""
        return self._wait_ok("/health")

    def wait_ready(self) -> DaemonProcess:
        return self._wait_ok("/health/ready")

    def _wait_ok(self, path: str) -> DaemonProcess:
        def ok() -> bool:
            assert self.process.poll() is None, self.log
            try:
                return self.get(path).status_code == 200
            except httpx.TransportError:  # it binds first and accepts a moment later
                return False

        poll(ok, path)
        return self

    def status(self, name: str | None = None) -> dict[str, Any]:
        """Of a model, the default one if none is named."""
        name = name or self.default
        models = self.get("/admin/v1/status").json()["models"]
        found: dict[str, Any] = next(model for model in models if model["name"] == name)
        return found

    @property
    def worker_pid(self) -> int:
        """The worker's process, once there is one that is ready."""
        return int(
            poll(lambda: (s := self.status())["state"] == "ready" and s["pid"], "a ready worker")
        )

    def wait_idle(self) -> dict[str, Any]:
        """Wait until nothing runs or waits; the books have to balance meanwhile."""

        def idle() -> dict[str, Any] | None:
            stats = self.status()["stats"]
            if stats is None:
                return None
            assert stats["free"] + stats["running"] + stats["resident"] == stats["slots"]
            metrics = self.metrics()
            waiting = metrics["edge_num_requests_waiting"]
            still = stats["running"] == stats["waiting"] == waiting == 0
            found: dict[str, Any] = stats
            return found if still else None

        return poll(idle, "idle")

    def wait_running(self, count: int, waiting: int = 0) -> None:
        """Wait until that many sequences have a slot, and that many wait for one."""

        seen: set[tuple[int | None, int | None]] = set()

        def so_many() -> bool:
            stats = self.status()["stats"] or {}
            now = (stats.get("running"), stats.get("waiting"))
            seen.add(now)
            return now == (count, waiting)

        try:
            poll(so_many, "so many")
        except AssertionError:
            raise AssertionError(f"not {(count, waiting)} running and waiting: {seen}") from None

    def metrics(self) -> dict[str, float]:
        """Samples by their name with labels, as they stand in the exposition."""
        lines = [line for line in self.get("/metrics").text.splitlines() if line[0] != "#"]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def resources(self) -> tuple[int, int, int]:
        """(descriptors of the daemon, its memory in bytes, memory of the worker in bytes)."""
        daemon, worker = psutil.Process(self.pid), psutil.Process(self.worker_pid)
        return daemon.num_fds(), daemon.memory_info().rss, worker.memory_info().rss

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        """For fixtures: whatever state it is in, it is gone afterwards."""
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)


Start = Callable[..., DaemonProcess]
"""Starts a daemon with its own settings."""


@contextmanager
def running(folder: Path, model_file: Path, **settings: Any) -> Iterator[DaemonProcess]:
    """A daemon that is ready, and that has to stop as it should."""
    daemon = DaemonProcess(folder, model_file, **settings)
    try:
        yield daemon.wait_ready()
        assert daemon.stop() == 0
    finally:
        daemon.end()
