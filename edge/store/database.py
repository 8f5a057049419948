"""One SQLite file with its two threads: a writer that shares syncs, and a reader beside it.

`write` returns when the transaction is committed and synced: what it returned is on the disk.
Calls that come while a commit is under way wait together and share the next one, so that many
callers cost few syncs. What may be lost in a power cut need not wait for one. Used from one event
loop; knows nothing of what is in the file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from edge.errors import EdgeError, StoreBroken
from edge.store import file
from edge.store.threads import Reader, Writer

T = TypeVar("T")


class Database:
    """Open with `async with`. Closing runs what was queued and moves the log into the file.

    migrations: scripts; number i brings the schema from version i to i + 1.
    synchronous: FULL, or NORMAL where a power cut may take the latest commits.
    disposable: nobody misses what is in it, so a damaged or too new file is removed.
    set_aside: where a damaged file was put when this one was opened, None if there was none.
    Opening raises `StoreInUse`, `StoreTooNew`, `StoreFull` and `StoreBroken`.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
        *,
        synchronous: file.Synchronous = "FULL",
        disposable: bool = False,
    ) -> None:
        self.path = path.absolute()
        self.set_aside: Path | None = None
        self._migrations = migrations
        self._synchronous: file.Synchronous = synchronous
        self._disposable = disposable
        self._lock: int | None = None
        self._resources = AsyncExitStack()

    @property
    def commits(self) -> int:
        """Synced transactions that wrote something: the syncs that callers waited for."""
        return self._writer.commits

    async def __aenter__(self) -> Database:
        async with AsyncExitStack() as stack:
            stack.callback(self._unlock)
            self._writer = Writer(f"{self.path.name} writer", self.path, self._open_writer)
            stack.push_async_callback(self._writer.stop)
            await self._writer.start()
            self._reader = Reader(f"{self.path.name} reader", self.path, self._open_reader)
            stack.push_async_callback(self._reader.stop)
            await self._reader.start()
            self._resources = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._resources.aclose()

    async def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """What `work(connection)` returns, once it is committed and synced.

        durable: False where a power cut may take the change back. It is committed, so everybody
        sees it and it outlives the process, but nobody waits for the disk; it is synced with the
        next durable write, and never lost without all that was written after it.

        It runs on the writer's thread in a transaction shared with others, in a savepoint of its
        own: if it raises, nothing it did is kept and the error comes out here. It may be run a
        second time when the shared transaction failed, so it must touch nothing but the
        connection. Cancelling the caller does not take the write back.
        Raises `StoreFull` and `StoreBroken`, with nothing kept.
        """
        result: T = await self._writer.submit(work, "durable" if durable else "lax")
        return result

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work(connection)` returns, on a snapshot with all that was committed before.

        Keep it short: while it runs, other reads wait and the log cannot be shortened.
        """
        result: T = await self._reader.submit(work)
        return result

    async def checkpoint(self) -> None:
        """Move the log into the file, which then has the size of what is in it."""
        await self._writer.submit(_checkpoint, "alone")

    def _open_writer(self) -> sqlite3.Connection:
        """The first time all that is needed, later only a new connection to the same file."""
        if self._lock is not None:
            return file.connect(self.path, self._synchronous)
        try:
            file.make_folder(self.path.parent)
            self._lock = file.lock(self.path)
        except EdgeError:
            raise
        except OSError as error:
            raise StoreBroken(
                f"{self.path.parent} cannot be used: {error}",
                hint="it must be a folder that this user may write to",
            ) from error
        connection, self.set_aside = file.prepare(
            self.path, self._migrations, self._synchronous, self._disposable
        )
        return connection

    def _open_reader(self) -> sqlite3.Connection:
        try:
            return file.connect_reader(self.path)
        except sqlite3.Error as error:
            raise file.explain(error, self.path) from error

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _checkpoint(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
