"""What a worker writes to its error output: passed on to the daemon's, and its end remembered.

A process that native code ends has no way to tell why but there, and on a Jetson NVIDIA's allocator
says only there that memory is short. Owned by the `WorkerProcess`; the event loop reads.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Mapping

from edge import logs

MOST_LINES = 60
LAST_SECONDS = 15.0
"""Lines that are older than this when the process ends have not to do with it: a failed allocation
that was tried again, smaller, and then worked is no reason."""

LONGEST_LINE = 4096
READ = 65536
DRAIN_SECONDS = 2.0
"""For what is still in the pipe when the process is gone; a child of it may hold the other end."""


class LastWords:
    """`write_end` is for the process to be started, which inherits it as its error output."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        self._lines: deque[tuple[float, str]] = deque(maxlen=MOST_LINES)
        self._rest = b""
        self._ended = asyncio.Event()

    def environment(self) -> Mapping[str, str]:
        """Variables for the process: its lines get to the journal if the daemon's do."""
        if not logs.to_journal():
            return {}
        pipe = os.fstat(self.write_end)
        return {"JOURNAL_STREAM": f"{pipe.st_dev}:{pipe.st_ino}"}

    def listen(self) -> None:
        """The process has been started, or could not be."""
        os.close(self.write_end)
        os.set_blocking(self._read_end, False)
        asyncio.get_running_loop().add_reader(self._read_end, self._read)

    async def end(self) -> list[str]:
        """The process has ended: its last lines, as far as they are of its end."""
        try:
            await asyncio.wait_for(self._ended.wait(), DRAIN_SECONDS)
        except asyncio.TimeoutError:
            self._close()
        now = time.monotonic()
        return [line for said, line in self._lines if now - said <= LAST_SECONDS]

    def _read(self) -> None:
        try:
            data = os.read(self._read_end, READ)
        except BlockingIOError:
            return
        if not data:
            self._close()
            return
        _pass_on(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._remember(line)
        self._rest = self._rest[-LONGEST_LINE:]

    def _remember(self, line: bytes) -> None:
        if text := line[:LONGEST_LINE].decode("utf-8", "replace").strip():
            self._lines.append((time.monotonic(), text))

    def _close(self) -> None:
        if self._ended.is_set():
            return
        self._remember(self._rest)
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        self._ended.set()


def _pass_on(data: bytes) -> None:
    """To the daemon's own error output, as it came."""
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:  # nobody listens any more, and the worker is not to suffer for it
        return
