"""The two threads of a database: each owns one connection and runs the calls given to it.

A call comes from the event loop and goes back there with a result or an error, always: also when
the disk is full, when the connection is lost, when the thread ends. Only the loop touches futures.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby, takewhile
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeAlias

from edge.errors import StoreBroken, StoreFull
from edge.loops import QuietLog
from edge.store.file import explain

logger = logging.getLogger(__name__)

Work: TypeAlias = Callable[[sqlite3.Connection], Any]

MAX_GROUP = 1024
"""Calls in one transaction. More wait for the next, so that the first ones hear of it in time."""


How: TypeAlias = Literal["durable", "lax", "alone"]
"""What a call wants of its transaction: a sync before it returns, none, or no transaction."""


class Call:
    """Some work for a connection, and where its outcome goes."""

    def __init__(self, work: Work, future: asyncio.Future[Any], how: How) -> None:
        self.work = work
        self.future = future
        self.how = how
        self.result: Any = None
        # Until it is known that all went well.
        self.error: Exception | None = StoreBroken("the store lost track of a call")

    def settle(self) -> None:
        if self.future.done():
            return  # whoever waited was cancelled
        if self.error is None:
            self.future.set_result(self.result)
        elif isinstance(self.error, StopIteration):
            # A future refuses it, and the caller would wait for ever.
            self.future.set_exception(RuntimeError(f"{self.error!r} in a call to the store"))
        else:
            self.future.set_exception(self.error)


class ConnectionThread(ABC):
    """Runs calls one after another, and answers each. The subclass says how a batch is run.

    `opener` is called first, on the thread; what it raises comes out of `start`. It is called
    again when a connection had to be given up.
    """

    def __init__(self, name: str, path: Path, opener: Callable[[], sqlite3.Connection]) -> None:
        self.path = path
        self._opener = opener
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self.log = QuietLog(name)
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    async def start(self) -> None:
        self._thread.start()
        await asyncio.shield(self._opened)

    def submit(self, work: Work, how: How = "durable") -> asyncio.Future[Any]:
        call = Call(work, self._loop.create_future(), how)
        if self._stopping or self._ended.done():
            call.error = self._closed()
            call.settle()
        else:
            self._calls.put(call)
        return call.future

    async def stop(self) -> None:
        """Return when all calls made so far are done and the connection is closed."""
        if not self._stopping:
            self._stopping = True
            self._calls.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()

    @abstractmethod
    def run(self, calls: list[Call]) -> None:
        """Do these calls, on the thread. They are settled afterwards, or earlier by `settle`."""

    def settle(self, calls: list[Call]) -> None:
        """Tell those who wait for these calls, which are done."""
        self._on_loop(_settle, calls)

    def connection(self) -> sqlite3.Connection:
        """The thread's connection, opened anew if the last one was given up."""
        if self._connection is None:
            self._connection = self._opener()
        return self._connection

    def typed(self, error: Exception) -> Exception:
        """What the caller gets for an error; trouble with the disk is logged, quietly."""
        typed = explain(error, self.path)
        if isinstance(typed, StoreFull | StoreBroken):
            self.log.error(typed)
        return typed

    def clean_up(self) -> None:
        """Leave no transaction open after an error.

        The connection is kept if that works. A new one might have to recover the log from the
        disk, and find there the transaction whose sync has failed: nobody would know of it.
        """
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._disconnect()

    def _main(self) -> None:
        try:
            self.connection()
        except Exception as error:
            self._on_loop(_fail, self._opened, error)
        else:
            self._on_loop(_succeed, self._opened)
            while calls := self._next():
                try:
                    self.run(calls)
                except BaseException:
                    # The calls of this batch fail; the thread has to live.
                    logger.exception("%s: a batch of calls failed", self.path)
                    self._disconnect()
                self.settle(calls)
        self._disconnect()
        self._on_loop(self._end)

    def _next(self) -> list[Call]:
        """All that wait, at least one; nothing when it is time to stop."""
        calls: list[Call] = []
        call = self._calls.get()
        with suppress(Empty):
            while call is not None:
                calls.append(call)
                if len(calls) == MAX_GROUP:
                    return calls
                call = self._calls.get_nowait()
            if calls:
                self._calls.put(None)  # what came before it is done first
        return calls

    def _end(self) -> None:
        with suppress(Empty):
            while True:
                if call := self._calls.get_nowait():
                    call.error = self._closed()
                    call.settle()
        _succeed(self._ended)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                logger.warning("%s: closing: %s", self.path, error)

    def _closed(self) -> StoreBroken:
        return StoreBroken(f"{self.path} is closed", hint="the appliance is stopping")

    def _on_loop(self, what: Callable[..., object], *args: object) -> None:
        # A loop that is closed already has nobody left who waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, *args)


class Writer(ConnectionThread):
    """Runs whatever waits in one transaction: one commit and one sync for all of it.

    Each call has a savepoint, so that one that raises is rolled back alone. Calls are done in
    their order, so those that need no sync have to wait for one only if a durable call came
    before them: the first ones of a group are committed, and told, ahead of the rest.
    """

    commits = 0
    """Transactions that wrote something and were synced, while somebody waited."""

    _lax: sqlite3.Connection | None = None
    """The connection, while its commits are not synced: a new one syncs them."""

    def run(self, calls: list[Call]) -> None:
        for alone, some in groupby(calls, key=lambda call: call.how == "alone"):
            group = list(some)
            if alone:
                for call in group:
                    self._alone(call)
                continue
            ahead = list(takewhile(lambda call: call.how == "lax", group))
            for part in (ahead, group[len(ahead) :]):
                self._group(part)
                self.settle(part)

    def _group(self, calls: list[Call]) -> None:
        if calls and not self._transaction(calls) and len(calls) > 1:
            # One of them may be too large for what is left of the disk. The others need not
            # fail with it.
            for call in calls:
                self._transaction([call])

    def _transaction(self, calls: list[Call]) -> bool:
        """Run them and commit. On failure nothing is kept and each call has the error."""
        durable = any(call.how == "durable" for call in calls)
        try:
            connection = self.connection()
            self._sync_commits(connection, durable)
            before = connection.total_changes
            connection.execute("BEGIN IMMEDIATE")
            errors = [self._savepoint(connection, call) for call in calls]
            connection.execute("COMMIT")
        except Exception as error:
            self.clean_up()
            for call in calls:
                call.error = self.typed(error)
            return False
        if connection.total_changes > before:
            self.commits += durable
            self.log.recovered()
        for call, failure in zip(calls, errors, strict=True):
            call.error = failure
        return True

    def _sync_commits(self, connection: sqlite3.Connection, durable: bool) -> None:
        """From the next transaction on; SQLite refuses it within one.

        With NORMAL a commit goes to the log and is not synced; whatever syncs the log next, a
        FULL commit or a checkpoint, syncs it too. So a power cut takes away the last commits, up
        to some point, and leaves the file sound (https://www.sqlite.org/pragma.html, synchronous).
        """
        if durable and self._lax is connection:
            connection.execute("PRAGMA synchronous = FULL")
            self._lax = None
        elif not durable and self._lax is not connection:
            # Noted first: if this fails half-way, the next durable call asks for FULL again.
            self._lax = connection
            connection.execute("PRAGMA synchronous = NORMAL")

    def _savepoint(self, connection: sqlite3.Connection, call: Call) -> Exception | None:
        connection.execute("SAVEPOINT call")
        try:
            call.result = call.work(connection)
        except Exception as error:
            if not connection.in_transaction:
                raise  # SQLite has rolled back all of it
            connection.execute("ROLLBACK TO call")
            return self.typed(error)
        finally:
            if connection.in_transaction:
                connection.execute("RELEASE call")
        return None

    def _alone(self, call: Call) -> None:
        try:
            call.result = call.work(self.connection())
            call.error = None
        except Exception as error:
            self.clean_up()
            call.error = self.typed(error)


class Reader(ConnectionThread):
    """Runs each call on a snapshot of its own, with everything that was committed before."""

    def run(self, calls: list[Call]) -> None:
        for call in calls:
            try:
                connection = self.connection()
                connection.execute("BEGIN")
                call.result = call.work(connection)
                connection.execute("COMMIT")
                call.error = None
                self.log.recovered()
            except Exception as error:
                self.clean_up()
                call.error = self.typed(error)


def _settle(calls: list[Call]) -> None:
    for call in calls:
        call.settle()


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
