"""What was acknowledged is there after a power cut at any moment, whatever was not synced."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from ledger import LINE, START, open_ledger
from power_cut import STRACE, Call, Disk, calls
from test_ledger_kill import whole

CHILD = Path(__file__).with_name("ledger_child.py")
WORKER = Path(__file__).with_name("ledger_worker_child.py")
STEPS = ("added", "claimed", "requeued", "finished", "sent", "delivered")
CUTS = 60


async def traced(path: Path, program: Path, *arguments: str) -> list[Call]:
    """The calls of a child that writes to the ledger there, and moves its log at the end."""
    trace = path.with_name("trace")
    child = await asyncio.create_subprocess_exec(
        *(*STRACE, "-o", str(trace), sys.executable, str(program), str(path), *arguments),
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await child.wait() == 0
    return calls(trace)


async def test_acknowledged_jobs_survive_power_cuts(path: Path, tmp_path: Path) -> None:
    """Sixty moments of one run, the last of them while the log is moved into the file."""
    history = await traced(path, CHILD, "8", "300")
    chance = random.Random(7)
    acknowledgements = [at for at, call in enumerate(history) if call.data.startswith(b"ok ")]
    assert len(acknowledged_ids(history)) == 300
    first, last = acknowledgements[0], acknowledgements[-1]
    moments = sorted(
        chance.sample(range(first, last), CUTS - 20)
        + [chance.randrange(last, len(history)) for _ in range(20)]
    )
    for moment, left in cuts(history, moments, path, tmp_path, chance):
        async with open_ledger(left) as ledger:
            assert acknowledged_ids(history[:moment]) <= await whole(ledger)


async def test_what_a_power_cut_may_take_back(path: Path, tmp_path: Path) -> None:
    """A claim that is lost brings its job again, a delivery that is lost is sent again, and no
    job, result or outcome that is owed is lost."""
    history = await traced(path, WORKER, "20")
    chance = random.Random(11)
    (first, *_), (*_, last) = (
        [at for at, call in enumerate(history) if call.data.startswith(step)]
        for step in (b"added ", b"delivered ")
    )
    lost_claims = lost_deliveries = 0
    moments = sorted(chance.sample(range(first, last), CUTS))
    for moment, left in cuts(history, moments, path, tmp_path, chance):
        told = told_ids(history[:moment])
        async with open_ledger(left) as ledger:
            assert ledger.database.set_aside is None
            jobs = {job.id: job for job in await ledger.jobs.list(limit=1000)}
            assert told["added"] <= set(jobs)
            done = {id_ for id_, job in jobs.items() if job.state == "done"}
            assert told["finished"] <= done
            due = {one.id for one in await ledger.deliveries.due("mqtt", START, 1000)}
            assert done - told["sent"] <= due <= done
            lost_deliveries += len(due & told["delivered"])
            running = {id_ for id_, job in jobs.items() if job.state == "running"}
            lost_claims += bool(told["claimed"] - told["requeued"] - done - running)
            await ledger.jobs.requeue_running()
            again = set()
            while job := await ledger.jobs.claim(START, [LINE]):
                again.add(job.id)
            assert again == set(jobs) - done
    assert lost_claims
    assert lost_deliveries


async def test_syncs_of_each_step(path: Path) -> None:
    """What is acknowledged is synced first; what any restart repeats waits for no sync."""
    history = await traced(path, WORKER, "10")
    syncs: dict[str, set[int]] = {}
    since = 0
    for call in history:
        if "sync" in call.name and call.path.startswith(str(path)):
            since += 1
        elif call.name == "write":
            syncs.setdefault(call.data.decode().split()[0], set()).add(since)
            since = 0
    # The first of all comes after what opening a new file takes.
    assert syncs.pop("added") >= {1}
    assert syncs == {
        "claimed": {0},
        "requeued": {0},
        "finished": {1},
        "sent": {0},
        "delivered": {0},
    }


def test_a_lost_sync_would_be_noticed() -> None:
    """The disk of these tests forgets what was not synced."""
    disk = Disk()
    for call in (
        Call("pwrite64", "f", b"old"),
        Call("fdatasync", "f"),
        Call("pwrite64", "f", b"new"),
    ):
        disk.apply(call)
    seen = {disk.after_a_cut(random.Random(seed))["f"] for seed in range(20)}
    assert seen == {b"old", b"new"}


def cuts(
    history: list[Call], moments: list[int], path: Path, folder: Path, chance: random.Random
) -> Iterator[tuple[int, Path]]:
    """Each moment with the file that a power cut then leaves."""
    disk, done = Disk(), 0
    for moment in moments:
        for call in history[done:moment]:
            disk.apply(call)
        done = moment
        left = folder / str(moment) / path.name
        left.parent.mkdir(exist_ok=True)
        for name, content in disk.after_a_cut(chance).items():
            if name.startswith(str(path)) and not name.endswith("-shm"):
                (left.parent / Path(name).name).write_bytes(content)
        yield moment, left


def told_ids(history: list[Call]) -> dict[str, set[str]]:
    """By step, of the jobs that the worker told of."""
    ids: dict[str, set[str]] = {step: set() for step in STEPS}
    for call in history:
        if call.name == "write":
            step, job_id = call.data.decode().split()
            ids[step].add(job_id)
    return ids


def acknowledged_ids(history: list[Call]) -> set[str]:
    lines = [call.data.decode().split() for call in history if call.data.startswith(b"ok ")]
    return {job_id for _, job_id in lines}
