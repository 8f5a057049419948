"""What operators see of a real ledger: all that is not done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.jobs.backlog import Backlog, BacklogReader
from edge.store.batch import NewBatch
from edge.store.batches import Batches
from edge.store.database import Database
from edge.store.deliveries import Deliveries
from edge.store.files import FileFacts, insert
from edge.store.intake import Bounds
from edge.store.job import NewJob
from edge.store.jobs import Jobs
from edge.store.schema import MIGRATIONS

LINE = "local small"
BOUNDS = Bounds(10, 1 << 20)
INPUT = FileFacts("file-1", "name", "batch", 10, 1.0, 2.0)


def new(**wanted: Any) -> NewJob:
    facts = {"line": LINE, "client": "c", "door": "mqtt", "kind": "chat", "request": b"123"}
    return NewJob(**{**facts, **wanted})


async def test_all_that_is_not_done(tmp_path: Path) -> None:
    """By line, and with whom it is owed; what has ended well and was sent is no backlog."""
    async with Database(tmp_path / "jobs.db", MIGRATIONS) as database:
        jobs = Jobs(database, BOUNDS, result_ttl=9, clock=lambda: 1.0)
        deliveries = Deliveries(database)
        batches = Batches(database, BOUNDS, ttl=9)
        reader = BacklogReader(jobs, deliveries, batches, BOUNDS, lambda: 7)
        empty = Backlog(max_jobs=10, max_bytes=1 << 20, reports=7)
        assert await reader.read() == empty

        async def claimed() -> str:
            job = await jobs.claim(2.0, [LINE])
            assert job is not None
            return job.id

        for door in ("mqtt", "http", "batch"):
            await jobs.add(new(door=door, target=b"somebody"))
            await jobs.finish(await claimed(), b"answer")
        await jobs.add(new())
        await jobs.fail(await claimed(), "upstream_error", "no")
        await jobs.add(new())
        running = await claimed()
        await jobs.add(new(line="auto big", request=b"12345"))
        await jobs.add(new())
        await database.write(lambda c: insert(c, INPUT))
        await batches.add(NewBatch(input="file-1", endpoint="/v1/completions", window=60))
        backlog = await reader.read()
        assert (backlog.queued, backlog.running, backlog.failed) == (2, 1, 1)
        assert backlog.lines == {LINE: 1, "auto big": 1}
        assert backlog.bytes == new().size * 2 + new(request=b"12345").size
        assert (backlog.oldest_seconds or 0) > 1e9  # by the clock of the ledger in this test
        assert (backlog.replies, backlog.webhooks, backlog.batches) == (1, 1, 1)

        for one in await jobs.list(None, 100, None):
            await jobs.cancel(one.id)
        for one in await deliveries.due("mqtt", 9e9) + await deliveries.due("http", 9e9):
            await deliveries.delivered(one.id)
        backlog = await reader.read()
        assert (await jobs.get(running)).state == "cancelled"
        assert (backlog.queued, backlog.running, backlog.bytes) == (0, 0, 0)
        assert (backlog.replies, backlog.webhooks) == (0, 0)


@pytest.mark.parametrize(
    ("found", "nearly"),
    [
        ({"queued": 7}, False),
        ({"queued": 7, "running": 1}, True),
        ({"bytes": 79}, False),
        ({"bytes": 80}, True),
    ],
)
def test_nearly_full(found: dict[str, int], nearly: bool) -> None:
    """By number or by size, from four fifths on."""
    assert Backlog(**{"max_jobs": 10, "max_bytes": 100, **found}).nearly_full == nearly  # type: ignore[arg-type]
