"""`GET /admin/v1/status` where a part of it cannot be told."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edge.api.http.ops import _queue
from edge.jobs.backlog import BacklogReader
from edge.store.batches import Batches
from edge.store.database import Database
from edge.store.deliveries import Deliveries
from edge.store.intake import Bounds
from edge.store.jobs import Jobs
from edge.store.schema import MIGRATIONS


@asynccontextmanager
async def reading(file: Path) -> AsyncIterator[BacklogReader]:
    bounds = Bounds(10, 1 << 20)
    async with Database(file, MIGRATIONS) as database:
        jobs, deliveries = Jobs(database, bounds, result_ttl=9), Deliveries(database)
        yield BacklogReader(jobs, deliveries, Batches(database, bounds, ttl=9), bounds, int)


def damage(file: Path) -> None:
    with file.open("r+b") as pages:
        pages.seek(4096)  # behind the page with the names of the tables
        pages.write(os.urandom(file.stat().st_size - 4096))


async def test_a_ledger_that_cannot_be_read(tmp_path: Path) -> None:
    """Is told of in its own words, and not as an empty queue."""
    file = tmp_path / "jobs.sqlite"
    async with reading(file) as reader:
        assert (await _queue(reader))["queued"] == 0
    async with reading(file) as reader:
        damage(file)
        told = await _queue(reader)
    assert set(told) == {"error"}
    assert "damaged" in told["error"]
