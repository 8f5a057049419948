"""A real mosquitto in a child process, on a free port of loopback, that a test may restart."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from daemon_process import PATIENCE, poll
from ports import free_port


class Mosquitto:
    """One broker; a stop and a `start` later it goes on with what it had."""

    def __init__(self, folder: Path, *lines: str, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self._config = folder / "mosquitto.conf"
        self._log_file = folder / "mosquitto.log"
        anonymous = [] if any("allow_anonymous" in line for line in lines) else ["true"]
        self._config.write_text(
            "\n".join(
                [
                    f"listener {self.port} 127.0.0.1",
                    *(f"allow_anonymous {value}" for value in anonymous),
                    "persistence true",
                    f"persistence_location {folder}/",
                    "max_queued_messages 100000",
                    "log_type error",
                    "log_type warning",
                    *(["user root"] if os.geteuid() == 0 else []),
                    *lines,
                ]
            )
            + "\n"
        )
        self._program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
        self.start()

    def start(self) -> None:
        assert self._program is not None, "mosquitto is not installed: ./scripts/test does it"
        with open(self._log_file, "ab") as log:
            self.process = subprocess.Popen(
                [self._program, "-c", str(self._config)], stdout=log, stderr=log
            )
        poll(self._answers, "a broker that listens")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._log_file.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """It writes down what it has, and ends."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
