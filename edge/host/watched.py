"""One kind of sensor, read in a thread of its own.

A file of the kernel may block for as long as its driver does, and nobody can end that thread. So
nobody waits for it: the last reading stands for a while, and then it is unknown.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SOONEST = 0.1
"""Seconds between two readings at least, however often somebody asks for one."""


class Watched(Generic[T]):
    """The last reading, which any thread may ask for.

    read: runs in the thread only. tick: seconds between two readings. fresh: after so many a
    reading counts no more.
    """

    def __init__(
        self, name: str, read: Callable[[], T | None], *, tick: float, fresh: float = 30.0
    ) -> None:
        self.name = name
        self._read = read
        self._tick = tick
        self._fresh = fresh
        self._last: tuple[float, T | None] | None = None
        self._stopping = False
        self._wanted = threading.Event()
        self._hangs = False
        self._failed = False

    def start(self) -> None:
        self._last = time.monotonic(), None
        # A daemon thread: one that hangs does not keep the process from ending.
        threading.Thread(target=self._run, name=f"sensor-{self.name}", daemon=True).start()

    def stop(self) -> None:
        """Does not wait for a reading under way."""
        self._stopping = True
        self._wanted.set()

    def pace(self, tick: float) -> None:
        """Read now, and from now on so often."""
        self._tick = tick
        self._wanted.set()

    @property
    def value(self) -> T | None:
        """None where nothing can be read, was read yet, or for some time."""
        last = self._last
        if last is None or self._stopping:
            return None
        hangs = time.monotonic() - last[0] > self._fresh
        if hangs != self._hangs:
            self._hangs = hangs
            logger.warning("reading %s %s", self.name, "hangs" if hangs else "works again")
        return None if hangs else last[1]

    def _run(self) -> None:
        while not self._stopping:
            self._wanted.clear()
            self._last = time.monotonic(), self._reading()
            if self._wanted.wait(self._tick) and not self._stopping:
                time.sleep(max(0.0, self._last[0] + _SOONEST - time.monotonic()))

    def _reading(self) -> T | None:
        try:
            found = self._read()
        except Exception:  # a driver's surprise is no reason for the others to be blind
            if not self._failed:
                logger.exception("reading %s fails", self.name)
            self._failed = True
            return None
        self._failed = False
        return found


def within(seconds: float, read: Callable[[], T]) -> T | None:
    """One reading, for those who can wait that long; None when it takes longer. Raises what
    `read` raises."""
    done: futures.Future[T] = futures.Future()

    def run() -> None:
        try:
            done.set_result(read())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return done.result(seconds)
    except futures.TimeoutError:
        return None
