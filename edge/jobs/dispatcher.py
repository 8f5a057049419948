"""Durable requests on their way through the service: claimed, answered, and their results kept.

The ledger (`edge/store/`) says what there is to do; this is who does it. Owned by the event loop:
one task that claims, one for each running job. A job is run like a live request, and goes back to
the queue when nobody can answer it now. One that was tried in vain rests before it goes back, so
that it does not keep others waiting, and has failed when it was tried often enough.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence

from edge.access.meter import key_of
from edge.access.visitor import ANYBODY
from edge.audit.audit import Audit
from edge.audit.event import Asking, Event, asking
from edge.errors import (
    EdgeError,
    InternalError,
    ModelLoadFailed,
    Overloaded,
    StoreBroken,
    StoreFull,
    UpstreamError,
)
from edge.jobs.kinds import Kinds
from edge.jobs.listeners import Listeners
from edge.jobs.openings import Openings
from edge.loops import Backoff, Loop, QuietLog, delay_after
from edge.metrics import Metrics
from edge.store.job import PRIORITIES, Job, JobFacts, NewJob, State
from edge.store.jobs import Jobs
from edge.types import Part, Priority

logger = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between looks at the queue when nobody says that there is something new."""

FIRST_REST, LONGEST_REST = 2.0, 300.0
"""Seconds between two tries at one job, as they double."""


class Dispatcher:
    """`run` it in a task. The doors add, look up and cancel jobs here and not in the ledger, so
    that those who run and those who wait hear of it.

    kinds: who answers them. most_attempts: tries at a job before it has failed. audit: is told of
    those that have failed; of the others whoever answers them tells.

    Methods raise what the ledger raises: `QueueFull`, `IdempotencyKeyReused`, `JobNotFound`,
    `StoreFull`, `StoreBroken`.
    """

    def __init__(
        self,
        jobs: Jobs,
        kinds: Kinds,
        metrics: Metrics,
        most_attempts: int,
        audit: Audit | None = None,
    ) -> None:
        self.kinds = kinds
        self._jobs = jobs
        self._metrics = metrics
        self._most_attempts = most_attempts
        self._audit = audit
        self._running: dict[str, asyncio.Task[None]] = {}
        self._listeners = Listeners()
        self._openings = Openings(kinds)
        self._loop = Loop("jobs", self._turn, tick=TICK)
        self._lines: set[str] = set()
        """That have had waiting jobs, for the metrics."""

        self.queued = 0
        """Jobs that waited at the last look."""

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
            # Listen first and look then, so that an end in between is not missed.
            with self._listeners.waiting(job_id) as told:
                job = await self.get(job_id)
                if job.finished is not None:
                    return job
                # Look again in any case: a job that is past its deadline ends when it is claimed,
                # and nobody hears of that.
                await asyncio.wait({told}, timeout=TICK)

    def wake(self) -> None:
        """Look for jobs now: some were added to the ledger by other hands."""
        self._loop.wake()

    def reopen(self) -> None:
        """Look for jobs now, also for those that could not be answered a moment ago."""
        self._openings.reopen()
        self._loop.wake()

    def watch(self, ended: Callable[[str], None]) -> None:
        """Call `ended` with the id of every job that ends, or may have, from now on."""
        self._listeners.watch(ended)

    def follow(self, job_id: str, heard: Callable[[list[Part]], None]) -> None:
        """Call `heard` with the pieces of a job's answer as they come, until it ends.

        After a restart of the appliance the pieces come from the beginning again.
        """
        self._listeners.follow(job_id, heard)

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
            # Changes nothing if it has ended meanwhile.
            await self._jobs.requeue(job_id, counted=False)
        self._listeners.tell_all()

    async def _turn(self) -> None:
        """Start as many jobs as there is room for, and see to what time does to the others."""
        lines = await self._jobs.lines()
        self.queued = sum(lines.values())
        full = set(lines)
        for least in reversed(PRIORITIES):
            await self._claim(full, least)
            full -= self._openings.of(full, least).keys()
        now = time.time()
        if now >= self._upkeep_at:
            self._upkeep_at = now + TICK
            await self._upkeep(now)

    async def _claim(self, lines: Collection[str], least: Priority) -> None:
        """Start jobs of these lines that are not less urgent, while there is room for such."""
        while not self._stopped and (openings := self._openings.of(lines, least)):
            job = await self._jobs.claim(time.time(), openings, least=least)
            if job is None:
                return
            self._start(job, openings[job.line])
            if time.time() >= self._upkeep_at:  # there may be room for more without end
                self._loop.wake()
                return

    async def _upkeep(self, now: float) -> None:
        for job_id in (await self._jobs.expire(now)).ids:
            self._end(job_id)
            self._note(Event(what="job", id=job_id, status="expired"))
        counts = await self._jobs.counts()
        for state, number in counts.jobs.items():
            self._metrics.jobs.labels(state).set(number)
        waiting = await self._jobs.lines()
        self._lines |= waiting.keys()
        for line in self._lines:
            self._metrics.jobs_waiting.labels(line).set(waiting.get(line, 0))
        oldest = counts.oldest_queued
        self._metrics.job_oldest.set(now - oldest if oldest is not None else 0)

    def _start(self, job: Job, target: str) -> None:
        give_back = self._openings.take(target, job.priority)
        task = asyncio.create_task(self._run(job, give_back), name=f"job {job.id}")
        self._running[job.id] = task
        # Not only at the end of the task's own code: one that is cancelled at once runs none of it.
        task.add_done_callback(lambda task: give_back())
        task.add_done_callback(lambda task: self._done(job.id, task))

    def _done(self, job_id: str, task: asyncio.Task[None]) -> None:
        if self._running.get(job_id) is task:  # it may have been claimed once more
            del self._running[job_id]
        self._listeners.tell(job_id)
        self._loop.wake()

    async def _run(self, job: Job, give_back: Callable[[], None]) -> None:
        """Run one job to its end, its result kept; or back into the queue.

        Whoever cancels this sees to the job's state. give_back: its place, once it needs none.
        """
        error: EdgeError | None = None
        asking.set(Asking(job.client))
        try:
            answer = await self.kinds.answer(job, self._listeners.follower(job.id))
        except EdgeError as failure:
            error = failure
        except Exception:
            logger.exception("the job %s failed", job.id)
            error = InternalError("the appliance failed; its log says how")
        give_back()
        self._loop.wake()
        if error is not None:
            await self._failed(job, error)
            return
        self._openings.answered(job.line)
        await self._keep(job, lambda: self._jobs.finish(job.id, answer))

    async def _failed(self, job: Job, error: EdgeError) -> None:
        if isinstance(error, UpstreamError) and error.reached:
            await self._failed_there(job, error)
        elif error.retryable or isinstance(error, ModelLoadFailed):
            self._openings.close(job.line, error.retry_after or 0.0)
            await self._keep(job, lambda: self._jobs.requeue(job.id, counted=False))
        else:
            await self._give_up(job, error)

    async def _failed_there(self, job: Job, error: EdgeError) -> None:
        """An upstream was tried in vain: because of this job, unless the line has gone down."""
        rest = delay_after(job.attempts - 1, FIRST_REST, LONGEST_REST)
        logger.info("job %s: %s; looked at again in %.0f s", job.id, error.message, rest)
        await asyncio.sleep(rest)
        counted = self.kinds.reachable(job.line)
        if counted and job.attempts >= self._most_attempts:
            await self._give_up(job, error)
        else:
            await self._keep(job, lambda: self._jobs.requeue(job.id, counted=counted))

    async def _give_up(self, job: Job, error: EdgeError) -> None:
        await self._keep(job, lambda: self._jobs.fail(job.id, error.code, error.message))
        who = key_of(job.caller) or ANYBODY
        self._note(Event(what="job", who=who, door=job.door, id=job.id, status=error.code))

    def _note(self, event: Event) -> None:
        if self._audit is not None:
            self._audit.note(event)

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
        self._listeners.tell(job_id)


def _stopping() -> Overloaded:
    return Overloaded("the appliance is shutting down; the request is kept", retry_after=5)
