"""Who wants to hear of jobs: of their ends, and of answers as they come.

The ledger has no events; whoever changes a job says so here. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge.types import Part

Hear = Callable[[list[Part]], None]


class Listeners:
    """Called by the dispatcher alone; see there for what each is for."""

    def __init__(self) -> None:
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._watchers: list[Callable[[str], None]] = []
        self._followers: dict[str, Hear] = {}

    def watch(self, ended: Callable[[str], None]) -> None:
        self._watchers.append(ended)

    def follow(self, job_id: str, heard: Hear) -> None:
        self._followers[job_id] = heard

    def follower(self, job_id: str) -> Hear | None:
        return self._followers.get(job_id)

    @contextmanager
    def waiting(self, job_id: str) -> Iterator[asyncio.Future[None]]:
        """A future that is set when something is told of the job."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(job_id, []).append(waiter)
        try:
            yield waiter
        finally:
            waiters = self._waiters[job_id]
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[job_id]

    def tell(self, job_id: str) -> None:
        """It has ended, or may have: let everybody look."""
        self._followers.pop(job_id, None)
        for ended in self._watchers:
            ended(job_id)
        self._wake(self._waiters.get(job_id, []))

    def tell_all(self) -> None:
        """Let everybody look who waits for any job."""
        for waiters in self._waiters.values():
            self._wake(waiters)

    @staticmethod
    def _wake(waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
