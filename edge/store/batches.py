"""Batches in the ledger: what was asked for, how far it has come, and how it ended.

    validating → in_progress → finalizing → completed | expired | failed
        │            └────────→ cancelling → cancelled
        └→ failed

Each change is a compare-and-set and says whether it took place. A line becomes a job in the same
transaction that notes how far the file was read, so that a crash neither loses nor repeats one.
The job owes a delivery until the batch has its output: it is not removed before.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence

import msgspec

from edge.errors import BatchNotFound, IdempotencyKeyReused, QueueFull
from edge.store import files, intake
from edge.store.batch import PREFIX, SELECT, Batch, Ending, Feed, NewBatch, Outcome
from edge.store.database import Database
from edge.store.files import OWNED, FileFacts, Owners, owned
from edge.store.intake import Bounds
from edge.store.job import PRIORITIES
from edge.store.jobs import retry

MOST_UNFINISHED = 256
"""Batches that have not ended; more are refused."""

_SOME_LINES = 200
_SOME_BATCHES = 20


class Batches:
    """The batches of the ledger in `database`. bounds: of the queue, which a batch respects.

    ttl: seconds that a batch is known after its end.
    Methods raise `BatchNotFound` for an unknown id, and `StoreFull` and `StoreBroken`.
    """

    def __init__(
        self,
        database: Database,
        bounds: Bounds,
        *,
        ttl: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        # A line that finds no room waits in its file. It drops no other work.
        self._bounds = msgspec.structs.replace(bounds, when_full="reject")
        self._ttl = ttl
        self._clock = clock

    async def add(self, new: NewBatch, owners: Owners = None) -> Batch:
        """The new batch; or the one that came before with the same key and digest.

        owners: whose files may be its input.

        Raises `FileNotFound`, `QueueFull` and `IdempotencyKeyReused`.
        """
        now = self._clock()
        return await self.get(await self._database.write(lambda c: _add(c, new, owners, now)))

    async def get(self, batch_id: str, owners: Owners = None) -> Batch:
        query, values = f"{SELECT} WHERE id = ? AND {OWNED}", (batch_id, *owned(owners))
        row = await self._database.read(lambda c: c.execute(query, values).fetchone())
        if row is None:
            raise BatchNotFound(f"there is no batch `{batch_id}`")
        return Batch(*row)

    async def list(
        self, limit: int = 20, after: str | None = None, owners: Owners = None
    ) -> Sequence[Batch]:
        """The latest first, from the one after id `after` on."""
        query = f"{SELECT} WHERE id < ? AND {OWNED} ORDER BY id DESC LIMIT ?"
        values = (after or f"{PREFIX}g", *owned(owners), limit)
        rows = await self._database.read(lambda c: c.execute(query, values).fetchall())
        return [Batch(*row) for row in rows]

    async def unfinished(self) -> Sequence[Batch]:
        """Those that have not ended, the oldest first."""
        query = f"{SELECT} WHERE ended IS NULL ORDER BY id"
        rows = await self._database.read(lambda c: c.execute(query).fetchall())
        return [Batch(*row) for row in rows]

    async def start(self, batch_id: str, total: int) -> bool:
        """validating → in_progress, its lines counted."""
        return await self._change(
            "status = 'in_progress', total = ?, started = ?",
            "status = 'validating'",
            batch_id,
            (total, self._clock()),
        )

    async def reject(self, batch_id: str, errors: str) -> bool:
        """validating → failed, with what is wrong with its file as JSON."""
        return await self._change(
            "status = 'failed', errors = ?, ended = ?",
            "status = 'validating'",
            batch_id,
            (errors, self._clock()),
        )

    async def cancel(self, batch_id: str) -> bool:
        """validating or in_progress → cancelling."""
        return await self._change(
            "status = 'cancelling', ending = 'cancelled', cancelling = ?",
            "status IN ('validating', 'in_progress')",
            batch_id,
            (self._clock(),),
        )

    async def finalize(self, batch_id: str, ending: Ending, errors: str | None = None) -> bool:
        """validating or in_progress → finalizing: nothing more is fed."""
        return await self._change(
            "status = 'finalizing', ending = ?, errors = ?, finalizing = ?",
            "status IN ('validating', 'in_progress')",
            batch_id,
            (ending, errors, self._clock()),
        )

    async def feed(self, batch: Batch, lines: Sequence[Feed], line: int, position: int) -> bool:
        """Make jobs of these lines, and note that the file was read up to `line` at `position`.

        False, and nothing was done, if the batch has moved on from what `batch` says.
        Raises `QueueFull`, with nothing done.
        """
        now = self._clock()

        def work(connection: sqlite3.Connection) -> bool:
            jobs = [one.job for one in lines if one.job is not None]
            if not connection.execute(
                "UPDATE batches SET fed = fed + ?, line = ?, position = ?,"
                " unfinished = unfinished + ?, failed = failed + ?"
                " WHERE id = ? AND status = 'in_progress' AND position = ?",
                (
                    *(len(lines), line, position, len(jobs), len(lines) - len(jobs)),
                    *(batch.id, batch.position),
                ),
            ).rowcount:
                return False
            for job in jobs:
                intake.add(connection, job, self._bounds, now)
            connection.executemany(
                "INSERT INTO batch_lines VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (batch.id, one.line, one.custom_id, one.job and one.job.id)
                    + (one.refusal or (None, None, None))
                    for one in lines
                ],
            )
            return True

        return await self._database.write(work)

    async def revive(self, batch_id: str, limit: int) -> int:
        """Queue lines again that had to give way to newer work, as many as there is room for.

        How many; raises `QueueFull` where there are some and no room.
        """
        now = self._clock()
        query = (
            "SELECT job FROM batch_lines JOIN jobs ON jobs.id = job"
            " WHERE batch = ? AND state = 'failed' AND jobs.error_code = ? LIMIT ?"
        )

        def work(connection: sqlite3.Connection) -> int:
            rows = connection.execute(query, (batch_id, QueueFull.code, limit)).fetchall()
            for number, row in enumerate(rows):
                try:
                    retry(connection, row[0], self._bounds, now)
                except QueueFull:
                    if number:
                        return number
                    raise
            return len(rows)

        return await self._database.write(work)

    async def cancel_queued(self, batch_id: str) -> None:
        """End its jobs that wait, all at once, so that none is claimed to be cancelled at once."""
        now = self._clock()
        await self._database.write(
            lambda c: (
                c.execute(
                    "UPDATE jobs SET state = 'cancelled', finished = ?"
                    " WHERE state = 'queued' AND priority = ? AND client = ?",
                    (now, PRIORITIES.index("batch"), batch_id),
                ).rowcount
            )
        )

    async def waiting(self, batch_id: str, limit: int = 100) -> Sequence[str]:
        """Ids of its jobs that have not ended."""
        query = (
            "SELECT job FROM batch_lines JOIN jobs ON jobs.id = job"
            " WHERE batch = ? AND finished IS NULL LIMIT ?"
        )
        rows = await self._database.read(lambda c: c.execute(query, (batch_id, limit)).fetchall())
        return [row[0] for row in rows]

    async def outcomes(self, batch_id: str, after: int, limit: int) -> Sequence[Outcome]:
        """Of the lines that were fed, in their order, from the one after line `after` on."""
        query = (
            "SELECT batch_lines.line, custom_id, batch_lines.job, kind, state, jobs.created,"
            " requests.body, results.body,"
            " coalesce(batch_lines.error_code, jobs.error_code),"
            " coalesce(batch_lines.error_message, jobs.error_message), error_param"
            " FROM batch_lines LEFT JOIN jobs ON jobs.id = batch_lines.job"
            " LEFT JOIN requests ON requests.job = seq LEFT JOIN results ON results.job = seq"
            " WHERE batch = ? AND batch_lines.line > ? ORDER BY batch_lines.line LIMIT ?"
        )
        parameters = (batch_id, after, limit)
        rows = await self._database.read(lambda c: c.execute(query, parameters).fetchall())
        return [Outcome(*row) for row in rows]

    async def end(
        self,
        batch: Batch,
        completed: int,
        failed: int,
        output: FileFacts | None,
        error: FileFacts | None,
    ) -> bool:
        """finalizing or cancelling → what it ends as; its files are there from the same moment.

        False if a job was queued again meanwhile: the outputs lack its answer.
        """
        now = self._clock()

        def work(connection: sqlite3.Connection) -> bool:
            if not connection.execute(
                "UPDATE batches SET status = ending, ended = ?, completed = ?, failed = ?,"
                " output = ?, error = ? WHERE id = ? AND status = ? AND unfinished = 0"
                " AND ended IS NULL",
                (
                    *(now, completed, failed, output and output.id, error and error.id),
                    *(batch.id, batch.status),
                ),
            ).rowcount:
                return False
            for file in (output, error):
                if file is not None:
                    files.insert(connection, file)
            return True

        return await self._database.write(work)

    async def release(self) -> None:
        """Let go of the jobs of batches that have ended: the queue's upkeep may remove them."""
        # Not synced, nor is `expire`: after a power cut it is done again.
        while await self._database.write(_release_some, durable=False):
            pass

    async def expire(self, now: float) -> int:
        """Forget batches that ended long ago; how many."""
        removed = 0
        before = now - self._ttl
        while some := await self._database.write(lambda c: _remove_some(c, before), durable=False):
            removed += some
        return removed

    async def _change(
        self, change: str, where: str, batch_id: str, values: tuple[object, ...]
    ) -> bool:
        statement = f"UPDATE batches SET {change} WHERE id = ? AND {where}"
        changed = await self._database.write(
            lambda c: c.execute(statement, (*values, batch_id)).rowcount > 0
        )
        if not changed:
            await self.get(batch_id)
        return changed


def _add(connection: sqlite3.Connection, new: NewBatch, owners: Owners, now: float) -> str:
    """The id of the batch."""
    # Each owner counts for himself. No key has a line feed: it comes in a header.
    key = new.key if new.key is None or not new.owner else f"{new.owner}\n{new.key}"
    row = connection.execute("SELECT id, digest FROM batches WHERE key = ?", (key,)).fetchone()
    if row is not None:
        if row[1] == new.digest:
            return str(row[0])
        raise IdempotencyKeyReused(
            f"the idempotency key {new.key!r} was used for another batch",
            hint="use a new key for a new request",
        )
    query, values = f"SELECT 1 FROM files WHERE id = ? AND {OWNED}", (new.input, *owned(owners))
    if connection.execute(query, values).fetchone() is None:
        raise files.not_found(new.input)
    (number,) = connection.execute("SELECT count(*) FROM batches WHERE ended IS NULL").fetchone()
    if number >= MOST_UNFINISHED:
        raise QueueFull(
            f"{number} batches have not ended (at most {MOST_UNFINISHED})",
            hint="send it again later",
            retry_after=60.0,
        )
    connection.execute(
        "INSERT INTO batches (id, input, endpoint, metadata, output_ttl, key, digest,"
        " created, expires, owner, status) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'validating')",
        (
            *(new.id, new.input, new.endpoint, new.metadata, new.output_ttl),
            *(key, new.digest, now, now + new.window, new.owner),
        ),
    )
    return new.id


def _release_some(connection: sqlite3.Connection) -> int:
    lines = connection.execute(
        "SELECT batch, line, job FROM batch_lines WHERE batch IN"
        " (SELECT id FROM batches WHERE ended IS NOT NULL) LIMIT ?",
        (_SOME_LINES,),
    ).fetchall()
    connection.executemany(
        "DELETE FROM deliveries WHERE job = (SELECT seq FROM jobs WHERE id = ?)",
        [(job,) for _, _, job in lines if job is not None],
    )
    connection.executemany(
        "DELETE FROM batch_lines WHERE batch = ? AND line = ?", [line[:2] for line in lines]
    )
    return len(lines)


def _remove_some(connection: sqlite3.Connection, before: float) -> int:
    return connection.execute(
        "DELETE FROM batches WHERE id IN (SELECT id FROM batches WHERE ended <= ? AND NOT EXISTS"
        " (SELECT 1 FROM batch_lines WHERE batch = batches.id) LIMIT ?)",
        (before, _SOME_BATCHES),
    ).rowcount
