"""Records that wait to be reported: in order, once each, within their bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ledger import log_of, size

from edge.store.reports import OVERHEAD, Books, Reports, Row


def row(number: int, body: bytes = b"body") -> Row:
    return Row(f"id-{number}", float(number), body)


def rows(numbers: range, body: bytes = b"body") -> list[Row]:
    return [row(number, body) for number in numbers]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "reports.sqlite"


@pytest.fixture
async def reports(file: Path) -> AsyncIterator[Reports]:
    async with Reports(file) as opened:
        yield opened


async def test_the_oldest_come_first(reports: Reports) -> None:
    """In the order of their arrival, up to a number of records and of bytes."""
    assert await reports.oldest(10, 1000) == []
    await reports.add(rows(range(5, 10)))
    await reports.add(rows(range(5)))
    expected = [*rows(range(5, 10)), *rows(range(5))]
    assert await reports.oldest(100, 1000) == expected
    assert await reports.oldest(7, 1000) == expected[:7]
    assert await reports.oldest(100, 12) == expected[:3]
    assert await reports.oldest(100, 1) == expected[:1]


async def test_a_record_made_twice_is_one(reports: Reports) -> None:
    """Within one group and over several; the first is the one that counts."""
    assert await reports.add([row(1), row(1, b"again"), row(2)]) == Books(2, 0)
    assert await reports.add([row(2, b"again")]) == Books(2, 0)
    assert await reports.oldest(10, 1000) == [row(1), row(2)]


async def test_what_was_taken_goes(reports: Reports) -> None:
    """It alone; removing it again changes nothing."""
    await reports.add(rows(range(10)))
    assert await reports.remove(rows(range(3, 7))) == Books(6, 0)
    assert await reports.remove(rows(range(3, 7))) == Books(6, 0)
    assert await reports.oldest(10, 1000) == [*rows(range(3)), *rows(range(7, 10))]
    await reports.clear()
    assert await reports.books() == Books(0, 0)


async def test_too_many(file: Path) -> None:
    """The oldest give way, and it is said how many."""
    async with Reports(file, max_rows=10) as reports:
        assert await reports.add(rows(range(8))) == Books(8, 0)
        assert await reports.add(rows(range(8, 13))) == Books(10, 3)
        assert await reports.oldest(100, 1000) == rows(range(3, 13))
        assert await reports.add(rows(range(100, 130))) == Books(10, 30)
        assert await reports.oldest(100, 1000) == rows(range(120, 130))


async def test_too_large(file: Path) -> None:
    """Bytes are bounded as well as records, with what a row costs beside its body."""
    body = bytes(1000)
    async with Reports(file, max_bytes=5 * (1000 + OVERHEAD)) as reports:
        assert await reports.add(rows(range(7), body)) == Books(5, 2)
        assert await reports.add([row(8, bytes(2000))]) == Books(4, 2)
        assert await reports.oldest(100, 1 << 20) == [*rows(range(4, 7), body), row(8, bytes(2000))]
        assert await reports.add([row(9, bytes(10_000))]) == Books(0, 5)


async def test_the_bound_of_bytes_is_the_files(file: Path) -> None:
    """What is counted for a row is about what it takes."""
    bound = 1 << 20
    async with Reports(file, max_bytes=bound) as reports:
        for first in range(0, 20_000, 1000):
            await reports.add(rows(range(first, first + 1000), bytes(150)))
        await reports.sync()
        assert 0.7 * bound < size(file) < 1.3 * bound


async def test_a_restart(file: Path) -> None:
    """Everything is there again, in its order, with its books."""
    async with Reports(file) as reports:
        await reports.add(rows(range(10)))
    async with Reports(file) as reports:
        assert await reports.books() == Books(10, 0)
        assert await reports.oldest(100, 1000) == rows(range(10))


async def test_a_sync_moves_the_log_into_the_file(reports: Reports, file: Path) -> None:
    """Which is when SQLite syncs it."""
    await asyncio.gather(*(reports.add([row(number)]) for number in range(100)))
    assert size(log_of(file)) > 0
    await reports.sync()
    assert size(log_of(file)) == 0
