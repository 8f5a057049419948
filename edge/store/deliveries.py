"""What is owed to callers: the outcome of each finished job that has a delivery target.

A delivery is due from the moment the job finishes, in the same transaction, until the door says
that the receiver has it or that it gave up. Each door asks for its own.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

import msgspec

from edge.errors import JobNotFound
from edge.store.database import Database
from edge.store.job import Door, State


class Delivery(msgspec.Struct, frozen=True):
    """An outcome to be sent to `target`. `attempts`: how often that has failed so far."""

    id: str
    kind: str
    state: State
    target: bytes
    result: bytes | None
    error_code: str | None
    error_message: str | None
    attempts: int


class Deliveries:
    """The deliveries in the ledger of `database`. Methods raise `StoreFull` and `StoreBroken`."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def due(self, door: Door, now: float, limit: int = 32) -> list[Delivery]:
        """What is due by `now`, what has been due for longest first.

        Those that are under way are among them until they are `delivered` or have `failed`.
        """
        query = (
            "SELECT id, kind, state, target, body, error_code, error_message, deliveries.attempts"
            " FROM deliveries JOIN jobs ON seq = deliveries.job"
            " LEFT JOIN results ON results.job = seq"
            " WHERE deliveries.door = ? AND due <= ? ORDER BY due, deliveries.job LIMIT ?"
        )
        rows = await self._database.read(lambda c: c.execute(query, (door, now, limit)).fetchall())
        return [Delivery(*row) for row in rows]

    async def owed(self) -> dict[Door, int]:
        """How many outcomes have not reached their receivers, by door; of those that owe any."""
        query = "SELECT door, count(*) FROM deliveries WHERE due IS NOT NULL GROUP BY door"
        return dict(await self._database.read(lambda c: c.execute(query).fetchall()))

    async def delivered(self, job_id: str) -> bool:
        """The receiver has it. False if nothing was owed (any more)."""
        # Not synced: a power cut would have it sent a second time, with the same bytes.
        return await self._change(
            "due = NULL, delivered = ?", "due IS NOT NULL", job_id, self._clock(), durable=False
        )

    async def failed(self, job_id: str, retry_at: float | None) -> bool:
        """It could not be sent: try again at `retry_at` (epoch seconds), or give up with None."""
        # Not synced: a power cut would have it tried a little earlier, and once more at most.
        return await self._change(
            "due = ?, attempts = attempts + 1", "due IS NOT NULL", job_id, retry_at, durable=False
        )

    async def again(self, job_id: str) -> bool:
        """Owe it once more, now: the caller asked again. False if the job has not finished."""
        return await self._change(
            "due = ?", "(SELECT finished FROM jobs WHERE seq = job) NOTNULL", job_id, self._clock()
        )

    async def _change(
        self, change: str, where: str, job_id: str, value: object, *, durable: bool = True
    ) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            row = connection.execute("SELECT seq FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row is None:
                raise JobNotFound(f"there is no job `{job_id}`")
            statement = f"UPDATE deliveries SET {change} WHERE job = ? AND {where}"
            return connection.execute(statement, (value, *row)).rowcount > 0

        return await self._database.write(work, durable=durable)
