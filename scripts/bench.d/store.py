"""`./scripts/bench store`: durable inserts a second, and what a claim costs with a long queue.

The ledger alone. Its folder should be on the disk that the state directory is on, because a sync
is what most of the time goes into.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from edge.store.database import Database
from edge.store.intake import Bounds
from edge.store.job import NewJob
from edge.store.jobs import Jobs
from edge.store.schema import MIGRATIONS

QUEUED = 100_000
CLIENTS = 1_000
CLAIMS = 5_000
REQUEST = b'{"messages": [{"role": "user", "content": "' + b"x" * 400 + b'"}]}'


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def ledger(database: Database) -> Jobs:
    return Jobs(database, Bounds(10 * QUEUED, 1 << 40), result_ttl=3600)


def new_job(number: int) -> NewJob:
    return NewJob(
        line="local",
        client=f"plc/{number % CLIENTS}/reply",
        door="mqtt",
        kind="chat",
        request=REQUEST,
        target=b"plc/reply",
        deadline=time.time() + 86_400 if number % 3 else None,
    )


async def insert(jobs: Jobs, writers: int, total: int) -> float:
    """Seconds until `total` jobs are acknowledged to `writers` that each wait for theirs."""

    async def write(first: int) -> None:
        for number in range(first, total, writers):
            await jobs.add(new_job(number))

    started = time.perf_counter()
    await asyncio.gather(*(write(first) for first in range(writers)))
    return time.perf_counter() - started


async def inserts(folder: Path) -> Table:
    table = Table(title="inserts, each acknowledged after its sync")
    for column in ("writers", "inserts/s", "commits", "inserts per sync"):
        table.add_column(column, justify="right")
    for writers, total in ((1, 2_000), (16, 8_000), (128, 16_000)):
        async with Database(folder / f"{writers}.db", MIGRATIONS) as database:
            seconds = await insert(ledger(database), writers, total)
            row = (writers, total / seconds, database.commits, total / database.commits)
        table.add_row(*(f"{value:,.0f}" for value in row[:3]), f"{row[3]:.1f}")
    return table


def compute(rounds: int) -> int:
    """Nothing but arithmetic."""
    return sum(number * number for number in range(rounds))


class Control:
    """As much pure computing as a claim takes, in a thread as the ledger's: what the machine makes
    of it is not the ledger's doing."""

    def __init__(self, milliseconds: float) -> None:
        self._pool = ThreadPoolExecutor(1)
        began = time.perf_counter()
        compute(50_000)
        each = (time.perf_counter() - began) / 50_000
        self._rounds = int(milliseconds / 1000 / each)

    async def milliseconds(self) -> float:
        began = time.perf_counter()
        await asyncio.get_running_loop().run_in_executor(self._pool, compute, self._rounds)
        return 1000 * (time.perf_counter() - began)


async def claims(folder: Path) -> Table:
    table = Table(title=f"claims, not synced, with {QUEUED:,} jobs queued by {CLIENTS:,} clients")
    for column in ("", "p50 ms", "p99 ms", "worst ms"):
        table.add_column(column, justify="right")
    path, process = folder / "claims.db", psutil.Process()
    before = process.memory_info().rss
    async with Database(path, MIGRATIONS) as database:
        jobs = ledger(database)
        await insert(jobs, 256, QUEUED)
        times: list[float] = []
        controls: list[float] = []
        control: Control | None = None
        stolen = psutil.cpu_times().steal
        for _ in range(CLAIMS):
            started = time.perf_counter()
            await jobs.claim(time.time(), ("local",))
            times.append(1000 * (time.perf_counter() - started))
            if control is not None:  # in turns, so that both meet the same moments
                controls.append(await control.milliseconds())
            elif len(times) == CLAIMS // 50:
                control = Control(statistics.median(times))
        stolen = psutil.cpu_times().steal - stolen
        assert (await jobs.counts()).jobs["running"] == CLAIMS
        growth = (process.memory_info().rss - before) / 1e6
        waiting = (await jobs.list("queued", limit=1))[0]
        started = time.perf_counter()
        await jobs.position(waiting.id)
        position = 1000 * (time.perf_counter() - started)
    for name, some in (("a claim", times), ("as much computing", controls)):
        row = (statistics.median(some), percentile(some, 0.99), max(some))
        table.add_row(name, *(f"{value:.2f}" for value in row))
    size = path.stat().st_size / 1e6
    started = time.perf_counter()
    async with Database(path, MIGRATIONS):
        opening = time.perf_counter() - started
    table.caption = (
        f"{stolen:.1f} s of CPU were stolen by other machines meanwhile; memory grew by"
        f" {growth:.1f} MB; the file has {size:.0f} MB and was examined and opened again in"
        f" {opening:.2f} s; the place of the last job took {position:.1f} ms"
    )
    return table


async def measure(folder: Path) -> None:
    console = Console()
    # Before anything else has made the process grow.
    console.print(await claims(folder))
    console.print(await inserts(folder))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/bench store", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the files are put, for a while")
    with tempfile.TemporaryDirectory(dir=parser.parse_args().folder) as name:
        asyncio.run(measure(Path(name)))
