"""Which job is next. The order, and why it is fair, is told in schema.py.

Functions over a connection, each to be called inside one transaction.
"""

from __future__ import annotations

import sqlite3

from edge.store.job import PRIORITIES, SELECT_JOB, Job, job
from edge.store.upkeep import expire_one

# Most jobs past their deadline that one transaction clears away.
_MOST_EXPIRED = 32


def claim(connection: sqlite3.Connection, now: float) -> tuple[Job | None, bool]:
    """The next job, set running, if there is one; and whether it has to expire instead."""
    head = _head(connection)
    if head is None:
        return None, False
    deadline, seq = head
    if deadline <= now:
        return None, True
    return _start(connection, seq, now), False


def expire_heads(connection: sqlite3.Connection, now: float) -> None:
    """End jobs that would be next and whose deadline has passed, some at a time."""
    for _ in range(_MOST_EXPIRED):
        head = _head(connection)
        if head is None or head[0] > now:
            return
        expire_one(connection, head[1], now)


def position(connection: sqlite3.Connection, job_id: str) -> int | None:
    """How many claims it takes until this job comes up, if nothing else changes; None if never.

    Goes through all lanes of its priority and, where a tie needs it, to one job in each.
    """
    mine = connection.execute(
        "SELECT priority, client, jobs.deadline, jobs.seq, turn"
        " FROM jobs JOIN lanes USING (priority, client) WHERE id = ? AND state = 'queued'",
        (job_id,),
    ).fetchone()
    if mine is None:
        return None
    priority, client, deadline, seq, turn = mine
    (above,) = connection.execute(
        "SELECT coalesce(sum(jobs), 0) FROM totals WHERE state = 'queued' AND priority < ?",
        (priority,),
    ).fetchone()
    (before,) = connection.execute(
        "SELECT count(*) FROM jobs WHERE state = 'queued' AND priority = ? AND client = ?"
        " AND (deadline, seq) < (?, ?)",
        (priority, client, deadline, seq),
    ).fetchone()
    # Its lane is served every second turn.
    due = turn + 2 * before
    return int(above + before + 1 + _beside(connection, priority, client, due, (deadline, seq)))


def _beside(
    connection: sqlite3.Connection, priority: int, client: str, due: int, rank: tuple[float, int]
) -> int:
    """How many jobs of other clients go before the one with this turn, deadline and seq.

    Of each lane: those that are due in earlier turns, and of the same turn if it wins the tie.
    """
    lanes = (
        "(SELECT *, (?1 - turn + 1) / 2 AS earlier FROM lanes"
        " WHERE priority = ?2 AND waiting > 0 AND turn <= ?1 AND client <> ?3)"
    )
    (ahead,) = connection.execute(
        "SELECT coalesce(sum(min(waiting, earlier)), 0)"
        " + coalesce(sum(turn = ?1 AND (deadline, seq) < (?4, ?5)), 0)"
        f" FROM {lanes}",
        (due, priority, client, *rank),
    ).fetchone()
    ties = connection.execute(
        f"SELECT client, earlier FROM {lanes}"
        " WHERE turn < ?1 AND waiting > earlier AND turn + 2 * earlier = ?1",
        (due, priority, client),
    ).fetchall()
    for other, earlier in ties:
        rival = connection.execute(
            "SELECT deadline, seq FROM jobs WHERE state = 'queued' AND priority = ?"
            " AND client = ? ORDER BY deadline, seq LIMIT 1 OFFSET ?",
            (priority, other, earlier),
        ).fetchone()
        ahead += rival < rank
    return int(ahead)


def oldest(connection: sqlite3.Connection) -> float | None:
    """When the oldest waiting job came in."""
    ages = [
        connection.execute(
            "SELECT created FROM jobs WHERE state = 'queued' AND priority = ? ORDER BY seq LIMIT 1",
            (priority,),
        ).fetchone()
        for priority in range(len(PRIORITIES))
    ]
    return min((row[0] for row in ages if row), default=None)


def _head(connection: sqlite3.Connection) -> tuple[float, int] | None:
    """Deadline and seq of the next job."""
    row: tuple[float, int] | None = connection.execute(
        "SELECT deadline, seq FROM lanes WHERE waiting > 0"
        " ORDER BY priority, turn, deadline, seq LIMIT 1"
    ).fetchone()
    return row


def _start(connection: sqlite3.Connection, seq: int, now: float) -> Job:
    connection.execute(
        "UPDATE jobs SET state = 'running', started = ?, attempts = attempts + 1 WHERE seq = ?",
        (now, seq),
    )
    return job(connection.execute(f"{SELECT_JOB} WHERE jobs.seq = ?", (seq,)).fetchone())
