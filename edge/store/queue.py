"""Which job is next. The order, and why it is fair, is told in schema.py.

Functions over a connection, each to be called inside one transaction.
"""

from __future__ import annotations

import sqlite3

from edge.store.job import PRIORITIES, SELECT_JOB, Job, job
from edge.store.upkeep import expire_one

_TURN = 2
# Most jobs past their deadline that one transaction clears away.
_MOST_EXPIRED = 32


def claim(connection: sqlite3.Connection, now: float) -> tuple[Job | None, bool]:
    """The next job, set running, if there is one; and whether to look again for there may be.

    Looking again is needed when all it could do was to expire jobs.
    """
    for _ in range(_MOST_EXPIRED):
        head = connection.execute(
            "SELECT deadline, seq FROM lanes WHERE waiting > 0"
            " ORDER BY priority, turn, deadline, seq LIMIT 1"
        ).fetchone()
        if head is None:
            return None, False
        deadline, seq = head
        if deadline > now:
            return _start(connection, seq, now), False
        expire_one(connection, seq, now)
    return None, True


def position(connection: sqlite3.Connection, job_id: str) -> int | None:
    """How many claims it takes until this job comes up, if nothing else changes; None if never.

    Its own lane serves it at turn + 2 for each job before it there. Of each other lane all jobs
    go first that are due earlier, and the one due in the same turn if it wins the tie.
    """
    mine = connection.execute(
        "SELECT priority, client, jobs.deadline, jobs.seq, turn"
        " FROM jobs JOIN lanes USING (priority, client) WHERE id = ? AND state = 'queued'",
        (job_id,),
    ).fetchone()
    if mine is None:
        return None
    priority, client, deadline, seq, turn = mine
    (before,) = connection.execute(
        "SELECT count(*) FROM jobs WHERE state = 'queued' AND priority = ? AND client = ?"
        " AND (deadline, seq) < (?, ?)",
        (priority, client, deadline, seq),
    ).fetchone()
    (above,) = connection.execute(
        "SELECT sum(jobs) FROM totals WHERE state = 'queued' AND priority < ?", (priority,)
    ).fetchone()
    ahead = before + (above or 0)
    due = turn + _TURN * before
    others = connection.execute(
        "SELECT client, turn, waiting FROM lanes"
        " WHERE priority = ? AND waiting > 0 AND turn <= ? AND client <> ?",
        (priority, due, client),
    )
    for other, first, waiting in others:
        # Those at first, first + 2, … before `due`.
        earlier = (due - first + _TURN - 1) // _TURN
        ahead += min(waiting, earlier)
        if waiting > earlier and first + _TURN * earlier == due:
            rival = connection.execute(
                "SELECT deadline, seq FROM jobs WHERE state = 'queued' AND priority = ?"
                " AND client = ? ORDER BY deadline, seq LIMIT 1 OFFSET ?",
                (priority, other, earlier),
            ).fetchone()
            ahead += rival < (deadline, seq)
    return int(ahead) + 1


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


def _start(connection: sqlite3.Connection, seq: int, now: float) -> Job:
    connection.execute(
        "UPDATE jobs SET state = 'running', started = ?, attempts = attempts + 1 WHERE seq = ?",
        (now, seq),
    )
    return job(connection.execute(f"{SELECT_JOB} WHERE jobs.seq = ?", (seq,)).fetchone())
