"""The other end of a network link that can be cut: a network namespace of its own.

A cut link swallows packets, as a pulled plug or a dead router does; a server that is stopped
answers with a refusal, which is much easier to notice. Needs root.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from types import TracebackType

_count = itertools.count()


class FarSide:
    """Processes started with `command` before theirs live there, at `address`."""

    def __init__(self) -> None:
        # Never one twice: the kernel is not done with a link when its namespace has gone.
        number = (os.getpid() * 16 + next(_count)) % 16384
        self.name = f"far-{number}"
        self._near, self._far = f"near{number}", f"far{number}"
        # 198.18.0.0/15 is for tests of network devices (RFC 2544).
        first = 4 * number
        network = f"198.18.{first // 256}"
        self.address = f"{network}.{first % 256 + 2}"
        self._near_address = f"{network}.{first % 256 + 1}"

    @property
    def command(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    def __enter__(self) -> FarSide:
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self._near, "type", "veth", "peer", self._far, "netns", self.name)
            _ip("address", "add", f"{self._near_address}/30", "dev", self._near)
            _ip("link", "set", self._near, "up")
            far = ("-n", self.name)
            _ip(*far, "address", "add", f"{self.address}/30", "dev", self._far)
            _ip(*far, "link", "set", "lo", "up")
            self.connect()
        except BaseException:
            _ip("netns", "delete", self.name)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _ip("netns", "delete", self.name)

    def connect(self) -> None:
        _ip("-n", self.name, "link", "set", self._far, "up")

    def narrow(self, rate: str) -> None:
        """Let no more than this through to us, such as `64kbit`: a radio link, a shared line."""
        shape = ("tbf", "rate", rate, "burst", "3000", "latency", "2000ms")
        command = ["tc", "-n", self.name, "qdisc", "replace", "dev", self._far, "root", *shape]
        subprocess.run(command, check=True, capture_output=True, text=True)

    def cut(self) -> None:
        """Nothing gets through, and nobody is told."""
        _ip("-n", self.name, "link", "set", self._far, "down")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
