"""A process that reports finished work as fast as it can, until it is killed.

`python reporting_child.py FILE URL NAME`: prints the number of each record once it is in the file.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from pathlib import Path

from edge.config.doors import Device
from edge.config.keeping import Sync
from edge.metrics import Metrics
from edge.store.reports import Reports, Row
from edge.sync.reporter import Record, Reporter
from edge.types import Request, Sampling, TextPrompt


async def report(path: Path, url: str, name: str) -> None:
    settings = Sync(report_url=url, interval_seconds=0.01, batch=20)
    request = Request("", [TextPrompt("text")], Sampling())
    async with Reports(path) as reports:
        reporter = Reporter(reports, settings, Device("press-07"), Metrics())
        running = asyncio.create_task(reporter.run())
        add = reports.add

        async def tell(rows: list[Row]) -> object:
            books = await add(rows)
            # One write, so that the lines are out before the process can be killed.
            os.write(1, "".join(f"{row.id}\n" for row in rows).encode())
            return books

        reports.add = tell  # type: ignore[assignment,method-assign]
        for number in itertools.count():
            record = Record(
                id=f"{name}.{number}",
                time=time.time(),
                door="http",
                route="local",
                model="m",
                status="ok",
                seconds=0.1,
            )
            reporter.note(record, request, [])
            await asyncio.sleep(0.001)
        await running


if __name__ == "__main__":
    asyncio.run(report(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
