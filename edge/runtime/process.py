"""One worker process as the daemon sees it: start, talk, end.

Owned by the runner that started it, which says what program it runs and what it reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Generic, TypeVar

import msgspec

from edge.engine.shortage import telling
from edge.frames import HEADER, body_size, pack
from edge.runtime.last_words import LastWords

KILLED = f"killed by {signal.SIGKILL.name}"
"""How a process ends that the kernel took to get at its memory, or that somebody killed."""

ABORTED = f"killed by {signal.SIGABRT.name}"
"""How ggml ends its process, among others where one of its small allocations is refused."""

STOP_SECONDS = 5.0
"""Time that each step of the escalation gets: Stop, SIGTERM, SIGKILL."""

LARGEST_READ = 1024 * 1024
"""Bytes that are taken in before whoever reads them has been told."""

R = TypeVar("R", bound=msgspec.Struct)


class WorkerProcess(Generic[R]):
    """A running `python -m MODULE FD`; make it with `spawn`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        reports: msgspec.msgpack.Decoder[R],
        stop: msgspec.Struct,
        words: LastWords,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._reports = reports
        self._stop = stop
        self._words = words
        self.shortage: str | None = None
        """After `wait`: what it said at its end about memory that it could not get."""

    @classmethod
    async def spawn(
        cls,
        module: str,
        reports: msgspec.msgpack.Decoder[R],
        stop: msgspec.Struct,
        environment: Mapping[str, str],
    ) -> WorkerProcess[R]:
        """reports: of what it says. stop: the message that asks it to end."""
        ours, theirs = socket.socketpair()
        words = LastWords()
        with theirs:
            # A session of its own: Ctrl-C on the daemon's terminal must not reach the worker
            # before the daemon has let the live streams finish.
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    module,
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stderr=words.write_end,
                    start_new_session=True,
                    env={**environment, **os.environ, **words.environment()},
                )
            finally:
                words.listen()
        reader, writer = await asyncio.open_connection(sock=ours, limit=LARGEST_READ)
        return cls(process, reader, writer, reports, stop, words)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: msgspec.Struct) -> None:
        """Queue a command. A worker that died meanwhile is noticed by `receive`."""
        if not self._writer.is_closing():
            self._writer.write(pack(command))

    async def receive(self) -> R | None:
        """The worker's next report; None when it is gone."""
        try:
            header = await self._reader.readexactly(HEADER.size)
            return self._reports.decode(await self._reader.readexactly(body_size(header)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def kill(self) -> None:
        """SIGKILL, which also ends a process that is stopped or stuck in native code."""
        self._signal(signal.SIGKILL)

    async def wait(self) -> str:
        """Reap the process; returns how it ended, in words."""
        code = await self._process.wait()
        self.shortage = telling(await self._words.end())
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

    async def stop(self) -> str:
        """End the process: ask, then SIGTERM, then SIGKILL; returns how it ended."""
        self.send(self._stop)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._process.wait()), STOP_SECONDS)
                break
            self._signal(number)
        return await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
