"""A process that adds, claims, finishes and delivers jobs, and prints each step when it is done.

`python ledger_worker_child.py FILE ROUNDS`: one step after another. `sent` is printed before the
ledger is told that the outcome is delivered, as a door does it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from ledger import Ledger, new, open_ledger

from edge.store.job import Job


def tell(step: str, job: Job) -> None:
    # One write, so that it is seen as one system call.
    os.write(1, f"{step} {job.id}\n".encode())


async def work(ledger: Ledger) -> None:
    """Two jobs come; the first that can be claimed is done, the second goes back."""
    jobs = ledger.jobs
    for number in range(2):
        tell("added", await jobs.add(new(request=bytes(3000 * number), target=b"topic")))
    first = await ledger.claim()
    tell("claimed", first)
    second = await ledger.claim()
    tell("claimed", second)
    await jobs.requeue(second.id, counted=True)
    tell("requeued", second)
    await jobs.finish(first.id, b"result")
    tell("finished", first)
    tell("sent", first)
    await ledger.deliveries.delivered(first.id)
    tell("delivered", first)


async def rounds(path: Path, number: int) -> None:
    async with open_ledger(path) as ledger:
        for _ in range(number):
            await work(ledger)


if __name__ == "__main__":
    asyncio.run(rounds(Path(sys.argv[1]), int(sys.argv[2])))
