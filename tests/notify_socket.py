"""systemd's end of sd_notify(3): a datagram socket that a daemon under test reports to."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from daemon_process import poll


class NotifySocket:
    """messages: all that has come, each as its lines."""

    def __init__(self, path: Path) -> None:
        self.messages: list[list[str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.environ = {"NOTIFY_SOCKET": str(path)}

    def lines(self) -> list[str]:
        """In the order in which they came."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.messages.append(self._socket.recv(1 << 16).decode().splitlines())
        return [line for message in self.messages for line in message]

    def forget(self) -> None:
        self.lines()
        self.messages.clear()

    def wait(self, beginning: str) -> str:
        """The first line that begins so."""
        return poll(
            lambda: next((line for line in self.lines() if line.startswith(beginning)), ""),
            beginning,
        )

    def status(self) -> str:
        """The last one that was told."""
        found = [line for line in self.lines() if line.startswith("STATUS=")]
        return found[-1].removeprefix("STATUS=") if found else ""

    def close(self) -> None:
        self._socket.close()
