"""The dispatcher on a real ledger, before a service that answers as the test says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from fake_service import after_a_while, at_once, dispatching, failing, never, until

from edge.errors import (
    DeadlineExceeded,
    EdgeError,
    JobNotFound,
    ModelLoadFailed,
    ModelLoading,
    ModelNotFound,
    Overloaded,
    UpstreamError,
)
from edge.jobs import dispatcher as dispatcher_module
from edge.jobs.dispatcher import Dispatcher
from edge.store.job import Job, NewJob
from edge.types import Pace, Part, Request


def new(line: str = "auto small", **fields: Any) -> NewJob:
    body = {"messages": [{"role": "user", "content": "Hi"}]} | fields.pop("body", {})
    request = json.dumps(body).encode()
    return NewJob(line=line, client="c", door="http", kind="chat", request=request, **fields)


async def outcome(dispatcher: Dispatcher, **fields: Any) -> Job:
    job = await dispatcher.add(new(**fields))
    return await asyncio.wait_for(dispatcher.finished(job.id), 10)


async def test_an_answer_is_kept(tmp_path: Path) -> None:
    """As the chat completion that a live request would have got."""
    async with dispatching(tmp_path, at_once) as (dispatcher, _):
        job = await outcome(dispatcher)
    assert job.state == "done"
    answer = json.loads(job.result or b"")
    assert answer["choices"][0]["message"]["content"] == "Hello"
    assert answer["model"] == "small"
    assert answer["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize(
    "error",
    [Overloaded("no", retry_after=1), ModelLoading("no", retry_after=1), ModelLoadFailed("")],
)
async def test_what_time_may_mend_is_tried_again(tmp_path: Path, error: EdgeError) -> None:
    """Back into the queue, as often as it takes; those were no tries at the job."""
    error.retry_after = error.retry_after and 0.01
    async with dispatching(tmp_path, failing(error, error, error)) as (dispatcher, _):
        job = await outcome(dispatcher)
    assert (job.state, job.attempts) == ("done", 1)


async def test_job_that_was_tried_often_enough_has_failed(tmp_path: Path) -> None:
    """With the last error of whoever tried; others are answered meanwhile, and it can be tried
    again by hand."""
    errors = [UpstreamError(f"garbage {number}") for number in range(3)]
    async with dispatching(tmp_path, at_once) as (dispatcher, service):
        service.behaviour = failing(*errors)
        dispatcher._most_attempts = 3
        job = await outcome(dispatcher)
        assert (job.state, job.attempts) == ("failed", 3)
        assert (job.error_code, job.error_message) == ("upstream_error", "garbage 2")
        assert await dispatcher.retry(job.id)
        assert (await dispatcher.finished(job.id)).state == "done"


async def test_resting_job_keeps_nobody_waiting(tmp_path: Path, monkeypatch: Any) -> None:
    """Its place is given to the next one of the same client."""
    monkeypatch.setattr(dispatcher_module, "FIRST_REST", 1000.0)
    async with dispatching(tmp_path, failing(UpstreamError("garbage")), slots=1) as (dispatcher, _):
        poison = await dispatcher.add(new())
        assert (await outcome(dispatcher)).state == "done"
        assert (await dispatcher.get(poison.id)).state == "running"
        assert await dispatcher.cancel(poison.id)


async def test_unreached_upstream_is_no_try(tmp_path: Path) -> None:
    """The link was down: the job waits as long as that takes."""
    error = UpstreamError("refused")
    error.reached = False
    async with dispatching(tmp_path, failing(*[error] * 9)) as (dispatcher, _):
        job = await outcome(dispatcher)
    assert (job.state, job.attempts) == ("done", 1)


async def test_lines_do_not_hold_each_other_up(tmp_path: Path) -> None:
    """Jobs wait for who can answer them; what nobody knows a way for any more fails."""
    async with dispatching(tmp_path, at_once) as (dispatcher, service):
        service.closed.add("cloud far")
        waits = await dispatcher.add(new(line="cloud far"))
        assert (await outcome(dispatcher)).state == "done"
        assert (await dispatcher.get(waits.id)).state == "queued"
        service.behaviour = failing(ModelNotFound("gone"))
        lost = await outcome(dispatcher, line="gone")
        assert (lost.state, lost.error_code) == ("failed", "model_not_found")
        service.closed.clear()
        dispatcher.reopen()
        assert (await dispatcher.finished(waits.id)).state == "done"


async def test_what_it_will_not_mend_is_the_outcome(tmp_path: Path) -> None:
    """The error of the service is the job's; an unknown field of an older version's body too."""
    async with dispatching(tmp_path, failing(JobNotFound("lost"))) as (dispatcher, _):
        job = await outcome(dispatcher)
        assert (job.state, job.error_code, job.error_message) == ("failed", "job_not_found", "lost")
        job = await outcome(dispatcher, body={"gone": 1})
        assert (job.state, job.error_code) == ("failed", "invalid_request_error")


async def test_a_bug_is_an_error_of_the_job(tmp_path: Path) -> None:
    """The next one is served."""

    async def broken(request: Request) -> AsyncGenerator[list[Part], None]:
        raise ZeroDivisionError
        yield []

    async with dispatching(tmp_path, broken) as (dispatcher, service):
        assert (await outcome(dispatcher)).error_code == "internal_error"
        service.behaviour = at_once
        assert (await outcome(dispatcher)).state == "done"


async def test_deadlines(tmp_path: Path) -> None:
    """What is left of it goes with the request; when it has passed, the job has expired."""
    async with dispatching(tmp_path, at_once) as (dispatcher, service):
        await outcome(dispatcher, deadline=time.time() + 50)
        assert 40 < (service.requests[0].deadline or 0) <= 50
        assert (await outcome(dispatcher, deadline=time.time() - 1)).state == "expired"
        service.behaviour = failing(DeadlineExceeded("late"))
        assert (await outcome(dispatcher, deadline=time.time() + 50)).state == "expired"
        service.behaviour = never
        assert (await outcome(dispatcher, deadline=time.time() + 0.1)).state == "expired"
        await until(lambda: not service.live)


async def test_cancelling_what_runs(tmp_path: Path) -> None:
    """The work for it ends too."""
    async with dispatching(tmp_path, never) as (dispatcher, service):
        job = await dispatcher.add(new())
        await until(lambda: service.live)
        assert await dispatcher.cancel(job.id)
        assert (await dispatcher.finished(job.id)).state == "cancelled"
        await until(lambda: not service.live)
        assert not await dispatcher.cancel(job.id)


async def test_cancelling_what_has_just_been_claimed(tmp_path: Path) -> None:
    """A task that is cancelled before its first step gives its slot back too."""
    async with dispatching(tmp_path, at_once, slots=0) as (dispatcher, service):
        job = await dispatcher.add(new())
        dispatcher._start(job, service.name)
        dispatcher._end(job.id)
        await until(lambda: not dispatcher._running)
        service.slots = 2
        assert (await dispatcher.finished(job.id)).state == "done"


async def test_stopping_gives_work_back(tmp_path: Path) -> None:
    """What runs is queued again, those who wait are told, and the next start answers it."""
    async with dispatching(tmp_path, never) as (dispatcher, service):
        job = await dispatcher.add(new())
        await until(lambda: service.live)
        waiting = asyncio.create_task(dispatcher.finished(job.id))
        await asyncio.sleep(0)
        await dispatcher.stop()
        with pytest.raises(Overloaded):
            await waiting
        assert (await dispatcher.get(job.id)).state == "queued"
    async with dispatching(tmp_path, at_once) as (dispatcher, _):
        assert (await dispatcher.finished(job.id)).state == "done"


async def test_a_slot_is_left_to_live_requests(tmp_path: Path) -> None:
    """All but one run at once, and none while live requests have them all."""
    async with dispatching(tmp_path, after_a_while, slots=4) as (dispatcher, service):
        await asyncio.gather(*(outcome(dispatcher) for _ in range(12)))
        assert service.most == 3
        service.live = 4
        job = await dispatcher.add(new())
        await asyncio.sleep(0.1)
        assert (await dispatcher.get(job.id)).state == "queued"
        service.live = 0
        assert (await dispatcher.finished(job.id)).state == "done"


async def test_critical_job_does_not_wait_for_room(tmp_path: Path) -> None:
    """It begins while others have all the places there are; whose slot it gets is the engine's
    business."""
    async with dispatching(tmp_path, never, slots=2) as (dispatcher, service):
        for _ in range(3):
            await dispatcher.add(new(priority="batch"))
        await until(lambda: service.live == 1)
        service.behaviour = at_once
        alarm = await outcome(dispatcher, priority="critical")
        assert alarm.state == "done"
        assert service.live == 1


async def test_what_heat_holds_back_waits_and_holds_up_nobody(tmp_path: Path) -> None:
    """Batch jobs first, then all that are not critical; they are done when it is over."""
    async with dispatching(tmp_path, at_once, slots=2) as (dispatcher, service):
        service.heat.held = {"batch"}
        report = await dispatcher.add(new(priority="batch"))
        assert (await outcome(dispatcher)).state == "done"
        service.heat.held = {"batch", "normal"}
        question = await dispatcher.add(new())
        assert (await outcome(dispatcher, priority="critical")).state == "done"
        for job in (report, question):
            waiting = await dispatcher.get(job.id)
            assert (waiting.state, waiting.attempts) == ("queued", 0)
            assert dispatcher.kinds.obstacle(waiting) == "too hot"
        service.heat.held = set()
        assert (await dispatcher.finished(report.id)).state == "done"
        assert (await dispatcher.finished(question.id)).state == "done"


async def test_fewer_batch_jobs_at_once_leave_room_for_others(tmp_path: Path) -> None:
    """Half of the places that they would have."""
    async with dispatching(tmp_path, never, slots=9) as (dispatcher, service):
        service.heat.pace = Pace(batch_slots=0.5)
        for _ in range(8):
            await dispatcher.add(new(priority="batch"))
        await until(lambda: service.live == 4)
        for _ in range(4):
            await dispatcher.add(new())
        await until(lambda: service.live == 8)
        running = [job.priority for job in await dispatcher.recent("running")]
        assert sorted(running) == ["batch"] * 4 + ["normal"] * 4


async def test_what_others_answer_is_not_held_back(tmp_path: Path) -> None:
    """It makes no heat here."""
    async with dispatching(tmp_path, at_once) as (dispatcher, service):
        service.heat.held, service.route = {"batch", "normal"}, "cloud"
        assert (await outcome(dispatcher, priority="batch")).state == "done"


async def test_followers_and_watchers(tmp_path: Path) -> None:
    """Pieces come as they are made, and the end is told."""
    heard: list[str] = []
    ended: list[str] = []
    async with dispatching(tmp_path, at_once) as (dispatcher, _):
        dispatcher.watch(ended.append)
        job = new()
        dispatcher.follow(job.id, lambda parts: heard.extend(type(p.event).__name__ for p in parts))
        await dispatcher.add(job)
        await dispatcher.finished(job.id)
    assert heard == ["Delta", "Finished"]
    assert ended == [job.id]
