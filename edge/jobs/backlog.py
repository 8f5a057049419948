"""What was taken on and is not done yet, as operators see it: no queue is invisible.

Stateless: the ledger is asked each time, and headquarters' records by who sends them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from edge.store.batches import Batches
from edge.store.deliveries import Deliveries
from edge.store.intake import Bounds
from edge.store.jobs import Jobs


class Backlog(msgspec.Struct):
    """queued, running: kept requests that have not ended, which take `bytes`; more than `max_jobs`
    or `max_bytes` are refused, or drive others out. lines: those that wait, by route and model;
    the first of them came `oldest_seconds` ago. failed: ended in vain, and still kept. replies,
    webhooks: finished and not yet with their receivers. batches: that have not ended. reports:
    records of finished work that headquarters does not have. error: why nothing of it is known.
    """

    queued: int = 0
    running: int = 0
    lines: dict[str, int] = {}
    oldest_seconds: float | None = None
    failed: int = 0
    bytes: int = 0
    max_jobs: int = 0
    max_bytes: int = 0
    replies: int = 0
    webhooks: int = 0
    batches: int = 0
    reports: int = 0
    error: str | None = None

    @property
    def nearly_full(self) -> bool:
        """Soon requests are refused, or drive others out."""
        full = 0.8
        many = self.queued + self.running >= full * self.max_jobs
        return many or self.bytes >= full * self.max_bytes


class BacklogReader:
    """bounds: of the ledger. unreported: how many records headquarters does not have."""

    def __init__(
        self,
        jobs: Jobs,
        deliveries: Deliveries,
        batches: Batches,
        bounds: Bounds,
        unreported: Callable[[], int],
    ) -> None:
        self._jobs = jobs
        self._deliveries = deliveries
        self._batches = batches
        self._bounds = bounds
        self._unreported = unreported

    async def read(self) -> Backlog:
        """As it is now. Raises `StoreBroken` and `StoreFull`."""
        counts = await self._jobs.counts()
        owed = await self._deliveries.owed()
        oldest = counts.oldest_queued
        return Backlog(
            queued=counts.jobs["queued"],
            running=counts.jobs["running"],
            lines=await self._jobs.lines(),
            oldest_seconds=None if oldest is None else round(time.time() - oldest, 1),
            failed=counts.jobs["failed"],
            bytes=counts.unfinished_bytes,
            max_jobs=self._bounds.max_jobs,
            max_bytes=self._bounds.max_bytes,
            replies=owed.get("mqtt", 0),
            webhooks=owed.get("http", 0),
            batches=len(await self._batches.unfinished()),
            reports=self._unreported(),
        )
