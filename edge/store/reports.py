"""Records of finished work that are still to be reported: a file of their own, oldest first.

A record is there once its transaction is committed, whatever becomes of the process. No commit
waits for a sync; `sync` says when there is one, and a power cut takes what was written since.
Knows nothing of what is in a record.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge.store.database import Database
from edge.store.upkeep import vacuum_some

SCHEMA = """
CREATE TABLE reports (
    seq INTEGER PRIMARY KEY,            -- the order of arrival
    id TEXT NOT NULL UNIQUE,
    time REAL NOT NULL,                 -- epoch seconds, for people who look into the file
    body BLOB NOT NULL
) STRICT;

CREATE TABLE totals (
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL              -- of the bodies
) STRICT;

INSERT INTO totals VALUES (0, 0);

CREATE TRIGGER counted_in AFTER INSERT ON reports BEGIN
    UPDATE totals SET rows = rows + 1, bytes = bytes + length(new.body);
END;

CREATE TRIGGER counted_out AFTER DELETE ON reports BEGIN
    UPDATE totals SET rows = rows - 1, bytes = bytes - length(old.body);
END;
"""

OVERHEAD = 200
"""Bytes of the file that a row takes beside its body, about."""


class Row(msgspec.Struct, frozen=True):
    """time: epoch seconds."""

    id: str
    time: float
    body: bytes


class Books(msgspec.Struct, frozen=True):
    """pending: records in the file. dropped: how many had to give way to the last ones added."""

    pending: int
    dropped: int


class Reports:
    """Open with `async with`. Methods raise `StoreFull` and `StoreBroken`."""

    def __init__(self, path: Path, *, max_rows: int = 100_000, max_bytes: int = 64 << 20) -> None:
        self._database = Database(path, (SCHEMA,), synchronous="NORMAL")
        self._max_rows = max_rows
        self._max_bytes = max_bytes

    async def __aenter__(self) -> Reports:
        await self._database.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._database.__aexit__(None, None, None)

    async def add(self, rows: Sequence[Row]) -> Books:
        """Keep them, but for those whose id is there already; too many drive out the oldest."""

        def work(connection: sqlite3.Connection) -> Books:
            connection.executemany(
                "INSERT INTO reports (id, time, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [(row.id, row.time, row.body) for row in rows],
            )
            dropped = _make_room(connection, self._max_rows, self._max_bytes)
            return Books(_pending(connection), dropped)

        return await self._database.write(work)

    async def oldest(self, limit: int, max_bytes: int) -> list[Row]:
        """Up to so many records and bytes of bodies, and at least one if there is any."""

        def work(connection: sqlite3.Connection) -> list[Row]:
            rows: list[Row] = []
            size = 0
            query = "SELECT id, time, body FROM reports ORDER BY seq LIMIT ?"
            for row in connection.execute(query, (limit,)):
                size += len(row[2])
                if rows and size > max_bytes:
                    break
                rows.append(Row(*row))
            return rows

        return await self._database.read(work)

    async def remove(self, rows: Sequence[Row]) -> Books:
        """They need not be reported any more."""

        def work(connection: sqlite3.Connection) -> Books:
            ids = [(row.id,) for row in rows]
            connection.executemany("DELETE FROM reports WHERE id = ?", ids)
            vacuum_some(connection)
            return Books(_pending(connection), 0)

        return await self._database.write(work)

    async def clear(self) -> None:
        """Remove all: nothing is to be reported any more."""
        await self._database.write(lambda c: c.execute("DELETE FROM reports").rowcount)

    async def books(self) -> Books:
        return Books(await self._database.read(_pending), 0)

    async def sync(self) -> None:
        """Return when all that was added so far would survive a power cut."""
        await self._database.checkpoint()


def _pending(connection: sqlite3.Connection) -> int:
    (rows,) = connection.execute("SELECT rows FROM totals").fetchone()
    return int(rows)


def _make_room(connection: sqlite3.Connection, max_rows: int, max_bytes: int) -> int:
    """Remove the oldest until the rest is within the bounds; how many."""
    rows, size = connection.execute("SELECT rows, bytes FROM totals").fetchone()
    size += rows * OVERHEAD
    dropped, last = 0, None
    oldest = connection.execute("SELECT seq, length(body) FROM reports ORDER BY seq")
    while rows - dropped > max_rows or size > max_bytes:
        last, length = oldest.fetchone()
        dropped += 1
        size -= length + OVERHEAD
    oldest.close()
    if last is not None:
        connection.execute("DELETE FROM reports WHERE seq <= ?", (last,))
    return dropped
