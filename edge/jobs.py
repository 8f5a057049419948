"""Durable requests on their way through the service: claimed, answered, and their results kept.

The ledger (`edge/store/`) says what there is to do; this is who does it. Owned by the event loop:
one task that claims, one for each running job. A job is run like a live request, leaves one slot
to those, and goes back to the queue when the appliance cannot answer it now.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from edge.errors import (
    EdgeError,
    InternalError,
    ModelLoadFailed,
    Overloaded,
    StoreBroken,
    StoreFull,
)
from edge.loops import Backoff, Loop, QuietLog
from edge.metrics import Metrics
from edge.openai import ask, render
from edge.openai.ask import Body
from edge.openai.collect import collect
from edge.service import Service
from edge.store.job import Door, Job, JobFacts, NewJob, State, new_id
from edge.store.jobs import Jobs
from edge.types import Part, Trail

logger = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between looks at the queue when nobody says that there is something new."""

LINE = "local"
"""Where all jobs wait."""


class Dispatcher:
    """`run` it in a task. The doors add, look up and cancel jobs here and not in the ledger, so
    that those who run and those who wait hear of it.

    Methods raise what the ledger raises: `QueueFull`, `IdempotencyKeyReused`, `JobNotFound`,
    `StoreFull`, `StoreBroken`.
    """

    def __init__(self, jobs: Jobs, service: Service, metrics: Metrics) -> None:
        self._jobs = jobs
        self._service = service
        self._metrics = metrics
        self._running: dict[str, asyncio.Task[None]] = {}
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._watchers: list[Callable[[str], None]] = []
        self._followers: dict[str, Callable[[list[Part]], None]] = {}
        self._loop = Loop("jobs", self._turn, tick=TICK)
        self._backoff = Backoff(first=1.0)
        self._not_before = 0.0
        self._upkeep_at = 0.0
        self._stopped = False

    async def add(self, new: NewJob) -> Job:
        """Keep it on disk. The job that is returned has the id of `new` unless it was there."""
        job = await self._jobs.add(new)
        self._loop.wake()
        return job

    async def get(self, job_id: str) -> Job:
        return await self._jobs.get(job_id)

    async def position(self, job_id: str) -> int | None:
        """Its place in the queue, 1 for the next; None if it does not wait."""
        return await self._jobs.position(job_id)

    async def recent(
        self, state: State | None = None, limit: int = 100, after: str | None = None
    ) -> Sequence[JobFacts]:
        """Of one state or of all, the latest first; `after` is the last id of the page before."""
        return await self._jobs.list(state, limit, after)

    async def cancel(self, job_id: str) -> bool:
        """Stop it wherever it is; False if it had ended before."""
        changed = await self._jobs.cancel(job_id)
        if changed:
            self._end(job_id)
        return changed

    async def retry(self, job_id: str) -> bool:
        """Queue a failed job again; False if it has not failed."""
        changed = await self._jobs.retry(job_id)
        self._loop.wake()
        return changed

    async def finished(self, job_id: str) -> Job:
        """The job, once it has ended. Raises `Overloaded` when the appliance stops before."""
        while True:
            if self._stopped:
                raise _stopping()
            waiter = asyncio.get_running_loop().create_future()
            # Listen first and look then, so that an end in between is not missed.
            self._waiters.setdefault(job_id, []).append(waiter)
            try:
                job = await self.get(job_id)
                if job.finished is not None:
                    return job
                # Look again in any case: a job that is past its deadline ends when it is claimed,
                # and nobody hears of that.
                await asyncio.wait({waiter}, timeout=TICK)
            finally:
                waiters = self._waiters[job_id]
                waiters.remove(waiter)
                if not waiters:
                    del self._waiters[job_id]

    def wake(self) -> None:
        """Look for jobs now: some were added to the ledger by other hands."""
        self._loop.wake()

    def watch(self, ended: Callable[[str], None]) -> None:
        """Call `ended` with the id of every job that ends, or may have, from now on."""
        self._watchers.append(ended)

    def follow(self, job_id: str, heard: Callable[[list[Part]], None]) -> None:
        """Call `heard` with the pieces of a job's answer as they come, until it ends.

        After a restart of the appliance the pieces come from the beginning again.
        """
        self._followers[job_id] = heard

    async def run(self) -> None:
        """Claim and answer jobs until `stop`. What an earlier process left running is claimed
        again."""
        returned = await self._jobs.requeue_running()
        if returned:
            logger.info("%d jobs that were running go on", returned)
        await self._loop.run()

    async def stop(self) -> None:
        """Claim nothing more, and give what runs back to the queue."""
        self._stopped = True
        self._loop.stop()
        running = dict(self._running)
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)
        for job_id in running:
            await self._jobs.requeue(
                job_id, counted=True
            )  # changes nothing if it has ended meanwhile
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _turn(self) -> None:
        """Expire what is late, then start as many jobs as there is room for."""
        now = time.time()
        if now >= self._upkeep_at:
            self._upkeep_at = now + TICK
            await self._upkeep(now)
        while not self._stopped and now >= self._not_before and self._room():
            job = await self._jobs.claim(now, (LINE,))
            if job is None:
                break
            self._start(job)

    async def _upkeep(self, now: float) -> None:
        for job_id in (await self._jobs.expire(now)).ids:
            self._end(job_id)
        counts = await self._jobs.counts()
        for state, number in counts.jobs.items():
            self._metrics.jobs.labels(state).set(number)
        oldest = counts.oldest_queued
        self._metrics.job_oldest.set(now - oldest if oldest is not None else 0)

    def _start(self, job: Job) -> None:
        task = asyncio.create_task(self._answer(job), name=f"job {job.id}")
        self._running[job.id] = task
        # Not at the end of the task's own code: a task that is cancelled at once runs none of it.
        task.add_done_callback(lambda task: self._done(job.id, task))

    def _done(self, job_id: str, task: asyncio.Task[None]) -> None:
        if self._running.get(job_id) is task:  # it may have been claimed once more
            del self._running[job_id]
        self._tell(job_id)
        self._loop.wake()

    def _room(self) -> bool:
        """True while another job can have a slot and leave one to live requests."""
        slots = self._service.slots
        return len(self._running) < max(1, slots - 1) and self._service.live < slots

    async def _answer(self, job: Job) -> None:
        """Run one job to its end, its result kept; or back into the queue.

        Whoever cancels this sees to the job's state.
        """
        try:
            answer = await self._generate(job)
            await self._keep(job, lambda: self._jobs.finish(job.id, answer))
            self._backoff.reset()
        except EdgeError as error:
            await self._failed(job, error)
        except Exception:
            logger.exception("the job %s failed", job.id)
            await self._failed(job, InternalError("the appliance failed; its log says how"))

    async def _generate(self, job: Job) -> bytes:
        body = ask.decode(job.kind, job.request)
        request, shape = ask.ask(body, job.id)
        if request.route == "queue":  # it has been there
            request.route = "auto"
        request.deadline = None if job.deadline is None else max(0.0, job.deadline - time.time())
        request.kept = True
        trail = Trail()
        answer = await collect(
            self._service.generate(request, job.door, trail),
            request,
            shape,
            trail=trail,
            created=job.created,
            heard=self._followers.get(job.id),
        )
        return render.encode(answer)

    async def _failed(self, job: Job, error: EdgeError) -> None:
        if not (error.retryable or isinstance(error, ModelLoadFailed)):
            await self._keep(job, lambda: self._jobs.fail(job.id, error.code, error.message))
            return
        self._not_before = time.time() + self._backoff.next()
        await self._keep(job, lambda: self._jobs.requeue(job.id, counted=True))

    async def _keep(self, job: Job, write: Callable[[], Awaitable[bool]]) -> None:
        """Write what became of a job; while the disk refuses, it is tried again and again."""
        backoff, log = Backoff(first=0.2, cap=10.0), QuietLog(f"the outcome of job {job.id}")
        while True:
            try:
                await write()
            except (StoreFull, StoreBroken) as error:
                log.error(error)
                await asyncio.sleep(backoff.next())
            else:
                log.recovered()
                return

    def _end(self, job_id: str) -> None:
        """It has ended while it may be running here."""
        if task := self._running.get(job_id):
            task.cancel()
        self._tell(job_id)

    def _tell(self, job_id: str) -> None:
        """Wake those that wait for it to look again."""
        self._followers.pop(job_id, None)
        for ended in self._watchers:
            ended(job_id)
        for waiter in self._waiters.get(job_id, []):
            if not waiter.done():
                waiter.set_result(None)


def new_job(
    service: Service,
    body: Body,
    *,
    client: str,
    door: Door,
    job_id: str | None = None,
    target: bytes | None = None,
) -> NewJob:
    """The job for a request, which is refused if anything can be found wrong with it now.

    Raises `InvalidRequest`, `ModelNotFound` and `NoRoute`.
    """
    job_id = job_id or new_id()
    request, _ = ask.ask(body, job_id)
    service.check(request)
    return NewJob(
        id=job_id,
        line=LINE,
        client=client,
        door=door,
        kind=ask.kind_of(body),
        request=ask.encode(body),
        priority=request.priority,
        deadline=None if request.deadline is None else time.time() + request.deadline,
        target=target,
    )


def _stopping() -> Overloaded:
    return Overloaded("the appliance is shutting down; the request is kept", retry_after=5)
