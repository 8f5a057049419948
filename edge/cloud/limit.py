"""A time limit that moves: one timer for a whole answer, however many tokens it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Limit:
    """`set` says what has to happen within how long; `passed` is called when it did not.

    Moving the limit further away costs no timer: the one that runs looks again when it fires.
    """

    def __init__(self, passed: Callable[[str, float], None]) -> None:
        self.passed = passed
        self._loop = asyncio.get_running_loop()
        self._name = ""
        self._seconds = 0.0
        self._end = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    def set(self, name: str, seconds: float) -> None:
        """Replaces the limit that held so far."""
        self._name, self._seconds = name, seconds
        self._end = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._end:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._end, self._look)

    def clear(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._loop.time() < self._end:
            self._timer = self._loop.call_at(self._end, self._look)
        else:
            self.passed(self._name, self._seconds)
