"""What time does to jobs: deadlines pass, results grow old, and the file gives room back.

Functions over the writer's connection. Each does a bounded piece, so that no transaction is long.
"""

from __future__ import annotations

import sqlite3

from edge.errors import DeadlineExceeded

_SOME_JOBS = 200
_SOME_PAGES = 500
# Free pages (of 4 KiB) that stay in the file, for the jobs to come.
_KEPT_PAGES = 256

_EXPIRE = "UPDATE jobs SET state = 'expired', finished = ?, error_code = ?, error_message = ?"
_REASON = (DeadlineExceeded.code, "the deadline passed before the answer was complete")


def expire_one(connection: sqlite3.Connection, seq: int, now: float) -> None:
    connection.execute(f"{_EXPIRE} WHERE seq = ?", (now, *_REASON, seq))


def expire_some(connection: sqlite3.Connection, now: float) -> list[str]:
    """End unfinished jobs whose deadline has passed; their ids, none if all is done."""
    rows = connection.execute(
        f"{_EXPIRE} WHERE seq IN (SELECT seq FROM jobs WHERE finished IS NULL"
        " AND deadline < 9e999 AND deadline <= ? ORDER BY deadline LIMIT ?) RETURNING id",
        (now, *_REASON, now, _SOME_JOBS),
    )
    return [row[0] for row in rows.fetchall()]


def remove_some(connection: sqlite3.Connection, before: float) -> int:
    """Remove jobs that finished by `before` and owe no delivery; how many, 0 if all is done."""
    return connection.execute(
        "DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE finished <= ? AND NOT EXISTS"
        " (SELECT 1 FROM deliveries WHERE job = seq AND due IS NOT NULL)"
        " ORDER BY finished LIMIT ?)",
        (before, _SOME_JOBS),
    ).rowcount


def vacuum_some(connection: sqlite3.Connection) -> int:
    """Cut free pages off the file; how many, 0 if all is done."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    pages = min(_SOME_PAGES, free - _KEPT_PAGES)
    if pages <= 0:
        return 0
    connection.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
    return int(pages)
