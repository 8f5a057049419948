"""One name that requests may ask for: its runner while it is loaded, and those who wait for it.

Owned by the `Fleet`, on the event loop; the plan and the doors only look.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import ExitStack
from typing import Literal, NamedTuple

from edge.errors import EdgeError, ModelLoadFailed
from edge.loops import Backoff
from edge.runtime.runner import ModelRunner

State = Literal["unloaded", "waiting", "loading", "ready", "restarting", "failed", "unloading"]

FETCH_SECONDS = 60.0
"""For how long it is of use to load a model for a request that was answered elsewhere."""

FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
"""Seconds for which a model that could not be loaded is left alone, as they double."""


DOUBT_SECONDS = 600.0
"""For which memory that was refused is not believed in: who had it may have gone meanwhile."""

MOST_DOUBTS = 3


class Doubt(NamedTuple):
    """Bytes that were thought to be available and were refused. until: monotonic clock. rounds:
    loads that died in a row."""

    size: int = 0
    until: float = 0.0
    rounds: int = 0


class Resident:
    """A runner with its file: about to be loaded, loaded, or on its way out.

    users: requests that were given it and have not ended. ready_at, used_at: monotonic clock.
    """

    def __init__(self, runner: ModelRunner, held: ExitStack) -> None:
        self.runner = runner
        self.held = held
        self.task: asyncio.Task[None] | None = None
        self.users = 0
        self.ready_at = self.used_at = 0.0

    @property
    def promised_bytes(self) -> int:
        """What it may come to take of the main memory; 0 while it has no worker, or nothing is
        known."""
        record = self.runner.memory
        if self.task is None or record is None or record.card:
            return 0
        return record.predicted_bytes + record.prefix_bytes

    @property
    def held_bytes(self) -> int:
        """What of the available memory has gone to it. Where that is not measured, all that was
        promised, once it is loaded."""
        stats = self.runner.stats
        if self.runner.state != "ready" or stats is None:
            return 0
        if not stats.taken_bytes:
            return self.promised_bytes
        return stats.taken_bytes - stats.mapped_bytes + stats.kept_bytes


class Waiter:
    """A request for a model that is not at hand. since: monotonic clock."""

    def __init__(self, since: float, urgent: bool) -> None:
        self.since = since
        self.urgent = urgent
        self.granted: asyncio.Future[Resident] = asyncio.get_running_loop().create_future()


class Model:
    """What is known of one name.

    pinned: never unloaded. at_start: to be loaded although nobody asks, since `start_since`.
    fetch_since: somebody was answered elsewhere, and would have liked it. moving: it is being
    loaded or unloaded. draining: another's turn has come: new requests wait behind it. switching:
    another version is taking it over, and the fleet neither loads nor unloads it. held: new
    requests wait for that.
    """

    def __init__(self, name: str, *, pinned: bool = False) -> None:
        self.name = name
        self.pinned = pinned
        self.resident: Resident | None = None
        self.waiters: deque[Waiter] = deque()
        self.start_since: float | None = None
        self.fetch_since: float | None = None
        self.moving: Literal["loading", "unloading"] | None = None
        self.draining = self.switching = self.held = False
        self.error: EdgeError | None = None
        self._doubt = Doubt()
        self.retry_at = 0.0
        self.backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)

    @property
    def runner(self) -> ModelRunner | None:
        """None while nothing of it is in memory, or on its way there."""
        resident = self.resident
        return None if resident is None or resident.task is None else resident.runner

    @property
    def loaded(self) -> bool:
        """It can take requests, though perhaps only after a worker that died has been replaced."""
        return self.runner is not None and self.moving is None

    @property
    def at_hand(self) -> bool:
        """A request would be computed at once, or as soon as there is a slot."""
        return self.loaded and not self.draining and not self.held

    @property
    def removable(self) -> bool:
        """It may be unloaded for the sake of others, sooner or later."""
        return self.loaded and not self.pinned and not self.switching

    @property
    def state(self) -> State:
        if self.moving is not None:
            return self.moving
        runner = self.runner
        if runner is None and self.held:
            return "loading"
        if runner is not None:
            return "unloading" if runner.state == "stopped" else runner.state
        if self.waiters:
            return "waiting"
        if self.error is not None:
            return "failed"
        return "unloaded" if self.start_since is None else "loading"

    @property
    def well(self) -> bool:
        """False while it should be able to answer at once, and cannot."""
        if self.pinned or self.start_since is not None:
            return self.state == "ready"
        return self.state not in ("restarting", "failed")

    def doubted(self, now: float) -> int:
        """Bytes that the machine may say it has, and has not for this model."""
        return self._doubt.size if now < self._doubt.until else 0

    def doubt(self, size: int, now: float) -> bool:
        """A load was refused memory: so many bytes were too much. False where that has been so too
        often."""
        rounds = self._doubt.rounds + 1 if now < self._doubt.until else 1
        self._doubt = Doubt(size, now + DOUBT_SECONDS, rounds)
        return rounds <= MOST_DOUBTS

    @property
    def urgent(self) -> bool:
        return any(waiter.urgent for waiter in self.waiters)

    @property
    def background(self) -> bool:
        """Nobody waits for it, and it need not be there."""
        return not self.waiters and self.start_since is None

    def wanted_since(self, now: float) -> float | None:
        """Since when it is to be loaded and is not; None where it need not be, or cannot now."""
        if self.moving is not None or self.runner is not None or now < self.retry_at:
            return None
        if self.switching:
            return None
        times = [self.waiters[0].since] if self.waiters else []
        if self.start_since is not None:
            times.append(self.start_since)
        if self.fetch_since is not None and now < self.fetch_since + FETCH_SECONDS:
            times.append(self.fetch_since)
        return min(times, default=None)

    def failed(self, error: EdgeError, now: float) -> None:
        """It could not be loaded: those who wait hear of it, and so do others for a while."""
        self.error, self.fetch_since = error, None
        self.retry_at = now + self.backoff.next()
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.granted.done():
                waiter.granted.set_exception(self.refusal(now) or error)

    def refusal(self, now: float) -> EdgeError | None:
        """Why it is not loaded for a request now; None if it is tried."""
        if self.error is None or now >= self.retry_at:
            return None
        kind = type(self.error) if isinstance(self.error, ModelLoadFailed) else ModelLoadFailed
        return kind(
            f"{self.name} could not be loaded: {self.error.message}",
            hint=self.error.hint,
            retry_after=max(1.0, self.retry_at - now),
        )
