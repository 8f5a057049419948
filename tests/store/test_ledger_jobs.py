"""The life of a job: its states, what each change keeps, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledger import LINE, START, TTL, Ledger, log_of, new, open_ledger, size

from edge.errors import JobNotFound, QueueFull
from edge.store.intake import Bounds
from edge.store.job import new_id


async def test_a_job_keeps_what_it_was_given(ledger: Ledger) -> None:
    """Every field comes back, bytes as they were."""
    given = new(
        line="auto \x00 ü",
        client="plc/\x00 7 ü",
        door="http",
        kind="response",
        request=bytes(256),
        priority="critical",
        deadline=START + 5,
        target=b"\xff\x00topic",
    )
    for job in (await ledger.jobs.add(given), await ledger.jobs.get(given.id)):
        assert (job.id, job.client, job.door, job.kind) == (
            given.id,
            given.client,
            "http",
            "response",
        )
        assert job.line == "auto \x00 ü"
        assert (job.request, job.target, job.result) == (bytes(256), b"\xff\x00topic", None)
        assert (job.priority, job.deadline, job.state) == ("critical", START + 5, "queued")
        assert (job.created, job.started, job.finished) == (START, None, None)
        assert (job.attempts, job.size) == (0, 256 + 7)
        assert (job.error_code, job.delivery_due, job.delivered) == (None, None, None)


async def test_from_queue_to_result(ledger: Ledger) -> None:
    """queued, running with its attempt counted, done with its result."""
    added = await ledger.jobs.add(new())
    assert added.deadline is None
    ledger.clock.now += 1
    claimed = await ledger.claim()
    assert (claimed.id, claimed.state, claimed.attempts) == (added.id, "running", 1)
    assert (claimed.started, claimed.request) == (START + 1, b"request")
    assert await ledger.jobs.claim(START, [LINE]) is None
    ledger.clock.now += 1
    assert await ledger.jobs.finish(added.id, b"\x00answer")
    done = await ledger.jobs.get(added.id)
    assert (done.state, done.result, done.finished) == ("done", b"\x00answer", START + 2)


async def test_a_cancelled_job_cannot_become_done(ledger: Ledger) -> None:
    """The result that comes too late is refused, and nothing of it is kept."""
    job = await ledger.jobs.add(new())
    await ledger.claim()
    assert await ledger.jobs.cancel(job.id)
    assert not await ledger.jobs.finish(job.id, b"late")
    assert not await ledger.jobs.fail(job.id, "internal_error", "late")
    assert not await ledger.jobs.requeue(job.id, counted=True)
    after = await ledger.jobs.get(job.id)
    assert (after.state, after.result, after.error_code) == ("cancelled", None, None)


async def test_only_a_running_job_can_end(ledger: Ledger) -> None:
    """A queued job has nobody who could finish it."""
    job = await ledger.jobs.add(new())
    assert not await ledger.jobs.finish(job.id, b"")
    assert not await ledger.jobs.fail(job.id, "internal_error", "no")
    assert not await ledger.jobs.requeue(job.id, counted=True)
    assert not await ledger.jobs.retry(job.id)
    assert (await ledger.jobs.get(job.id)).state == "queued"


async def test_a_finished_job_stays_as_it_is(ledger: Ledger) -> None:
    """Done is done: no second result, no cancelling, no failing."""
    job = await ledger.finished()
    assert not await ledger.jobs.finish(job.id, b"other")
    assert not await ledger.jobs.cancel(job.id)
    assert not await ledger.jobs.fail(job.id, "internal_error", "no")
    assert not await ledger.jobs.retry(job.id)
    assert await ledger.jobs.get(job.id) == job


async def test_failing_keeps_the_error(ledger: Ledger) -> None:
    """Code and message can be read; what cannot be stored as text is replaced."""
    job = await ledger.jobs.add(new())
    await ledger.claim()
    assert await ledger.jobs.fail(job.id, "upstream_error", "bad \udc80 answer")
    after = await ledger.jobs.get(job.id)
    assert (after.state, after.error_code) == ("failed", "upstream_error")
    assert after.error_message == "bad ? answer"


async def test_missing_the_deadline_while_running_is_expiry(ledger: Ledger) -> None:
    """The router's own deadline error ends the job as expired, not as failed."""
    job = await ledger.jobs.add(new(deadline=START + 1))
    await ledger.claim()
    assert await ledger.jobs.fail(job.id, "deadline_exceeded", "too late")
    assert (await ledger.jobs.get(job.id)).state == "expired"


async def test_a_retried_job_is_like_new(ledger: Ledger) -> None:
    """No attempts, error or passed deadline; it is claimed and done."""
    job = await ledger.jobs.add(new(deadline=START + 10))
    await ledger.claim()
    await ledger.jobs.fail(job.id, "worker_crashed", "twice")
    ledger.clock.now += 20
    assert await ledger.jobs.retry(job.id)
    again = await ledger.jobs.get(job.id)
    assert (again.state, again.attempts) == ("queued", 0)
    assert (again.error_code, again.error_message, again.finished) == (None, None, None)
    assert again.deadline is None
    assert (await ledger.claim()).id == job.id
    assert await ledger.jobs.finish(job.id, b"now")


async def test_retrying_keeps_a_deadline_to_come(ledger: Ledger) -> None:
    """Only a deadline that has passed is dropped."""
    job = await ledger.jobs.add(new(deadline=START + 10))
    await ledger.claim()
    await ledger.jobs.fail(job.id, "upstream_error", "no")
    assert await ledger.jobs.retry(job.id)
    assert (await ledger.jobs.get(job.id)).deadline == START + 10


async def test_retrying_keeps_to_the_bounds(path: Path) -> None:
    """A full queue takes no failed job back."""
    async with open_ledger(path, Bounds(1, 1000)) as ledger:
        job = await ledger.jobs.add(new())
        await ledger.claim()
        await ledger.jobs.fail(job.id, "upstream_error", "no")
        await ledger.jobs.add(new())
        with pytest.raises(QueueFull):
            await ledger.jobs.retry(job.id)
        assert (await ledger.jobs.get(job.id)).state == "failed"


async def test_requeued_jobs_come_first_again(ledger: Ledger) -> None:
    """A job that goes back keeps its age and its attempts."""
    first, second = [await ledger.jobs.add(new()) for _ in range(2)]
    assert (await ledger.claim()).id == first.id
    assert await ledger.jobs.requeue(first.id, counted=True)
    again = await ledger.claim()
    assert (again.id, again.attempts) == (first.id, 2)
    assert (await ledger.claim()).id == second.id


async def test_an_attempt_that_was_none(ledger: Ledger) -> None:
    """It is taken back with the claim, so that attempts are tries."""
    job = await ledger.jobs.add(new())
    for counted, attempts in ((True, 1), (False, 1), (False, 1), (True, 2)):
        await ledger.claim()
        assert await ledger.jobs.requeue(job.id, counted=counted)
        assert (await ledger.jobs.get(job.id)).attempts == attempts


async def test_running_jobs_go_back_at_boot(path: Path) -> None:
    """After a restart nothing runs, and what ran is queued with its attempts."""
    async with open_ledger(path) as ledger:
        jobs = [await ledger.jobs.add(new()) for _ in range(5)]
        for _ in range(3):
            await ledger.claim()
        await ledger.jobs.finish(jobs[1].id, b"done")
    async with open_ledger(path) as ledger:
        assert await ledger.jobs.requeue_running() == 2
        assert await ledger.jobs.requeue_running() == 0
        after = [await ledger.jobs.get(job.id) for job in jobs]
        assert [job.state for job in after] == ["queued", "done", "queued", "queued", "queued"]
        assert [job.attempts for job in after] == [1, 1, 1, 0, 0]
        assert (await ledger.claim()).id == jobs[0].id


async def test_unknown_jobs_are_not_found(ledger: Ledger) -> None:
    """Every method that names a job says so."""
    jobs, id_ = ledger.jobs, new_id()
    calls = [jobs.get(id_), jobs.cancel(id_), jobs.finish(id_, b""), jobs.fail(id_, "a", "b")]
    calls += [jobs.retry(id_), jobs.requeue(id_, counted=True), jobs.position(id_)]
    calls += [ledger.deliveries.delivered(id_), ledger.deliveries.failed(id_, 1.0)]
    for call in (*calls, ledger.deliveries.again(id_)):
        with pytest.raises(JobNotFound, match=id_):
            await call


def test_ids_sort_by_time_and_cannot_be_guessed() -> None:
    """Later ids are greater, and half of each is random."""
    ids = [new_id() for _ in range(10_000)]
    assert len({id_[14:] for id_ in ids}) == len(ids)
    assert all(len(id_) == 32 for id_ in ids)
    times = [id_[:14] for id_ in ids]
    assert times == sorted(times)


async def test_listing_by_state_in_pages(ledger: Ledger) -> None:
    """The latest first, page after page, each job once, whatever is removed between."""
    ids = [(await ledger.jobs.add(new())).id for _ in range(10)]
    ids.sort(reverse=True)
    claimed = [(await ledger.claim()).id for _ in range(4)]
    listed = await ledger.jobs.list()
    assert [job.id for job in listed] == ids
    assert [job.id for job in await ledger.jobs.list("running")] == sorted(claimed, reverse=True)
    assert await ledger.jobs.list("failed") == []
    pages, listed, after = [], [], None
    while page := await ledger.jobs.list(limit=3, after=after):
        pages.append(len(page))
        listed += page
        after = page[-1].id
    assert pages == [3, 3, 3, 1]
    assert [job.id for job in listed] == ids
    assert await ledger.jobs.list("queued", after=ids[-1]) == []


async def test_counts(ledger: Ledger) -> None:
    """By state, with the bytes that count against the bound and the oldest that waits."""
    empty = await ledger.jobs.counts()
    assert set(empty.jobs.values()) == {0}
    assert (empty.unfinished_bytes, empty.oldest_queued) == (0, None)
    for number in range(5):
        ledger.clock.now = START + number
        await ledger.jobs.add(new(request=b"x" * 10, priority="batch" if number else "normal"))
    done = await ledger.claim()
    await ledger.jobs.finish(done.id, b"r" * 1000)
    await ledger.claim()
    counts = await ledger.jobs.counts()
    ended = {"done": 1, "failed": 0, "expired": 0, "cancelled": 0}
    assert counts.jobs == {"queued": 3, "running": 1, **ended}
    assert (counts.unfinished_bytes, counts.oldest_queued) == (40, START + 2)


async def test_deadlines_pass(ledger: Ledger) -> None:
    """Queued and running jobs expire when their time has come, others do not."""
    running = await ledger.jobs.add(new(deadline=START + 1))
    await ledger.claim()
    queued = await ledger.jobs.add(new(deadline=START + 2))
    later = await ledger.jobs.add(new(deadline=START + 30))
    never = await ledger.jobs.add(new())
    assert (await ledger.jobs.expire(START + 0.5)).ids == []
    assert set((await ledger.jobs.expire(START + 2)).ids) == {running.id, queued.id}
    assert (await ledger.jobs.expire(START + 2)).ids == []
    states = [(await ledger.jobs.get(j.id)).state for j in (running, queued, later, never)]
    assert states == ["expired", "expired", "queued", "queued"]
    after = await ledger.jobs.get(queued.id)
    assert (after.error_code, after.finished) == ("deadline_exceeded", START + 2)
    assert not await ledger.jobs.finish(running.id, b"late")


async def test_an_expired_job_is_not_claimed(ledger: Ledger) -> None:
    """Claiming passes over any number of dead jobs, and they are expired, not lost."""
    dead = [await ledger.jobs.add(new(deadline=START + 1)) for _ in range(100)]
    alive = await ledger.jobs.add(new())
    claimed = await ledger.jobs.claim(START + 1, [LINE])
    assert claimed is not None
    assert claimed.id == alive.id
    assert await ledger.jobs.claim(START + 1, [LINE]) is None
    assert (await ledger.jobs.counts()).jobs["expired"] == len(dead)


async def test_results_are_removed_after_their_time(ledger: Ledger) -> None:
    """Polled and delivered results go after the ttl; the idempotency key and the rest with them."""
    polled = await ledger.finished()
    sent = await ledger.finished(target=b"topic")
    await ledger.deliveries.delivered(sent.id)
    owed = await ledger.finished(target=b"topic")
    queued = await ledger.jobs.add(new())
    assert (await ledger.jobs.expire(START + TTL - 1)).removed == 0
    assert (await ledger.jobs.expire(START + TTL)).removed == 2
    for gone in (polled, sent):
        with pytest.raises(JobNotFound):
            await ledger.jobs.get(gone.id)
    assert (await ledger.jobs.get(owed.id)).result == b"result"
    assert (await ledger.jobs.get(queued.id)).state == "queued"
    await ledger.deliveries.delivered(owed.id)
    assert (await ledger.jobs.expire(START + TTL)).removed == 1

    def rows(connection) -> list[int]:
        tables = ("jobs", "requests", "results", "deliveries")
        return [connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables]

    assert await ledger.database.read(rows) == [1, 1, 0, 0]


async def test_space_is_given_back(ledger: Ledger, path: Path) -> None:
    """The file shrinks when old results are removed, to little more than what is left."""
    for _ in range(300):
        job = await ledger.jobs.add(new(request=bytes(30_000)))
        await ledger.jobs.cancel(job.id)
    await ledger.database.checkpoint()
    assert size(path) > 8_000_000
    assert (await ledger.jobs.expire(START + TTL)).removed == 300
    assert size(path) < 1_500_000
    assert size(log_of(path)) == 0
    # What is left works.
    assert (await ledger.finished()).state == "done"
