"""What was acknowledged is there after SIGKILL at any moment, and nothing of it is half there."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
from pathlib import Path

from ledger import Ledger, open_ledger

CHILD = Path(__file__).with_name("ledger_child.py")


async def killed(path: Path, after: int) -> list[str]:
    """The ids that a child had acknowledged when it was killed, at some time after `after`."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CHILD), str(path), "16", "0"), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    lines = [await child.stdout.readline() for _ in range(after)]
    child.kill()
    lines += (await child.stdout.read()).splitlines()
    await child.wait()
    outcomes = [line.decode().split() for line in lines]
    assert {outcome for outcome, _ in outcomes} == {"ok"}
    return [job_id for _, job_id in outcomes]


def halves(connection: sqlite3.Connection) -> list[str]:
    """Jobs without their request, their delivery or their place in a lane, if there were any."""
    rows = connection.execute(
        "SELECT id FROM jobs WHERE seq NOT IN (SELECT job FROM requests)"
        " OR seq NOT IN (SELECT job FROM deliveries)"
        " UNION SELECT client FROM lanes WHERE waiting <> (SELECT count(*) FROM jobs"
        " WHERE jobs.client = lanes.client AND state = 'queued')"
    )
    return [row[0] for row in rows]


async def whole(ledger: Ledger) -> set[str]:
    """The ids of all jobs; the books are right."""
    assert ledger.database.set_aside is None
    assert await ledger.database.read(halves) == []
    ids = {job.id for job in await ledger.jobs.list(limit=1_000_000)}
    assert (await ledger.jobs.counts()).jobs["queued"] == len(ids)
    return ids


async def test_acknowledged_jobs_survive_sigkill(path: Path) -> None:
    """Ten times on one file, at random moments."""
    acknowledged: set[str] = set()
    for turn in range(10):
        acknowledged |= set(await killed(path, random.Random(turn).randrange(1, 200)))
        async with open_ledger(path) as ledger:
            assert acknowledged <= await whole(ledger)
    assert len(acknowledged) > 500
