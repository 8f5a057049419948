"""The commands as a person meets them: on a terminal, with keys that send signals."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time


class Terminal:
    """`python -m edge …` on a pseudo-terminal of its own."""

    def __init__(self, *args: str, env: dict[str, str]) -> None:
        self.screen = ""
        self._master, slave = pty.openpty()
        # Makes the terminal the controlling one, without which Ctrl-C is only a character.
        become = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        command = become + "os.execv(sys.executable, [sys.executable, '-m', 'edge', *sys.argv[1:]])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, **env, "TERM": "xterm", "COLUMNS": "200"},
            start_new_session=True,
        )
        os.close(slave)

    def expect(self, wanted: str) -> None:
        """Wait until the text is on the screen; what was there before counts no more after."""
        deadline = time.monotonic() + 20
        while wanted not in self.screen:
            ready, _, _ = select.select([self._master], [], [], deadline - time.monotonic())
            assert ready, f"{wanted!r} does not come after {self.screen!r}"
            try:
                piece = os.read(self._master, 65536)
            except OSError:  # Linux's word for: the other side has closed
                piece = b""
            assert piece, f"{wanted!r} never came: {self.screen!r}"
            self.screen += piece.decode(errors="replace")
        self.screen = self.screen.partition(wanted)[2]

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def rest(self) -> str:
        """All that comes until the command ends."""
        try:
            while piece := os.read(self._master, 65536):
                self.screen += piece.decode(errors="replace")
        except OSError:
            pass
        return self.screen

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
