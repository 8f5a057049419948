"""One request at one upstream: a call for each of its answers, their pieces in one stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from edge.cloud.body import Order
from edge.cloud.call import Call, Heard
from edge.cloud.connections import Connections
from edge.cloud.failure import CallFailed, Failure, of_total
from edge.cloud.key import Key
from edge.config import answering
from edge.errors import DeadlineExceeded
from edge.types import Delta, Finished, Part

CLOSING = 1.0
"""Seconds for connections to close before they are left to themselves."""


def deadline_exceeded(seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the deadline of {seconds * 1000:.0f} ms passed", param="edge.deadline_ms"
    )


class Attempt:
    """Consume `parts`; closing it closes the connections at once.

    ends: monotonic time at which the whole request has used up its time. first_after: seconds
    to the first text, None before it. complete: all answers have come to their end.
    """

    def __init__(
        self, name: str, settings: answering.Upstream, orders: list[Order], key: Key, ends: float
    ) -> None:
        self.name = name
        self.settings = settings
        self.ends = ends
        self.first_after: float | None = None
        self.complete = False
        self._began = time.monotonic()
        self._heard: asyncio.Queue[tuple[int, Heard | DeadlineExceeded]] = asyncio.Queue()
        self._calls = [Call(name, settings, order, key, self._hear) for order in orders]
        self._open = len(orders)

    @property
    def received(self) -> int:
        """Bytes that came over the line; complete once `parts` has ended."""
        return sum(call.received for call in self._calls)

    async def parts(
        self, connections: Connections, deadline: float | None
    ) -> AsyncGenerator[list[Part], None]:
        """The pieces as they come, several at a time when they pile up.

        deadline: seconds from now. Raises `CallFailed` and `DeadlineExceeded`.
        """
        timers = self._timers(deadline)
        tasks = [
            asyncio.create_task(call.run(connections), name=f"upstream {self.name}")
            for call in self._calls
        ]
        try:
            while not self.complete:
                parts: list[Part] = []
                try:
                    parts.append(self._part(*await self._heard.get()))
                    while not self._heard.empty():
                        parts.append(self._part(*self._heard.get_nowait()))
                except (CallFailed, DeadlineExceeded):
                    if parts:  # what came before it is part of the answer
                        yield parts
                    raise
                yield parts
        finally:
            for timer in timers:
                timer.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CLOSING)

    def _timers(self, deadline: float | None) -> list[asyncio.TimerHandle]:
        """Times are events like all others."""
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(self.ends - self._began, self._total_passed)]
        if deadline is not None:
            error = deadline_exceeded(deadline)
            timers.append(loop.call_later(deadline, self._heard.put_nowait, (0, error)))
        return timers

    def _total_passed(self) -> None:
        total = self.settings.timeouts.total
        # Another target may have used up most of the time; that is not this one's failure.
        its_own = self.ends - self._began >= total / 2
        self._hear(0, of_total(self.name, total, its_own=its_own))

    def _hear(self, index: int, heard: Heard) -> None:
        self._heard.put_nowait((index, heard))

    def _part(self, index: int, heard: Heard | DeadlineExceeded) -> Part:
        if isinstance(heard, Failure):
            raise CallFailed(heard)
        if isinstance(heard, DeadlineExceeded):
            raise heard
        if isinstance(heard, Finished):
            self._open -= 1
            self.complete = self._open == 0
        elif isinstance(heard, Delta) and self.first_after is None:
            self.first_after = time.monotonic() - self._began
        return Part(index, heard)
