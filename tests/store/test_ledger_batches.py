"""Batches in the ledger: each change once, each line once, and jobs kept until they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledger import START, TTL, Ledger, new, open_ledger

from edge.errors import BatchNotFound, FileNotFound, QueueFull
from edge.store import batches as batches_module
from edge.store.batch import Batch, Feed, NewBatch
from edge.store.batches import Batches
from edge.store.database import Database
from edge.store.files import FileFacts, insert
from edge.store.intake import Bounds
from edge.store.schema import LEDGER

INPUT = FileFacts("file-1", "name", "batch", 10, START, START + TTL)


def over(ledger: Ledger, max_jobs: int = 100) -> Batches:
    bounds = Bounds(max_jobs, 1 << 20, "drop_oldest_batch")
    return Batches(ledger.database, bounds, ttl=TTL, clock=ledger.clock)


async def add(ledger: Ledger, batches: Batches, total: int = 3) -> Batch:
    """A batch in progress, whose file has `total` lines."""

    def once(connection: object) -> None:
        insert(connection, INPUT)  # type: ignore[arg-type]

    try:
        batch = await batches.add(NewBatch(input=INPUT.id, endpoint="/v1/completions", window=60))
    except FileNotFound:
        await ledger.database.write(once)
        return await add(ledger, batches, total)
    assert await batches.start(batch.id, total)
    return await batches.get(batch.id)


def feed(batch: Batch, *lines: int, refused: tuple[int, ...] = ()) -> list[Feed]:
    job = {"client": batch.id, "door": "batch", "priority": "batch", "target": b"t"}
    return [
        Feed(line, line * 10, f"line {line}", None, ("invalid_request_error", "no", "prompt"))
        if line in refused
        else Feed(line, line * 10, f"line {line}", new(**job))
        for line in lines
    ]


async def test_a_batch_from_beginning_to_end(ledger: Ledger) -> None:
    """Counted as its jobs end, and its output is there with its last change."""
    batches = over(ledger)
    batch = await add(ledger, batches)
    assert await batches.feed(batch, feed(batch, 1, 2, 3, refused=(2,)), 3, 30)
    batch = await batches.get(batch.id)
    assert (batch.fed, batch.line, batch.position) == (3, 3, 30)
    assert (batch.unfinished, batch.completed, batch.failed) == (2, 0, 1)
    first, second = await ledger.claim(), await ledger.claim()
    await ledger.jobs.finish(first.id, b"answer")
    await ledger.jobs.fail(second.id, "upstream_error", "broken")
    batch = await batches.get(batch.id)
    assert (batch.unfinished, batch.completed, batch.failed) == (0, 1, 2)
    outcomes = await batches.outcomes(batch.id, 0, 10)
    assert [(one.line, one.custom_id, one.state) for one in outcomes] == [
        (1, "line 1", "done"),
        (2, "line 2", None),
        (3, "line 3", "failed"),
    ]
    assert outcomes[0].result == b"answer"
    assert (outcomes[1].error_code, outcomes[1].error_param) == ("invalid_request_error", "prompt")
    assert (outcomes[2].error_code, outcomes[2].error_message) == ("upstream_error", "broken")
    assert [one.line for one in await batches.outcomes(batch.id, 1, 1)] == [2]
    assert await batches.finalize(batch.id, "completed")
    output = FileFacts("file-2", "out", "batch_output", 5, START, START + TTL)
    batch = await batches.get(batch.id)
    assert await batches.end(batch, 1, 2, output, None)
    batch = await batches.get(batch.id)
    assert (batch.status, batch.output, batch.error) == ("completed", "file-2", None)
    assert not await batches.end(batch, 1, 2, None, None)
    assert await batches.unfinished() == []


async def test_a_line_is_fed_once(ledger: Ledger) -> None:
    """Whoever feeds from where the file was read to before does nothing."""
    batches = over(ledger)
    batch = await add(ledger, batches)
    assert await batches.feed(batch, feed(batch, 1, 2), 2, 20)
    assert not await batches.feed(batch, feed(batch, 1, 2), 2, 20)
    assert len(await batches.waiting(batch.id)) == 2
    assert (await ledger.jobs.counts()).jobs["queued"] == 2


async def test_nothing_is_fed_after_the_end_began(ledger: Ledger) -> None:
    """Cancelled, or finalizing: no job comes after that."""
    batches = over(ledger)
    cancelled, finalizing = await add(ledger, batches), await add(ledger, batches)
    assert await batches.cancel(cancelled.id)
    assert await batches.finalize(finalizing.id, "expired")
    for batch in (cancelled, finalizing):
        assert not await batches.feed(batch, feed(batch, 1), 1, 10)
        assert not await batches.cancel(batch.id)
        assert not await batches.finalize(batch.id, "completed")
        assert not await batches.start(batch.id, 9)
        assert not await batches.reject(batch.id, "{}")
    assert (await ledger.jobs.counts()).jobs["queued"] == 0


async def test_a_full_queue(ledger: Ledger) -> None:
    """All lines or none; a batch drops no other work, whatever the policy for others is."""
    batches = over(ledger, max_jobs=3)
    other = await ledger.jobs.add(new(priority="batch"))
    batch = await add(ledger, batches)
    with pytest.raises(QueueFull):
        await batches.feed(batch, feed(batch, 1, 2, 3), 3, 30)
    assert (await batches.get(batch.id)).fed == 0
    assert await batches.outcomes(batch.id, 0, 10) == []
    assert await batches.feed(batch, feed(batch, 1, 2), 2, 20)
    assert (await ledger.jobs.get(other.id)).state == "queued"


async def test_lines_that_had_to_give_way(ledger: Ledger) -> None:
    """They are queued again once there is room; other failures are not."""
    batches = over(ledger, max_jobs=3)
    batch = await add(ledger, batches)
    await batches.feed(batch, feed(batch, 1, 2), 2, 20)
    broken = await ledger.claim()
    await ledger.jobs.fail(broken.id, "upstream_error", "no")
    dropped = await ledger.claim()
    await ledger.jobs.fail(dropped.id, "queue_full", "newer work came in")
    assert (await batches.get(batch.id)).failed == 2
    others = [await ledger.jobs.add(new()) for _ in range(3)]
    with pytest.raises(QueueFull):
        await batches.revive(batch.id, 9)
    await ledger.jobs.cancel(others[0].id)
    assert await batches.revive(batch.id, 9) == 1
    assert await batches.waiting(batch.id) == [dropped.id]
    batch = await batches.get(batch.id)
    assert (batch.unfinished, batch.failed) == (1, 1)


async def test_no_end_while_something_runs(ledger: Ledger) -> None:
    """A job that was queued again has to be in the output."""
    batches = over(ledger)
    batch = await add(ledger, batches, total=1)
    await batches.feed(batch, feed(batch, 1), 1, 10)
    job = await ledger.claim()
    await ledger.jobs.fail(job.id, "upstream_error", "no")
    await batches.finalize(batch.id, "completed")
    batch = await batches.get(batch.id)
    await ledger.jobs.retry(job.id)
    assert not await batches.end(batch, 0, 1, None, None)
    await ledger.claim()
    await ledger.jobs.finish(job.id, b"answer")
    assert await batches.end(batch, 1, 0, None, None)
    assert (await batches.get(batch.id)).failed == 0


async def test_jobs_stay_until_their_batch_has_ended(ledger: Ledger) -> None:
    """However old they are, also where one is queued again later; then the queue removes them."""
    batches = over(ledger)
    batch = await add(ledger, batches, total=2)
    await batches.feed(batch, feed(batch, 1, 2), 2, 20)
    for _ in range(2):
        await ledger.jobs.fail((await ledger.claim()).id, "upstream_error", "no")
    assert (await ledger.jobs.expire(START + 2 * TTL)).removed == 0
    await batches.finalize(batch.id, "completed")
    first, _ = await batches.outcomes(batch.id, 0, 2)
    await batches.end(await batches.get(batch.id), 0, 2, None, None)
    await batches.release()
    assert await batches.outcomes(batch.id, 0, 2) == []
    assert first.job is not None
    await ledger.jobs.retry(first.job)
    await ledger.jobs.fail((await ledger.claim()).id, "upstream_error", "no")
    assert (await batches.get(batch.id)).failed == 2
    assert (await ledger.jobs.expire(START + 2 * TTL)).removed == 2


async def test_forgotten_after_a_while(ledger: Ledger) -> None:
    """Not before its lines are released."""
    batches = over(ledger)
    batch = await add(ledger, batches)
    await batches.feed(batch, feed(batch, 1, refused=(1,)), 1, 10)
    await batches.finalize(batch.id, "completed")
    await batches.end(await batches.get(batch.id), 0, 1, None, None)
    assert await batches.expire(START + TTL) == 0
    await batches.release()
    assert await batches.expire(START + TTL - 1) == 0
    assert await batches.expire(START + TTL) == 1
    for call in (batches.get, batches.cancel):
        with pytest.raises(BatchNotFound):
            await call(batch.id)


async def test_cancelling_in_all_lines(ledger: Ledger) -> None:
    """A batch whose requests wait for different models; other work stays."""
    batches = over(ledger)
    batch = await add(ledger, batches)
    other = await ledger.jobs.add(new(line="b", priority="batch"))
    job = {"client": batch.id, "door": "batch", "priority": "batch", "target": b"t"}
    lines = [
        Feed(number, number * 10, f"line {number}", new(**job, line=line))
        for number, line in enumerate("aba", start=1)
    ]
    assert await batches.feed(batch, lines, 3, 30)
    assert await ledger.jobs.lines() == {"a": 2, "b": 2}
    await batches.cancel_queued(batch.id)
    assert await ledger.jobs.lines() == {"b": 1}
    assert (await ledger.jobs.get(other.id)).state == "queued"


async def test_too_many_batches(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have ended do not count."""
    monkeypatch.setattr(batches_module, "MOST_UNFINISHED", 1)
    batches = over(ledger)
    batch = await add(ledger, batches)
    with pytest.raises(QueueFull):
        await add(ledger, batches)
    await batches.cancel(batch.id)
    await batches.end(await batches.get(batch.id), 0, 0, None, None)
    assert await add(ledger, batches)


async def test_listed_in_pages(ledger: Ledger) -> None:
    """The latest first."""
    batches = over(ledger)
    ids = [(await add(ledger, batches)).id for _ in range(3)]
    assert [one.id for one in await batches.list()] == ids[::-1]
    assert [one.id for one in await batches.list(1, ids[2])] == [ids[1]]


async def test_a_ledger_of_before_there_were_batches(path: Path) -> None:
    """Is brought up to date, with the jobs it has."""
    async with Database(path, (LEDGER,)) as database:
        await database.write(
            lambda c: (
                c.execute(
                    "INSERT INTO jobs"
                    " (id, line, client, caller, door, kind,"
                    " priority, deadline, created, state, size)"
                    " VALUES ('a', 'l', 'c', '', 'http', 'chat', 1, 9e999, 1.0, 'queued', 0)"
                ).rowcount
            )
        )
    async with open_ledger(path) as ledger:
        assert (await ledger.jobs.counts()).jobs["queued"] == 1
        assert await add(ledger, over(ledger))
