"""The job ledger: every durable request from its arrival to the removal of its result.

Jobs change state and are never popped: `queued → running → done | failed | expired | cancelled`.
Each change is a compare-and-set and says whether it took place, so that a job that was cancelled
meanwhile cannot become done. Every method returns when its change is committed, and synced unless
it says why a power cut may take it back: the next start repeats it then.
Who wakes whom is not the ledger's business: it has no events, its users poll or tell each other.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence

import msgspec

from edge.errors import DeadlineExceeded, JobNotFound
from edge.store import intake, queue, upkeep
from edge.store.database import Database
from edge.store.intake import Bounds
from edge.store.job import SELECT_FACTS, STATES, Job, JobFacts, NewJob, State, facts, find
from edge.types import Priority


class Counts(msgspec.Struct, frozen=True):
    """How much there is. `oldest_queued`: when the oldest waiting job came, epoch seconds."""

    jobs: dict[State, int]
    unfinished_bytes: int
    oldest_queued: float | None


class Expired(msgspec.Struct, frozen=True):
    """What `Jobs.expire` did: the ids whose deadline passed, and how many old jobs are gone."""

    ids: list[str]
    removed: int


class Jobs:
    """The ledger in `database`, which has to be opened with `schema.MIGRATIONS`.

    result_ttl: seconds that a finished job is kept. clock: epoch seconds, for the times on record.
    Methods raise `JobNotFound` for an unknown id, and `StoreFull` and `StoreBroken` for the disk.
    """

    def __init__(
        self,
        database: Database,
        bounds: Bounds,
        *,
        result_ttl: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._bounds = bounds
        self._result_ttl = result_ttl
        self._clock = clock

    async def add(self, new: NewJob) -> Job:
        """The queued job; or the one that came before with the same idempotency key and body.

        They can be told apart by `id`: only a job that was added has the id of `new`.
        Raises `QueueFull` and `IdempotencyKeyReused`.
        """
        now = self._clock()
        return await self._database.write(lambda c: intake.add(c, new, self._bounds, now))

    async def claim(
        self, now: float, lines: Collection[str], *, least: Priority = "batch"
    ) -> Job | None:
        """The next job of these lines, now running, its attempt counted; None if nothing waits.

        By priority; among lines and then among clients of the same priority by turns (see
        schema.py); among clients whose turn it is, and within each client, by deadline and then
        age. A job whose deadline has passed is not handed out; it expires. least: none that is
        less urgent.
        """
        while True:
            # Not synced: a power cut gives the job back to the queue, as any restart does.
            job, late = await self._database.write(
                lambda c: queue.claim(c, now, lines, least), durable=False
            )
            if job is not None or not late:
                return job
            # The outcome of these may be sent at once, so it has to stand.
            await self._database.write(lambda c: queue.expire_heads(c, now, lines, least))

    async def finish(self, job_id: str, result: bytes) -> bool:
        """running → done, with its result. False if the job was not running."""
        now = self._clock()

        def work(connection: sqlite3.Connection) -> bool:
            row = connection.execute(
                "UPDATE jobs SET state = 'done', finished = ?"
                " WHERE id = ? AND state = 'running' RETURNING seq",
                (now, job_id),
            ).fetchone()
            if row is None:
                return _unchanged(connection, job_id)
            connection.execute("INSERT INTO results (job, body) VALUES (?, ?)", (*row, result))
            return True

        return await self._database.write(work)

    async def fail(self, job_id: str, code: str, message: str) -> bool:
        """running → failed, or expired where the code says that its deadline has passed."""
        state: State = "expired" if code == DeadlineExceeded.code else "failed"
        # Lone surrogates, as an upstream's message may have, cannot be stored.
        text = message.encode("utf-8", "replace").decode()
        return await self._change(
            "UPDATE jobs SET state = ?, finished = ?, error_code = ?, error_message = ?"
            " WHERE id = ? AND state = 'running'",
            (state, self._clock(), code, text, job_id),
        )

    async def cancel(self, job_id: str) -> bool:
        """queued or running → cancelled. Whoever runs it has to be told by the caller."""
        return await self._change(
            "UPDATE jobs SET state = 'cancelled', finished = ?"
            " WHERE id = ? AND state IN ('queued', 'running')",
            (self._clock(), job_id),
        )

    async def retry(self, job_id: str) -> bool:
        """failed → queued, as if it were new: no attempts, no deadline that has passed already.

        Its outcome will be delivered again. False if it has not failed. Raises `QueueFull`.
        """
        now = self._clock()
        return await self._database.write(lambda c: retry(c, job_id, self._bounds, now))

    async def requeue(self, job_id: str, *, counted: bool) -> bool:
        """running → queued, keeping its age.

        counted: False takes the attempt back, where the job was not really tried.
        """
        # Not synced: a job that is running after a power cut goes back at boot.
        return await self._change(
            "UPDATE jobs SET state = 'queued', attempts = attempts - ?"
            " WHERE id = ? AND state = 'running'",
            (0 if counted else 1, job_id),
            durable=False,
        )

    async def requeue_running(self) -> int:
        """All running → queued, and how many: at boot, when nobody can be running them.

        Their attempts stay counted: one of them may be why the appliance died.
        """
        # Not synced: the next boot would do it again.
        return await self._database.write(
            lambda c: (
                c.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'").rowcount
            ),
            durable=False,
        )

    async def get(self, job_id: str) -> Job:
        job = await self._database.read(lambda c: find(c, job_id))
        if job is None:
            raise job_not_found(job_id)
        return job

    async def list(
        self,
        state: State | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Sequence[JobFacts]:
        """Jobs of one state or of all, the latest first, from the one after id `after` on."""
        where = "state = :state AND" if state else ""
        query = f"{SELECT_FACTS} WHERE {where} id < :after ORDER BY id DESC LIMIT :limit"
        # "g" comes after all hex digits.
        parameters = {"state": state, "after": after or "g", "limit": limit}
        rows = await self._database.read(lambda c: c.execute(query, parameters).fetchall())
        return [facts(row) for row in rows]

    async def position(self, job_id: str) -> int | None:
        """Its place in its line as it is now, 1 for the next; None if it does not wait.

        With 100,000 jobs before it 30 ms, or 200 ms if each has a client of its own: ask for one
        job that somebody wants to know about, not for all.
        """

        def work(connection: sqlite3.Connection) -> int | None:
            place = queue.position(connection, job_id)
            if place is None:
                _unchanged(connection, job_id)
            return place

        return await self._database.read(work)

    async def lines(self) -> dict[str, int]:
        """How many jobs wait in each line, of those in which any do."""
        return await self._database.read(queue.waiting)

    async def unfinished_with_key(self, scopes: str, key: str) -> Sequence[tuple[str, str]]:
        """(scope, job id) of those with this idempotency key that have not ended.

        scopes: what the scopes begin with. Goes through all keys that are kept.
        """
        query = (
            "SELECT scope, id FROM idempotency JOIN jobs ON seq = job"
            " WHERE key = :key AND substr(scope, 1, length(:scopes)) = :scopes"
            " AND finished IS NULL"
        )
        values = {"key": key, "scopes": scopes}
        return await self._database.read(lambda c: c.execute(query, values).fetchall())

    async def counts(self) -> Counts:
        return await self._database.read(_counts)

    async def expire(self, now: float) -> Expired:
        """End what is past its deadline, remove what was kept for long enough, give space back.

        A queued or running job whose deadline has passed becomes expired and its delivery due;
        whoever runs it has to be told by the caller. A finished job goes `result_ttl` after its
        end, but never while its outcome is still to be delivered. Done in small transactions, so
        that others come in between.
        """
        write = self._database.write
        ids: list[str] = []
        while some := await write(lambda c: upkeep.expire_some(c, now)):
            ids += some
        # Not synced: what comes back after a power cut is as old as before, and goes again.
        removed = 0
        before = now - self._result_ttl
        while number := await write(lambda c: upkeep.remove_some(c, before), durable=False):
            removed += number
        freed = False
        while await write(upkeep.vacuum_some, durable=False):
            freed = True
        if freed:
            await self._database.checkpoint()
        return Expired(ids, removed)

    async def _change(
        self, statement: str, parameters: tuple[object, ...], *, durable: bool = True
    ) -> bool:
        """Run the UPDATE; the job's id is the last parameter."""

        def work(connection: sqlite3.Connection) -> bool:
            if connection.execute(statement, parameters).rowcount:
                return True
            return _unchanged(connection, str(parameters[-1]))

        return await self._database.write(work, durable=durable)


def _unchanged(connection: sqlite3.Connection, job_id: str) -> bool:
    """False; `JobNotFound` if that is because there is no such job."""
    if connection.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone() is None:
        raise job_not_found(job_id)
    return False


def job_not_found(job_id: str) -> JobNotFound:
    return JobNotFound(
        f"there is no job `{job_id}`", hint="finished jobs are kept for `queue.result_ttl_seconds`"
    )


def retry(connection: sqlite3.Connection, job_id: str, bounds: Bounds, now: float) -> bool:
    """failed → queued, inside a transaction of the caller's."""
    row = connection.execute(
        "SELECT size FROM jobs WHERE id = ? AND state = 'failed'", (job_id,)
    ).fetchone()
    if row is None:
        return _unchanged(connection, job_id)
    intake.make_room(connection, row[0], bounds, now)
    connection.execute(
        "UPDATE jobs SET state = 'queued', finished = NULL, attempts = 0,"
        " error_code = NULL, error_message = NULL, deadline = iif(deadline <= ?, ?, deadline)"
        " WHERE id = ?",
        (now, math.inf, job_id),
    )
    return True


def _counts(connection: sqlite3.Connection) -> Counts:
    jobs: dict[State, int] = dict.fromkeys(STATES, 0)
    unfinished = 0
    for state, number, size in connection.execute("SELECT state, jobs, bytes FROM totals"):
        jobs[state] += number
        unfinished += size if state in ("queued", "running") else 0
    return Counts(jobs, unfinished, queue.oldest(connection))
