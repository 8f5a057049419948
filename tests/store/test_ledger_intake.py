"""What is let in: bounds, the policy when full, idempotency keys."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from ledger import START, TTL, Ledger, keyed, new, open_ledger

from edge.errors import IdempotencyKeyReused, QueueFull
from edge.store.intake import Bounds


async def test_count_bound(path: Path) -> None:
    """Queued and running jobs count; a finished one makes room."""
    async with open_ledger(path, Bounds(3, 1 << 20)) as ledger:
        for _ in range(3):
            await ledger.jobs.add(new())
        await ledger.claim()
        with pytest.raises(QueueFull) as caught:
            await ledger.jobs.add(new())
        assert caught.value.code == "queue_full"
        assert caught.value.retryable
        await ledger.jobs.finish((await ledger.jobs.list("running"))[0].id, b"")
        await ledger.jobs.add(new())
        with pytest.raises(QueueFull):
            await ledger.jobs.add(new())


async def test_byte_bound(path: Path) -> None:
    """Requests and targets count, to the byte."""
    async with open_ledger(path, Bounds(100, 1000)) as ledger:
        await ledger.jobs.add(new(request=bytes(500), target=bytes(100)))
        with pytest.raises(QueueFull):
            await ledger.jobs.add(new(request=bytes(401)))
        await ledger.jobs.add(new(request=bytes(400)))
        with pytest.raises(QueueFull):
            await ledger.jobs.add(new(request=b"x"))


async def test_a_storm_stays_within_the_bounds(path: Path) -> None:
    """Of 200 jobs at once, in shared transactions, exactly as many as fit are taken."""
    async with open_ledger(path, Bounds(50, 1 << 20)) as ledger:
        adding = (ledger.jobs.add(new(client=f"{n % 5}")) for n in range(200))
        outcomes = await asyncio.gather(*adding, return_exceptions=True)
        assert sum(isinstance(outcome, QueueFull) for outcome in outcomes) == 150
        assert (await ledger.jobs.counts()).jobs["queued"] == 50


async def test_the_oldest_batch_job_gives_way(path: Path) -> None:
    """It fails with queue_full, which is delivered; running and normal jobs are left alone."""
    async with open_ledger(path, Bounds(4, 1 << 20, "drop_oldest_batch")) as ledger:
        running = await ledger.jobs.add(new(priority="batch"))
        await ledger.claim()
        normal = await ledger.jobs.add(new())
        oldest = await ledger.jobs.add(new(priority="batch", client="a", target=b"topic"))
        newer = await ledger.jobs.add(new(priority="batch", client="b"))
        added = await ledger.jobs.add(new(priority="critical"))
        jobs = [await ledger.jobs.get(j.id) for j in (running, normal, oldest, newer, added)]
        assert [j.state for j in jobs] == ["running", "queued", "failed", "queued", "queued"]
        assert jobs[2].error_code == "queue_full"
        (delivery,) = await ledger.deliveries.due("mqtt", START)
        assert (delivery.id, delivery.error_code) == (oldest.id, "queue_full")
        # A batch job gives way to a batch job too, and then none is left.
        await ledger.jobs.add(new(priority="batch"))
        assert (await ledger.jobs.get(newer.id)).state == "failed"


async def test_as_many_give_way_as_are_needed(path: Path) -> None:
    """Several small ones for one that is large; none of them if that would not suffice."""
    async with open_ledger(path, Bounds(100, 1000, "drop_oldest_batch")) as ledger:
        await ledger.jobs.add(new(request=bytes(400)))
        batch = [await ledger.jobs.add(new(priority="batch", request=bytes(100))) for _ in range(6)]
        with pytest.raises(QueueFull):
            await ledger.jobs.add(new(request=bytes(601)))
        assert (await ledger.jobs.counts()).jobs["failed"] == 0
        await ledger.jobs.add(new(request=bytes(250)))
        states = [(await ledger.jobs.get(job.id)).state for job in batch]
        assert states == ["failed"] * 3 + ["queued"] * 3


async def test_same_key_and_body_is_the_same_job(ledger: Ledger) -> None:
    """In any state, also when it has its result, and without using up room."""
    first = await ledger.jobs.add(keyed("k", "body"))
    again = keyed("k", "body")
    assert (await ledger.jobs.add(again)) == first
    assert first.id != again.id
    await ledger.claim()
    assert (await ledger.jobs.add(again)).state == "running"
    await ledger.jobs.finish(first.id, b"answer")
    done = await ledger.jobs.add(again)
    assert (done.id, done.result) == (first.id, b"answer")
    assert sum((await ledger.jobs.counts()).jobs.values()) == 1


async def test_same_key_at_the_same_time(ledger: Ledger) -> None:
    """Fifty at once become one job."""
    jobs = await asyncio.gather(*(ledger.jobs.add(keyed("k", "body")) for _ in range(50)))
    assert len({job.id for job in jobs}) == 1


async def test_same_key_with_another_body_is_refused(ledger: Ledger) -> None:
    """Whether the first is unfinished or done; other scopes and keys are free."""
    first = await ledger.jobs.add(keyed("k", "body"))
    with pytest.raises(IdempotencyKeyReused) as caught:
        await ledger.jobs.add(keyed("k", "other"))
    assert caught.value.code == "idempotency_key_reused"
    await ledger.claim()
    await ledger.jobs.finish(first.id, b"")
    with pytest.raises(IdempotencyKeyReused):
        await ledger.jobs.add(keyed("k", "other"))
    await ledger.jobs.add(keyed("another key", "other"))
    other_scope = keyed("k", "other")
    assert other_scope.idempotency
    await ledger.jobs.add(new(request=b"", client="b", idempotency=None))
    assert (await ledger.jobs.counts()).jobs["queued"] == 2


async def test_a_key_can_be_taken_over_once_its_job_is_finished(ledger: Ledger) -> None:
    """With the flag, a controller that counts from 1 again is served; not before the end."""
    first = await ledger.jobs.add(keyed("1", "body"))
    again = keyed("1", "other", reuse_when_finished=True)
    with pytest.raises(IdempotencyKeyReused):
        await ledger.jobs.add(again)
    await ledger.claim()
    await ledger.jobs.finish(first.id, b"")
    assert (await ledger.jobs.add(keyed("1", "body", reuse_when_finished=True))).id == first.id
    assert (await ledger.jobs.add(again)).id == again.id
    # From here on the key is the second job's, also when the first is removed.
    assert (await ledger.jobs.expire(START + TTL)).removed == 1
    assert (await ledger.jobs.add(keyed("1", "other"))).id == again.id


async def test_a_key_is_free_when_its_job_is_gone(ledger: Ledger) -> None:
    """Keys are remembered as long as results."""
    first = await ledger.jobs.add(keyed("k", "body"))
    await ledger.jobs.cancel(first.id)
    await ledger.jobs.expire(START + TTL)
    second = keyed("k", "other")
    assert (await ledger.jobs.add(second)).id == second.id


async def test_a_refused_job_leaves_its_key_free(path: Path) -> None:
    """Nothing of a job that did not fit is remembered."""
    async with open_ledger(path, Bounds(1, 1 << 20)) as ledger:
        first = await ledger.jobs.add(new())
        with pytest.raises(QueueFull):
            await ledger.jobs.add(keyed("k", "body"))
        await ledger.jobs.cancel(first.id)
        other = keyed("k", "other")
        assert (await ledger.jobs.add(other)).id == other.id


async def test_a_known_job_is_returned_when_the_queue_is_full(path: Path) -> None:
    """Asking again is not new work."""
    async with open_ledger(path, Bounds(1, 1 << 20)) as ledger:
        first = await ledger.jobs.add(keyed("k", "body"))
        assert (await ledger.jobs.add(keyed("k", "body"))).id == first.id
