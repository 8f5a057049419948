"""A process that adds jobs as fast as it can and prints each id when it is acknowledged.

`python ledger_child.py FILE WRITERS COUNT`: COUNT 0 means without end. An id is printed with `ok`
in front, or with the name of the error that its `add` ended with.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from ledger import new, open_ledger

from edge.errors import EdgeError
from edge.store.intake import Bounds


async def add_jobs(path: Path, writers: int, count: int) -> None:
    async with open_ledger(path, Bounds(10**9, 1 << 40)) as ledger:

        async def writer(first: int) -> None:
            number = first
            while not count or number < count:
                job = new(client=f"plc/{first}", request=bytes(number % 3000), target=b"topic")
                try:
                    await ledger.jobs.add(job)
                    outcome = "ok"
                except EdgeError as error:
                    outcome = type(error).__name__
                # One write, so that the line is out before the process can be killed.
                os.write(1, f"{outcome} {job.id}\n".encode())
                number += writers

        await asyncio.gather(*(writer(first) for first in range(writers)))


if __name__ == "__main__":
    asyncio.run(add_jobs(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
