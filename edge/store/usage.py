"""What each key has used on each day, in the ledger's file.

Written by the daemon alone, some seconds late and without a sync: a process that is killed loses
those seconds, a power cut what was not synced with something else. Days grow old and go.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from edge.store.database import Database


class DayUsage(msgspec.Struct, frozen=True):
    """Of one key. day: UTC's, as `2026-11-23`. energy_joules: None where none was measured."""

    day: str
    name: str
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    energy_joules: float | None = None


_SELECT = f"SELECT {', '.join(DayUsage.__struct_fields__)} FROM usage"


class UsageTable:
    """In the ledger in `database`. Methods raise `StoreFull` and `StoreBroken`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, rows: Sequence[DayUsage], first: str) -> None:
        """In the place of what was known of the same days. first: the oldest day to keep."""

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?, ?, ?)",
                [msgspec.structs.astuple(row) for row in rows],
            )
            connection.execute("DELETE FROM usage WHERE day < ?", (first,))

        await self._database.write(work, durable=False)

    async def of_day(self, day: str) -> Sequence[DayUsage]:
        return await self._database.read(lambda c: _of_day(c, day))

    async def of_key(self, name: str) -> Sequence[DayUsage]:
        """All days that are kept, the latest first."""
        query = f"{_SELECT} WHERE name = ? ORDER BY day DESC"
        rows = await self._database.read(lambda c: c.execute(query, (name,)).fetchall())
        return [DayUsage(*row) for row in rows]


def usage_in(path: Path, day: str) -> Sequence[DayUsage]:
    """Of a day, from a ledger that a daemon may have open; nothing where there is none yet."""
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
            return _of_day(file, day)
    except sqlite3.Error:  # of an earlier release, damaged, or not ours to read
        return []


def _of_day(connection: sqlite3.Connection, day: str) -> Sequence[DayUsage]:
    rows = connection.execute(f"{_SELECT} WHERE day = ?", (day,)).fetchall()
    return [DayUsage(*row) for row in rows]
