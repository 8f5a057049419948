"""Whole answers by the digest of what was asked: a file of its own, which anybody may delete.

Bounded by what it takes on the disk: before an answer is put in, those that were not used for the
longest time leave, until there is room. No commit waits for a sync, because nothing is lost with
an answer that can be computed again. Knows nothing of requests: keys and bodies are bytes.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from edge.errors import EdgeError, StoreBroken
from edge.store.database import Database
from edge.store.upkeep import vacuum_some

logger = logging.getLogger(__name__)

T = TypeVar("T")

SCHEMA = """
CREATE TABLE answers (
    seq INTEGER PRIMARY KEY,            -- in the order in which they were made
    key BLOB NOT NULL UNIQUE,
    made REAL NOT NULL,                 -- epoch seconds, as is used
    used REAL NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE INDEX answers_by_use ON answers (used);
"""

LIKENESSES = """
-- What an answer may be found by where nobody asked the same: a vector among those of its group.
ALTER TABLE answers ADD COLUMN grouped BLOB;
ALTER TABLE answers ADD COLUMN vector BLOB;

CREATE INDEX answers_by_group ON answers (grouped, seq) WHERE grouped IS NOT NULL;
"""

USE_SECONDS = 60.0
"""A use is noted when the last one that was noted is older than this."""

_LARGEST_PART = 16  # of the bound; a larger body would drive out too many others
_MOST_NOTED = 4096
_SOME = 8  # answers that leave at once
_SOME_EXPIRED = 200
# Of the trees of table and indexes, that an insert may split, and of the map that vacuuming needs.
_SPARE_PAGES = 8


class Answers:
    """Open with `async with`, which never fails: without its file it has no answers.

    path: the file, and the write-ahead log beside it. max_bytes: what the file may take, with
    all its overhead; the log takes up to 32 MB more.
    Methods raise `StoreFull` and `StoreBroken`.
    """

    def __init__(
        self, path: Path, max_bytes: int, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = Database(path, (SCHEMA, LIKENESSES), synchronous="NORMAL", disposable=True)
        self._max_bytes = max_bytes
        self._clock = clock
        self._open = False
        # Kept back until the next write, because only a write makes answers leave.
        self._uses: dict[bytes, float] = {}

    async def __aenter__(self) -> Answers:
        try:
            await self._database.__aenter__()
            self._open = True
        except EdgeError as error:
            logger.warning("no answer is kept for identical requests: %s", error)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._open:
            self._open = False
            await self._database.__aexit__(kind, error, trace)

    async def get(self, key: bytes, not_before: float) -> bytes | None:
        """The body put in under `key`; None if there is none made at `not_before` or later.

        One that is said to have been made in the future, by a clock that was wrong, is not given.
        """
        now = self._clock()

        def work(connection: sqlite3.Connection) -> tuple[bytes, float] | None:
            row: tuple[bytes, float] | None = connection.execute(
                "SELECT body, used FROM answers WHERE key = ? AND made BETWEEN ? AND ?",
                (key, not_before, now),
            ).fetchone()
            return row

        found = await self._opened().read(work)
        if found is None:
            return None
        body, used = found
        if not 0 <= now - used < USE_SECONDS:
            self._uses[key] = now
            if len(self._uses) >= _MOST_NOTED:
                await self._write(lambda connection: None)
        return body

    async def like(self, group: bytes, not_before: float, most: int) -> list[tuple[bytes, bytes]]:
        """Keys and vectors of the latest answers of a group, `most` at most."""
        now = self._clock()

        def work(connection: sqlite3.Connection) -> list[tuple[bytes, bytes]]:
            return connection.execute(
                "SELECT key, vector FROM answers"
                " WHERE grouped = ? AND made BETWEEN ? AND ? ORDER BY seq DESC LIMIT ?",
                (group, not_before, now, most),
            ).fetchall()

        return await self._opened().read(work)

    async def put(
        self, key: bytes, body: bytes, group: bytes | None = None, vector: bytes | None = None
    ) -> bool:
        """Keep it, in place of what was there. False if it is too large for what may be kept.

        group, vector: what it may be found by as well.
        """
        size = len(body) + len(vector or b"")
        if len(body) > self._max_bytes // _LARGEST_PART:
            return False
        now = self._clock()

        def work(connection: sqlite3.Connection) -> bool:
            connection.execute("DELETE FROM answers WHERE key = ?", (key,))
            if not _make_room(connection, size, self._max_bytes):
                return False
            connection.execute(
                "INSERT INTO answers (key, made, used, body, grouped, vector)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (key, now, now, body, group, vector),
            )
            return True

        return await self._write(work)

    async def expire(self, before: float) -> int:
        """Remove answers made before, in small pieces, and give their room back; how many."""
        removed, some = 0, 1
        while some:
            some = await self._write(lambda c: _remove_some(c, before, self._clock()))
            removed += some
        while await self._opened().write(vacuum_some):
            pass
        return removed

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do it, after the uses that were noted."""
        uses, self._uses = self._uses, {}

        def noted(connection: sqlite3.Connection) -> T:
            connection.executemany(
                "UPDATE answers SET used = ? WHERE key = ?",
                [(used, key) for key, used in uses.items()],
            )
            return work(connection)

        return await self._opened().write(noted)

    def _opened(self) -> Database:
        if not self._open:
            raise StoreBroken(f"{self._database.path} is not open")
        return self._database


def _make_room(connection: sqlite3.Connection, size: int, max_bytes: int) -> bool:
    """Let answers leave until a body of `size` bytes fits. False if it cannot."""
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    wanted = size // (page_size - 4) + 1 + _SPARE_PAGES
    while (_used_pages(connection) + wanted) * page_size > max_bytes:
        left = connection.execute(
            "DELETE FROM answers WHERE seq IN (SELECT seq FROM answers ORDER BY used LIMIT ?)",
            (_SOME,),
        )
        if left.rowcount == 0:
            return False
    return True


def _used_pages(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(pages) - int(free)


def _remove_some(connection: sqlite3.Connection, before: float, now: float) -> int:
    """Of the first ones, which are the oldest, those made before, or in the future."""
    return connection.execute(
        "DELETE FROM answers WHERE seq IN (SELECT seq FROM answers ORDER BY seq LIMIT ?)"
        " AND (made < ? OR made > ?)",
        (_SOME_EXPIRED, before, now),
    ).rowcount
