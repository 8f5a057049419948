"""What is owed to callers, from the end of a job until the receiver has it."""

from __future__ import annotations

from pathlib import Path

from ledger import START, TTL, Ledger, new, open_ledger


async def test_due_when_the_job_ends(ledger: Ledger) -> None:
    """Not before; with all that the reply needs; and no longer once it is delivered."""
    job = await ledger.jobs.add(new(target=b"topic"))
    await ledger.claim()
    assert await ledger.deliveries.due("mqtt", START) == []
    assert not await ledger.deliveries.delivered(job.id)
    await ledger.jobs.finish(job.id, b"answer")
    (delivery,) = await ledger.deliveries.due("mqtt", START)
    assert (delivery.id, delivery.kind, delivery.state) == (job.id, "chat", "done")
    assert (delivery.target, delivery.result, delivery.attempts) == (b"topic", b"answer", 0)
    assert (await ledger.jobs.get(job.id)).delivery_due == START
    ledger.clock.now += 1
    assert await ledger.deliveries.delivered(job.id)
    assert not await ledger.deliveries.delivered(job.id)
    assert await ledger.deliveries.due("mqtt", START + 9) == []
    after = await ledger.jobs.get(job.id)
    assert (after.delivered, after.delivery_due) == (START + 1, None)


async def test_every_end_is_delivered(ledger: Ledger) -> None:
    """done, failed, expired and cancelled, from the queue or while running."""
    jobs = ledger.jobs
    done = await ledger.finished(target=b"t")
    failed = await jobs.add(new(target=b"t"))
    await ledger.claim()
    await jobs.fail(failed.id, "upstream_error", "no")
    stopped = await jobs.add(new(target=b"t"))
    await ledger.claim()
    await jobs.cancel(stopped.id)
    waiting = await jobs.add(new(target=b"t"))
    await jobs.cancel(waiting.id)
    late = await jobs.add(new(target=b"t", deadline=START + 1))
    await jobs.expire(START + 1)
    due = await ledger.deliveries.due("mqtt", START + 1)
    assert [d.id for d in due] == [j.id for j in (done, failed, stopped, waiting, late)]
    assert [d.state for d in due] == ["done", "failed", "cancelled", "cancelled", "expired"]
    assert (due[1].error_code, due[1].error_message) == ("upstream_error", "no")


async def test_polled_jobs_owe_nothing(ledger: Ledger) -> None:
    """A job without a target is never delivered."""
    job = await ledger.finished()
    assert await ledger.deliveries.due("mqtt", START) == []
    assert not await ledger.deliveries.delivered(job.id)
    assert not await ledger.deliveries.again(job.id)


async def test_each_door_has_its_own(ledger: Ledger) -> None:
    """What waits for a broker that is away does not stand before the webhooks."""
    for _ in range(5):
        await ledger.finished(target=b"topic")
    hook = await ledger.finished(target=b"https://", door="http")
    assert [d.id for d in await ledger.deliveries.due("http", START, limit=1)] == [hook.id]
    assert len(await ledger.deliveries.due("mqtt", START, limit=3)) == 3
    assert len(await ledger.deliveries.due("mqtt", START)) == 5


async def test_failed_deliveries_come_again_later(ledger: Ledger) -> None:
    """At the time that was asked for, with the failures counted, behind what is due already."""
    first, second = [await ledger.finished(target=b"t") for _ in range(2)]
    assert await ledger.deliveries.failed(first.id, START + 10)
    assert [d.id for d in await ledger.deliveries.due("mqtt", START + 9)] == [second.id]
    due = await ledger.deliveries.due("mqtt", START + 10)
    assert [(d.id, d.attempts) for d in due] == [(second.id, 0), (first.id, 1)]


async def test_giving_up(ledger: Ledger) -> None:
    """Nothing is owed any more, it does not count as delivered, and the result can go."""
    job = await ledger.finished(target=b"t")
    assert await ledger.deliveries.failed(job.id, None)
    assert await ledger.deliveries.due("mqtt", START + 1e6) == []
    after = await ledger.jobs.get(job.id)
    assert (after.delivered, after.delivery_due) == (None, None)
    assert (await ledger.jobs.expire(START + TTL)).removed == 1


async def test_delivered_again_on_request(ledger: Ledger) -> None:
    """A caller that asks again gets the same bytes again; not before there are any."""
    job = await ledger.jobs.add(new(target=b"t"))
    assert not await ledger.deliveries.again(job.id)
    await ledger.claim()
    await ledger.jobs.finish(job.id, b"answer")
    (first,) = await ledger.deliveries.due("mqtt", START)
    await ledger.deliveries.delivered(job.id)
    assert await ledger.deliveries.again(job.id)
    assert await ledger.deliveries.due("mqtt", START) == [first]


async def test_a_retried_job_owes_its_new_outcome(ledger: Ledger) -> None:
    """While it is queued nothing is due; its second outcome is delivered like a first one."""
    job = await ledger.jobs.add(new(target=b"t"))
    await ledger.claim()
    await ledger.jobs.fail(job.id, "upstream_error", "no")
    await ledger.deliveries.failed(job.id, START)
    await ledger.deliveries.delivered(job.id)
    await ledger.jobs.retry(job.id)
    assert await ledger.deliveries.due("mqtt", START) == []
    assert (await ledger.jobs.get(job.id)).delivered is None
    await ledger.claim()
    await ledger.jobs.finish(job.id, b"answer")
    (delivery,) = await ledger.deliveries.due("mqtt", START)
    assert (delivery.state, delivery.result, delivery.attempts) == ("done", b"answer", 0)


async def test_deliveries_survive_a_restart(path: Path) -> None:
    """What was owed is owed; what was delivered stays so."""
    async with open_ledger(path) as ledger:
        owed = await ledger.finished(target=b"t")
        sent = await ledger.finished(target=b"t")
        await ledger.deliveries.delivered(sent.id)
    async with open_ledger(path) as ledger:
        assert [d.id for d in await ledger.deliveries.due("mqtt", START)] == [owed.id]
