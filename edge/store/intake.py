"""Whether a job may come in: its idempotency key, the queue's bounds, and the policy when full.

Functions over the writer's connection, to be called inside one transaction.
"""

from __future__ import annotations

import math
import sqlite3
from typing import Literal

import msgspec

from edge.errors import IdempotencyKeyReused, QueueFull
from edge.store.job import PRIORITIES, Idempotency, Job, NewJob, find

_BATCH = PRIORITIES.index("batch")


class Bounds(msgspec.Struct, frozen=True):
    """How much unfinished work there may be. `when_full` says what gives way to a new job.

    reject: the new one. drop_oldest_batch: queued jobs of priority batch, the oldest first; they
    fail with `queue_full` and that is delivered. The new one is refused if that would not suffice.
    """

    max_jobs: int
    max_bytes: int
    when_full: Literal["reject", "drop_oldest_batch"] = "reject"


def add(connection: sqlite3.Connection, new: NewJob, bounds: Bounds, now: float) -> Job:
    """Queue the job, or return the one that had the same idempotency key and body.

    Raises `IdempotencyKeyReused` and `QueueFull`.
    """
    if new.idempotency and (earlier := _earlier(connection, new.idempotency)):
        return earlier
    make_room(connection, new.size, bounds, now)
    (seq,) = connection.execute(
        "INSERT INTO jobs"
        " (id, line, client, caller, door, kind, priority, deadline, created, state, size)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?) RETURNING seq",
        (
            *(new.id, new.line, new.client, new.caller, new.door, new.kind),
            PRIORITIES.index(new.priority),
            *(math.inf if new.deadline is None else new.deadline, now, new.size),
        ),
    ).fetchone()
    connection.execute("INSERT INTO requests (job, body) VALUES (?, ?)", (seq, new.request))
    if new.target is not None:
        connection.execute(
            "INSERT INTO deliveries (job, door, target) VALUES (?, ?, ?)",
            (seq, new.door, new.target),
        )
    if new.idempotency:
        connection.execute(
            "INSERT OR REPLACE INTO idempotency (scope, key, digest, job) VALUES (?, ?, ?, ?)",
            (new.idempotency.scope, new.idempotency.key, new.idempotency.digest, seq),
        )
    added = find(connection, new.id)
    assert added is not None
    return added


def make_room(connection: sqlite3.Connection, size: int, bounds: Bounds, now: float) -> None:
    """See to it that one more unfinished job of `size` bytes fits in. Raises `QueueFull`."""
    jobs, total = connection.execute(
        "SELECT sum(jobs), sum(bytes) FROM totals WHERE state IN ('queued', 'running')"
    ).fetchone()
    too_many, too_large = jobs + 1 - bounds.max_jobs, total + size - bounds.max_bytes
    if too_many <= 0 and too_large <= 0:
        return
    droppable = (0, 0)
    if bounds.when_full == "drop_oldest_batch":
        droppable = connection.execute(
            "SELECT jobs, bytes FROM totals WHERE state = 'queued' AND priority = ?", (_BATCH,)
        ).fetchone()
    if too_many > droppable[0] or too_large > droppable[1]:
        raise QueueFull(
            f"the queue is full: {jobs} jobs of {total} bytes wait or run"
            f" (at most {bounds.max_jobs} jobs, {bounds.max_bytes} bytes)",
            hint="send it again later",
            retry_after=10.0,
        )
    while too_many > 0 or too_large > 0:
        too_many -= 1
        too_large -= _drop_oldest_batch(connection, now)


def _earlier(connection: sqlite3.Connection, idempotency: Idempotency) -> Job | None:
    row = connection.execute(
        "SELECT digest, id, finished FROM idempotency JOIN jobs ON seq = job"
        " WHERE scope = ? AND key = ?",
        (idempotency.scope, idempotency.key),
    ).fetchone()
    if row is None:
        return None
    digest, id_, finished = row
    if digest == idempotency.digest:
        return find(connection, id_)
    if idempotency.reuse_when_finished and finished is not None:
        return None
    raise IdempotencyKeyReused(
        f"the idempotency key {idempotency.key!r} was used for another request",
        hint="use a new key for a new request",
    )


def _drop_oldest_batch(connection: sqlite3.Connection, now: float) -> int:
    """Fail the oldest queued job of priority batch, and return its size."""
    (size,) = connection.execute(
        "UPDATE jobs SET state = 'failed', finished = ?, error_code = ?, error_message = ?"
        " WHERE seq = (SELECT seq FROM jobs WHERE state = 'queued' AND priority = ?"
        "              ORDER BY seq LIMIT 1) RETURNING size",
        (now, QueueFull.code, "the queue was full and newer work came in", _BATCH),
    ).fetchone()
    return int(size)
