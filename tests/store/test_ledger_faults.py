"""Disks that are full or fail: typed errors, nothing half done, and it goes on afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger import Gate, Ledger, new, open_ledger
from test_ledger_kill import CHILD, whole

from edge.errors import EdgeError, QueueFull, StoreBroken, StoreFull


@contextlib.contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """No file may grow beyond it: writes fail as on a broken disk. Works for everybody."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class SmallDisk:
    """A folder where `full()` makes every further write fail with `error`, within the context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
        self.error: type[EdgeError] = StoreFull if self.mounted else StoreBroken

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        if not self.mounted:
            with file_size_limit(0):
                yield
            return
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield
        filler.unlink()

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    small = SmallDisk(folder)
    yield small
    small.close()


async def until_full(ledger: Ledger, error: type[EdgeError]) -> list[str]:
    """The ids of the jobs that were taken before one failed."""
    ids = []
    with contextlib.suppress(error):
        while True:
            ids.append((await ledger.jobs.add(new(request=bytes(20_000), target=b""))).id)
    return ids


async def test_a_full_disk_stops_intake_and_recovers(
    disk: SmallDisk, caplog: pytest.LogCaptureFixture
) -> None:
    """queue_full while there is no room, reads go on, and it works again when there is room."""
    path = disk.folder / "jobs.db"
    async with open_ledger(path) as ledger:
        before = await ledger.jobs.add(new(target=b""))
        with disk.full(), caplog.at_level(logging.ERROR):
            taken = {before.id, *await until_full(ledger, disk.error)}
            refused = await asyncio.gather(
                *(ledger.jobs.add(new(request=bytes(20_000))) for _ in range(50)),
                return_exceptions=True,
            )
            assert {type(outcome) for outcome in refused} == {disk.error}
            assert await whole(ledger) == taken
            assert (await ledger.jobs.get(before.id)).state == "queued"
        assert len(caplog.records) == 1  # one line, not one for each
        caplog.clear()
        with caplog.at_level(logging.INFO):
            taken.add((await ledger.jobs.add(new(request=bytes(20_000), target=b""))).id)
        assert "recovered" in caplog.text
        assert (await ledger.claim()).id == before.id
        assert await ledger.jobs.finish(before.id, b"result")
    async with open_ledger(path) as ledger:
        assert ledger.database.set_aside is None
        assert {job.id for job in await ledger.jobs.list()} == taken


async def test_closing_on_a_full_disk_loses_nothing(disk: SmallDisk) -> None:
    """What was acknowledged is there when it is opened with room again."""
    path = disk.folder / "jobs.db"
    with contextlib.ExitStack() as stack:
        async with open_ledger(path) as ledger:
            first = await ledger.jobs.add(new(target=b""))
            stack.enter_context(disk.full())
            taken = {first.id, *await until_full(ledger, disk.error)}
    async with open_ledger(path) as ledger:
        assert await whole(ledger) == taken


async def test_opening_on_a_full_disk(disk: SmallDisk) -> None:
    """A typed error; with room it opens."""
    path = disk.folder / "jobs.db"
    with disk.full(), pytest.raises(disk.error):
        async with open_ledger(path):
            pass
    async with open_ledger(path) as ledger:
        assert ledger.database.set_aside is None
        await ledger.jobs.add(new())


def test_a_full_disk_is_a_full_queue() -> None:
    """Doors that know how to refuse work need not know why."""
    assert issubclass(StoreFull, QueueFull)
    assert StoreFull.code == "queue_full"


async def test_a_large_write_does_not_take_its_neighbours_along(path: Path) -> None:
    """Calls that shared a transaction with one that does not fit are run again by themselves."""
    async with open_ledger(path) as ledger:
        gate = Gate()
        blocked = asyncio.create_task(ledger.database.write(gate))
        await asyncio.to_thread(gate.entered.wait, 60)
        sizes = (100, 9_000_000, 100)
        adding = [asyncio.create_task(ledger.jobs.add(new(request=bytes(n)))) for n in sizes]
        await asyncio.sleep(0)
        with file_size_limit(3_000_000):
            gate.opened.set()
            await blocked
            outcomes = await asyncio.gather(*adding, return_exceptions=True)
        assert isinstance(outcomes[1], StoreBroken)
        stored = {job.id for job in await ledger.jobs.list()}
        assert stored == {outcome.id for outcome in outcomes if not isinstance(outcome, Exception)}
        assert len(stored) == 2
        assert (await ledger.jobs.counts()).jobs["queued"] == 2


async def test_io_errors_come_and_go(path: Path) -> None:
    """Ten times over: every call is answered, the connection is renewed, nothing is lost."""
    taken = set()
    async with open_ledger(path) as ledger:
        for _ in range(10):
            taken.add((await ledger.jobs.add(new(target=b""))).id)
            with file_size_limit(1):
                adding = (ledger.jobs.add(new(target=b"")) for _ in range(8))
                outcomes = await asyncio.gather(*adding, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StoreBroken}
        assert await whole(ledger) == taken


FAULTS = [
    ("fdatasync:error=EIO:when=15..20", "StoreBroken"),
    ("pwrite64:error=ENOSPC:when=400..450", "StoreFull"),
    ("pwrite64:error=EIO:when=400..450", "StoreBroken"),
]


@pytest.mark.parametrize(("fault", "error"), FAULTS)
async def test_failing_system_calls(path: Path, fault: str, error: str) -> None:
    """Syncs and writes that fail under way: the callers hear of it, later ones succeed."""
    async with open_ledger(path):
        pass  # the child has to open it without a fault
    call = fault.split(":")[0]
    child = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"),
        *("-e", f"inject={fault}", sys.executable, str(CHILD), str(path), "8", "400"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, log = await child.communicate()
    outcomes = [line.split() for line in out.decode().splitlines()]
    assert len(outcomes) == 400, log.decode()
    assert {outcome for outcome, _ in outcomes} == {"ok", error}
    assert outcomes[-1][0] == "ok"
    async with open_ledger(path) as ledger:
        assert {id_ for outcome, id_ in outcomes if outcome == "ok"} <= await whole(ledger)
