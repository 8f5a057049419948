"""Which job is next. The order, and why it is fair, is told in schema.py.

Functions over a connection, each to be called inside one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from edge.store.job import PRIORITIES, SELECT_JOB, Job, job
from edge.store.upkeep import expire_one
from edge.types import Priority

# Most jobs past their deadline that one transaction clears away.
_MOST_EXPIRED = 32


def claim(
    connection: sqlite3.Connection, now: float, lines: Collection[str], least: Priority
) -> tuple[Job | None, bool]:
    """The next job of these lines, set running; and whether it has to expire instead.

    least: none that is less urgent.
    """
    head = _head(connection, lines, least)
    if head is None:
        return None, False
    deadline, seq = head
    if deadline <= now:
        return None, True
    return _start(connection, seq, now), False


def expire_heads(
    connection: sqlite3.Connection, now: float, lines: Collection[str], least: Priority
) -> None:
    """End jobs that would be next and whose deadline has passed, some at a time."""
    for _ in range(_MOST_EXPIRED):
        head = _head(connection, lines, least)
        if head is None or head[0] > now:
            return
        expire_one(connection, head[1], now)


def waiting(connection: sqlite3.Connection) -> dict[str, int]:
    """How many jobs wait in each line, of those in which any do."""
    rows = connection.execute(
        "SELECT line, sum(waiting) FROM lines WHERE waiting > 0 GROUP BY line"
    )
    return dict(rows.fetchall())


def position(connection: sqlite3.Connection, job_id: str) -> int | None:
    """How many claims from its line it takes until this job comes up, if nothing else changes.

    None if it never does. Goes through all lanes of its line and priority and, where a tie needs
    it, to one job in each.
    """
    mine = connection.execute(
        "SELECT line, priority, client, jobs.deadline, jobs.seq, turn"
        " FROM jobs JOIN lanes USING (line, priority, client) WHERE id = ? AND state = 'queued'",
        (job_id,),
    ).fetchone()
    if mine is None:
        return None
    *lane, deadline, seq, turn = mine
    line, priority, _ = lane
    (above,) = connection.execute(
        "SELECT coalesce(sum(waiting), 0) FROM lines WHERE line = ? AND priority < ?",
        (line, priority),
    ).fetchone()
    (before,) = connection.execute(
        "SELECT count(*) FROM jobs WHERE state = 'queued'"
        " AND line = ? AND priority = ? AND client = ? AND (deadline, seq) < (?, ?)",
        (*lane, deadline, seq),
    ).fetchone()
    # Its lane is served every second turn.
    due = turn + 2 * before
    return int(above + before + 1 + _beside(connection, tuple(lane), due, (deadline, seq)))


def _beside(
    connection: sqlite3.Connection,
    lane: tuple[str, int, str],
    due: int,
    rank: tuple[float, int],
) -> int:
    """How many jobs of other clients go before the one with this turn, deadline and seq.

    Of each lane: those that are due in earlier turns, and of the same turn if it wins the tie.
    """
    lanes = (
        "(SELECT *, (:due - turn + 1) / 2 AS earlier FROM lanes WHERE line = :line"
        " AND priority = :priority AND client <> :client AND waiting > 0 AND turn <= :due)"
    )
    line, priority, client = lane
    values = {"due": due, "line": line, "priority": priority, "client": client}
    (ahead,) = connection.execute(
        "SELECT coalesce(sum(min(waiting, earlier)), 0)"
        " + coalesce(sum(turn = :due AND (deadline, seq) < (:deadline, :seq)), 0)"
        f" FROM {lanes}",
        {**values, "deadline": rank[0], "seq": rank[1]},
    ).fetchone()
    ties = connection.execute(
        f"SELECT client, earlier FROM {lanes}"
        " WHERE turn < :due AND waiting > earlier AND turn + 2 * earlier = :due",
        values,
    ).fetchall()
    for other, earlier in ties:
        rival = connection.execute(
            "SELECT deadline, seq FROM jobs WHERE state = 'queued' AND line = ?"
            " AND priority = ? AND client = ? ORDER BY deadline, seq LIMIT 1 OFFSET ?",
            (*lane[:2], other, earlier),
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


def _head(
    connection: sqlite3.Connection, lines: Collection[str], least: Priority
) -> tuple[float, int] | None:
    """Deadline and seq of the next job in these lines."""
    # CROSS, so that SQLite goes through the lines, which are few, and not through the lanes.
    marks = ", ".join("?" * len(lines))
    row: tuple[float, int] | None = connection.execute(
        "SELECT lanes.deadline, lanes.seq FROM lines CROSS JOIN lanes USING (line, priority)"
        f" WHERE lines.waiting > 0 AND priority <= ? AND line IN ({marks}) AND client = ("
        " SELECT client FROM lanes WHERE line = lines.line AND priority = lines.priority"
        " AND waiting > 0 ORDER BY turn, deadline, seq LIMIT 1)"
        " ORDER BY priority, served, lanes.deadline, lanes.seq LIMIT 1",
        (PRIORITIES.index(least), *lines),
    ).fetchone()
    return row


def _start(connection: sqlite3.Connection, seq: int, now: float) -> Job:
    connection.execute(
        "UPDATE jobs SET state = 'running', started = ?, attempts = attempts + 1 WHERE seq = ?",
        (now, seq),
    )
    return job(connection.execute(f"{SELECT_JOB} WHERE jobs.seq = ?", (seq,)).fetchone())
