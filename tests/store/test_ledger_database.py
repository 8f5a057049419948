"""The database: shared syncs, savepoints, snapshots, migrations, one owner, closing."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from ledger import Gate, Ledger, contents, copy, log_of, new, size

from edge.errors import InvalidRequest, StoreBroken, StoreInUse, StoreTooNew
from edge.store.database import Database
from edge.store.schema import MIGRATIONS

NUMBERS = ("CREATE TABLE numbers (n INTEGER PRIMARY KEY) STRICT;",)


def insert(n: int):
    return lambda c: c.execute("INSERT INTO numbers VALUES (?)", (n,)).lastrowid


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [n for (n,) in connection.execute("SELECT n FROM numbers ORDER BY n")]


def pragma(name: str):
    return lambda c: c.execute(f"PRAGMA {name}").fetchone()[0]


async def gate_in(database: Database) -> tuple[Gate, asyncio.Task[None]]:
    """A gate that the writer waits at, and the write that brought it there."""
    gate = Gate()
    blocked = asyncio.create_task(database.write(gate))
    await asyncio.to_thread(gate.entered.wait, 60)
    return gate, blocked


async def test_write_returns_what_the_work_returned(path: Path) -> None:
    """The result comes out of `write`, and a read sees the rows at once."""
    async with Database(path, NUMBERS) as database:
        assert await database.write(insert(7)) == 7
        assert await database.read(numbers) == [7]


async def test_concurrent_inserts_share_one_sync(ledger: Ledger) -> None:
    """64 jobs that come while the writer is busy are acknowledged by a single commit."""
    before = ledger.database.commits
    gate, blocked = await gate_in(ledger.database)
    adding = [asyncio.create_task(ledger.jobs.add(new())) for _ in range(64)]
    await asyncio.sleep(0)  # all of them have asked
    gate.opened.set()
    jobs = await asyncio.gather(*adding)
    await blocked
    assert ledger.database.commits - before == 1
    assert {job.id for job in jobs} == {job.id for job in await ledger.jobs.list()}


async def test_concurrent_writers_need_fewer_syncs_than_inserts(ledger: Ledger) -> None:
    """The same without holding the writer back: grouping comes by itself."""
    before = ledger.database.commits

    async def writer() -> None:
        for _ in range(10):
            await ledger.jobs.add(new())

    await asyncio.gather(*(writer() for _ in range(64)))
    assert (await ledger.jobs.counts()).jobs["queued"] == 640
    assert ledger.database.commits - before < 320


async def test_more_than_one_group(path: Path) -> None:
    """Thousands that wait at once are committed in groups of a bounded size, in order."""
    async with Database(path, NUMBERS) as database:
        gate, blocked = await gate_in(database)
        writes = [asyncio.ensure_future(database.write(insert(n))) for n in range(1, 2501)]
        await asyncio.sleep(0)
        gate.opened.set()
        await blocked
        assert await asyncio.gather(*writes) == list(range(1, 2501))
        assert 3 <= database.commits <= 5


async def test_a_write_that_need_not_be_synced(path: Path) -> None:
    """It is committed and seen by all, it counts as no sync, and durable ones do as before."""
    async with Database(path, NUMBERS) as database:
        for number in range(4):
            assert await database.write(insert(number), durable=False) == number
        assert await database.read(numbers) == [0, 1, 2, 3]
        assert database.commits == 0
        assert await database.write(pragma("synchronous"), durable=False) == 1
        assert await database.write(pragma("synchronous")) == 2
        await database.write(insert(4))
        await database.write(insert(5), durable=False)
        assert database.commits == 1


async def test_a_durable_write_makes_its_group_durable(path: Path) -> None:
    """Calls keep their order: one that needs no sync waits for it if it comes behind others."""
    async with Database(path, NUMBERS) as database:
        gate, blocked = await gate_in(database)
        some = [asyncio.ensure_future(database.write(insert(n))) for n in (1, 2)]
        lax = asyncio.ensure_future(database.write(pragma("synchronous"), durable=False))
        await asyncio.sleep(0)
        gate.opened.set()
        await asyncio.gather(blocked, *some)
        assert await lax == 2
        assert database.commits == 1


async def test_what_needs_no_sync_does_not_wait_for_those_behind(path: Path) -> None:
    """The first calls of a group are told while the durable ones are still at it."""
    async with Database(path, NUMBERS) as database:
        gate, blocked = await gate_in(database)
        lax = [asyncio.ensure_future(database.write(insert(n), durable=False)) for n in (1, 2)]
        second = Gate()
        durable = asyncio.ensure_future(database.write(second))
        await asyncio.sleep(0)
        gate.opened.set()
        assert await asyncio.wait_for(asyncio.gather(*lax), 30) == [1, 2]
        assert not durable.done()
        second.opened.set()
        await asyncio.gather(blocked, durable)


async def test_a_new_connection_syncs(path: Path) -> None:
    """When the last one had to be given up after a write that was not synced."""

    def leave(connection: sqlite3.Connection) -> None:
        raise SystemExit

    async with Database(path, NUMBERS) as database:
        await database.write(insert(1), durable=False)
        with pytest.raises(StoreBroken):
            await database.write(leave, durable=False)
        assert await database.write(pragma("synchronous")) == 2


async def test_a_write_that_raises_is_rolled_back_alone(path: Path) -> None:
    """Its neighbours in the same transaction are kept, and it gets its own error."""

    def bad(connection: sqlite3.Connection) -> None:
        insert(2)(connection)
        raise InvalidRequest("no")

    async with Database(path, NUMBERS) as database:
        gate, blocked = await gate_in(database)
        writes = [asyncio.ensure_future(database.write(w)) for w in (insert(1), bad, insert(3))]
        await asyncio.sleep(0)
        gate.opened.set()
        await blocked
        first, second, third = await asyncio.gather(*writes, return_exceptions=True)
        assert (first, third) == (1, 3)
        assert isinstance(second, InvalidRequest)
        assert await database.read(numbers) == [1, 3]
        assert database.commits == 1


async def test_errors_of_the_work_come_out_as_they_are(path: Path) -> None:
    """Neither a constraint nor a StopIteration is swallowed, and the writer goes on."""
    async with Database(path, NUMBERS) as database:
        await database.write(insert(1))
        with pytest.raises(sqlite3.IntegrityError):
            await database.write(insert(1))
        with pytest.raises(RuntimeError, match="StopIteration"):
            await database.write(lambda c: next(iter(())))
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await database.read(lambda c: c.execute("SELECT * FROM absent"))
        assert await database.write(insert(2)) == 2


async def test_work_that_commits_by_itself_is_an_error(path: Path) -> None:
    """A broken transaction is cleaned up; the next write works."""
    async with Database(path, NUMBERS) as database:
        with pytest.raises(sqlite3.OperationalError):
            await database.write(lambda c: c.execute("COMMIT"))
        assert await database.write(insert(2)) == 2


async def test_the_writer_survives_what_is_no_exception(path: Path) -> None:
    """Even a SystemExit in a call neither kills the thread nor leaves the caller waiting."""

    def leave(connection: sqlite3.Connection) -> None:
        raise SystemExit

    async with Database(path, NUMBERS) as database:
        with pytest.raises(StoreBroken):
            await database.write(leave)
        assert await database.write(insert(1)) == 1


async def test_a_cancelled_caller_does_not_undo_its_write(path: Path) -> None:
    """The write was queued: it takes place, and nobody is told."""
    async with Database(path, NUMBERS) as database:
        gate, blocked = await gate_in(database)
        write = asyncio.create_task(database.write(insert(5)))
        await asyncio.sleep(0)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        gate.opened.set()
        await blocked
        await database.write(insert(6))
        assert await database.read(numbers) == [5, 6]


async def test_reads_go_on_while_the_writer_is_busy(path: Path) -> None:
    """A read neither waits for the writer nor sees what is not committed."""
    async with Database(path, NUMBERS) as database:
        await database.write(insert(1))
        gate = Gate()
        write = asyncio.create_task(database.write(lambda c: (insert(2)(c), gate(c))))
        await asyncio.to_thread(gate.entered.wait, 60)
        assert await database.read(numbers) == [1]
        gate.opened.set()
        await write
        assert await database.read(numbers) == [1, 2]


async def test_a_read_cannot_write(path: Path) -> None:
    """The reader's connection refuses."""
    async with Database(path, NUMBERS) as database:
        with pytest.raises(StoreBroken, match="readonly"):
            await database.read(insert(1))
        assert await database.read(numbers) == []


async def test_settings_of_the_file(path: Path) -> None:
    """WAL, every commit synced, foreign keys kept, a file that can shrink, for our eyes only."""
    async with Database(path, NUMBERS) as database:
        wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "auto_vacuum": 2}
        for name, value in (wanted | {"busy_timeout": 5000, "user_version": 1}).items():
            assert await database.write(pragma(name)) == value, name
        await database.write(insert(1))
        for suffix in ("", "-wal", "-shm"):
            assert stat.S_IMODE(os.stat(f"{path}{suffix}").st_mode) == 0o600


async def test_threads_are_named_and_daemonic(path: Path) -> None:
    """Two threads while it is open, none afterwards."""

    def ours() -> dict[str, bool]:
        return {t.name: t.daemon for t in threading.enumerate() if t.name.startswith(path.name)}

    async with Database(path, NUMBERS):
        assert ours() == {"jobs.db writer": True, "jobs.db reader": True}
    assert ours() == {}


async def test_closing_does_what_was_queued(path: Path) -> None:
    """Writes that wait are committed, the log is moved into the file, later calls are refused."""
    async with Database(path, NUMBERS) as database:
        gate, blocked = await gate_in(database)
        writes = [asyncio.create_task(database.write(insert(n))) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        gate.opened.set()
    await blocked
    assert [write.result() for write in writes] == [1, 2, 3]
    assert size(log_of(path)) == -1
    for call in (database.write(insert(4)), database.read(numbers), database.checkpoint()):
        with pytest.raises(StoreBroken, match="closed"):
            await call
    async with Database(path, NUMBERS) as database:
        assert await database.read(numbers) == [1, 2, 3]


async def test_folders_are_made(tmp_path: Path) -> None:
    """The state directory need not be there, and is for its owner only."""
    path = tmp_path / "a" / "b" / "jobs.db"
    async with Database(path, NUMBERS) as database:
        await database.write(insert(1))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    """A typed error with a hint, and no thread is left behind."""
    (tmp_path / "state").write_text("")
    with pytest.raises(StoreBroken, match="state"):
        async with Database(tmp_path / "state" / "jobs.db", NUMBERS):
            pass
    assert not [t for t in threading.enumerate() if t.name.startswith("jobs.db")]


async def test_only_one_process_may_own_it(path: Path) -> None:
    """A second owner is refused, until the first one is done."""
    async with Database(path, NUMBERS) as database:
        with pytest.raises(StoreInUse):
            async with Database(path, NUMBERS):
                pass
        assert await database.write(insert(1)) == 1
    async with Database(path, NUMBERS) as database:
        assert await database.read(numbers) == [1]


async def test_migrations_run_in_order_and_once(path: Path) -> None:
    """Each version's script is run on files that are older, and rows stay."""
    async with Database(path, NUMBERS) as database:
        await database.write(insert(1))
    more = (*NUMBERS, "ALTER TABLE numbers ADD COLUMN name TEXT DEFAULT 'x';", "SELECT 1;")
    for _ in range(2):
        async with Database(path, more) as database:
            assert await database.read(pragma("user_version")) == 3
            rows = await database.read(lambda c: c.execute("SELECT * FROM numbers").fetchall())
            assert rows == [(1, "x")]


async def test_a_failing_migration_changes_nothing(path: Path) -> None:
    """All of a migration or nothing; the file still opens with the old software."""
    async with Database(path, NUMBERS) as database:
        await database.write(insert(1))
    with pytest.raises(StoreBroken, match="schema version 2"):
        async with Database(path, (*NUMBERS, "CREATE TABLE more (x); NONSENSE;")):
            pass
    async with Database(path, NUMBERS) as database:
        assert database.set_aside is None
        tables = await database.read(
            lambda c: c.execute("SELECT name FROM sqlite_schema WHERE type='table'").fetchall()
        )
        assert tables == [("numbers",)]


async def test_a_newer_schema_is_refused(path: Path) -> None:
    """The error says both versions, and the file stays as it is."""
    async with Database(path, (*MIGRATIONS, "CREATE TABLE future (x);")):
        pass
    before = contents(path)
    version = len(MIGRATIONS)
    with pytest.raises(StoreTooNew, match=rf"version {version + 1}.*up to {version}") as caught:
        async with Database(path, MIGRATIONS):
            pass
    assert caught.value.hint
    assert contents(path) == before


async def test_opens_after_an_unclean_stop(path: Path, tmp_path: Path) -> None:
    """A copy of the files as they lie while it is open has every committed row."""
    async with Database(path, NUMBERS) as database:
        await database.write(insert(1))
        await database.write(insert(2))
        cut = tmp_path / "cut.db"
        copy(path, cut)
    async with Database(cut, NUMBERS) as database:
        assert database.set_aside is None
        assert await database.read(numbers) == [1, 2]
