"""A process that adds records to a file and prints how many there are whenever they are synced.

`python reports_child.py FILE COUNT`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from edge.store.reports import Reports, Row

SYNCED = 20


async def add_records(path: Path, count: int) -> None:
    async with Reports(path) as reports:
        for number in range(count):
            await reports.add([Row(str(number), 0.0, bytes(number % 1000))])
            if number % SYNCED == 0:
                await reports.sync()
                os.write(1, f"ok {number + 1}\n".encode())


if __name__ == "__main__":
    asyncio.run(add_records(Path(sys.argv[1]), int(sys.argv[2])))
