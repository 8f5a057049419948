"""What a key has used is kept: over restarts, over midnight, and while the disk refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.access import meter as meter_module
from edge.access.key import Key, Quota
from edge.access.meter import DAY, DAYS, Meter, day_of
from edge.errors import RateLimited, StoreFull
from edge.store.database import Database
from edge.store.schema import MIGRATIONS
from edge.store.usage import DayUsage, UsageTable, usage_in

NOON = 1_795_435_200.0
KEY = Key("press", [], quota=Quota(tokens_per_day=100))


class Clock:
    """Stands for the module `time` of the meter."""

    def __init__(self) -> None:
        self.now = NOON

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meter_module, "time", clock)
    return clock


def use(meter: Meter, tokens: int) -> None:
    with meter.admitted(KEY):
        meter.spent(KEY.name, tokens, 1)


async def test_a_restart_takes_nothing_from_it(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "jobs.sqlite"
    async with Database(path, MIGRATIONS) as database:
        meter = Meter(UsageTable(database))
        use(meter, 59)
        await meter.stop()
    async with Database(path, MIGRATIONS) as database:
        meter = Meter(UsageTable(database))
        await meter.restore()
        assert (meter.account("press").requests, meter.account("press").tokens) == (1, 60)
        use(meter, 39)
        with pytest.raises(RateLimited, match="100 tokens"):
            use(meter, 1)
        await meter.stop()
        # Others may look while it is open.
        assert usage_in(path, day_of(NOON)) == [DayUsage(day_of(NOON), "press", 2, 98, 2)]


async def test_days_follow_each_other_and_go(tmp_path: Path, clock: Clock) -> None:
    async with Database(tmp_path / "jobs.sqlite", MIGRATIONS) as database:
        meter = Meter(UsageTable(database))
        for day in range(DAYS + 10):
            clock.now = NOON + day * DAY
            use(meter, day)
            if day % 2:  # also what was not written before midnight is kept
                await meter._save()
        found = await meter.days("press")
        assert [row.day for row in found] == [
            day_of(clock.now - number * DAY) for number in range(1, DAYS + 1)
        ]
        assert [row.prompt_tokens for row in found[:3]] == [DAYS + 8, DAYS + 7, DAYS + 6]
        assert await meter.days("other") == []
        rows = await database.read(lambda c: c.execute("SELECT count(*) FROM usage").fetchone())
        assert rows[0] <= DAYS + 1


async def test_what_the_disk_refuses_is_written_later(clock: Clock) -> None:
    class Full:
        written: list[Any] = []  # noqa: RUF012
        full = True

        async def write(self, rows: Any, first: str) -> None:
            if self.full:
                raise StoreFull("no room")
            self.written += rows

    table: Any = Full()
    meter = Meter(table)
    use(meter, 5)
    await meter.stop()  # says so in the log, and goes on stopping
    table.full = False
    use(meter, 5)
    await meter._save()
    assert table.written == [DayUsage(day_of(NOON), "press", 2, 10, 2)]


def test_no_ledger_no_usage(tmp_path: Path) -> None:
    assert usage_in(tmp_path / "jobs.sqlite", "2026-11-23") == []
    (tmp_path / "jobs.sqlite").write_bytes(b"no database at all" * 100)
    assert usage_in(tmp_path / "jobs.sqlite", "2026-11-23") == []
