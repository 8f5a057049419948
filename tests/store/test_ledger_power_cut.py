"""What was acknowledged is there after a power cut at any moment, whatever was not synced."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from ledger import open_ledger
from power_cut import STRACE, Call, Disk, calls
from test_ledger_kill import whole

CHILD = Path(__file__).with_name("ledger_child.py")
CUTS = 60


async def traced(path: Path) -> list[Call]:
    """The calls of a child that adds 300 jobs with 8 writers, and moves its log at the end."""
    trace = path.with_name("trace")
    child = await asyncio.create_subprocess_exec(
        *(*STRACE, "-o", str(trace), sys.executable, str(CHILD), str(path), "8", "300"),
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await child.wait() == 0
    return calls(trace)


async def test_acknowledged_jobs_survive_power_cuts(path: Path, tmp_path: Path) -> None:
    """Sixty moments of one run, the last of them while the log is moved into the file."""
    history = await traced(path)
    chance = random.Random(7)
    acknowledgements = [at for at, call in enumerate(history) if call.data.startswith(b"ok ")]
    assert len(acknowledged_ids(history)) == 300
    first, last = acknowledgements[0], acknowledgements[-1]
    moments = sorted(
        chance.sample(range(first, last), CUTS - 20)
        + [chance.randrange(last, len(history)) for _ in range(20)]
    )
    disk, done = Disk(), 0
    for moment in moments:
        for call in history[done:moment]:
            disk.apply(call)
        done = moment
        folder = tmp_path / str(moment)
        folder.mkdir(exist_ok=True)
        for name, content in disk.after_a_cut(chance).items():
            if name.startswith(str(path)) and not name.endswith("-shm"):
                (folder / Path(name).name).write_bytes(content)
        async with open_ledger(folder / path.name) as ledger:
            assert acknowledged_ids(history[:moment]) <= await whole(ledger)


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


def acknowledged_ids(history: list[Call]) -> set[str]:
    lines = [call.data.decode().split() for call in history if call.data.startswith(b"ok ")]
    return {job_id for _, job_id in lines}
