"""A file whose commits are not synced after a power cut: sound, and without its latest records."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from power_cut import STRACE, Call, Disk, calls

from edge.store.reports import Reports

CHILD = Path(__file__).with_name("reports_child.py")
COUNT = 300
CUTS = 60


async def traced(path: Path) -> list[Call]:
    trace = path.with_name("trace")
    child = await asyncio.create_subprocess_exec(
        *(*STRACE, "-o", str(trace), sys.executable, str(CHILD), str(path), str(COUNT)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await child.wait() == 0
    return calls(trace)


async def test_records_survive_power_cuts(tmp_path: Path) -> None:
    """All up to the last sync are there, and of the later ones the first, with none left out."""
    path = tmp_path / "reports.sqlite"
    history = await traced(path)
    chance = random.Random(11)
    first = next(at for at, call in enumerate(history) if call.data.startswith(b"ok "))
    disk, done, fewest, lost = Disk(), 0, 0, 0
    for moment in sorted(chance.sample(range(first + 1, len(history)), CUTS)):
        for call in history[done:moment]:
            disk.apply(call)
            if call.data.startswith(b"ok "):
                fewest = int(call.data.split()[1])
        done = moment
        folder = tmp_path / str(moment)
        folder.mkdir()
        for name, content in disk.after_a_cut(chance).items():
            if name.startswith(str(path)) and not name.endswith("-shm"):
                (folder / Path(name).name).write_bytes(content)
        async with Reports(folder / path.name) as reports:
            assert reports._database.set_aside is None
            found = [int(row.id) for row in await reports.oldest(COUNT, 1 << 30)]
            assert (await reports.books()).pending == len(found)
        assert found == list(range(len(found)))
        assert fewest <= len(found)
        lost += len(found) < COUNT
    assert lost > CUTS / 2
