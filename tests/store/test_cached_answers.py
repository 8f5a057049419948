"""The file of answers: what it gives back, what leaves it, and how little its loss matters."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from ledger import Clock, contents, log_of, size
from test_ledger_damage import DAMAGES
from test_ledger_faults import SmallDisk, disk

from edge.errors import StoreBroken
from edge.store.answers import _MOST_NOTED, USE_SECONDS, Answers

__all__ = ["disk"]

BOUND = 512 << 10


def name(number: int) -> bytes:
    return sha256(str(number).encode()).digest()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache.sqlite"


@pytest.fixture
async def answers(file: Path, clock: Clock) -> AsyncIterator[Answers]:
    async with Answers(file, BOUND, clock=clock) as opened:
        yield opened


async def present(answers: Answers, numbers: range) -> list[int]:
    return [n for n in numbers if await answers.get(name(n), 0) is not None]


async def put_many(answers: Answers, numbers: range) -> None:
    for number in numbers:
        await answers.put(name(number), bytes(20_000))


def used_bytes(file: Path) -> int:
    """What is in the file and not free, by a connection of our own."""
    with closing(sqlite3.connect(file)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return size * (pages - free)


async def test_an_answer_comes_back(answers: Answers) -> None:
    """Byte for byte, under its own key only; a later one takes its place."""
    assert await answers.get(name(1), 0) is None
    assert await answers.put(name(1), b"\0first\xff")
    assert await answers.get(name(1), 0) == b"\0first\xff"
    assert await answers.get(name(2), 0) is None
    assert await answers.put(name(1), b"second")
    assert await answers.get(name(1), 0) == b"second"


async def test_it_survives_a_restart(file: Path) -> None:
    """The file is opened again with what was in it."""
    async with Answers(file, BOUND) as answers:
        await answers.put(name(1), b"body")
    async with Answers(file, BOUND) as answers:
        assert await answers.get(name(1), 0) == b"body"


async def test_the_age_that_is_asked_for(answers: Answers, clock: Clock) -> None:
    """Neither an older one is given, nor one out of a future that a wrong clock made."""
    made = clock.now
    await answers.put(name(1), b"body")
    clock.now += 10
    assert await answers.get(name(1), made) == b"body"
    assert await answers.get(name(1), made + 0.001) is None
    clock.now = made - 1
    assert await answers.get(name(1), 0) is None


@pytest.mark.parametrize(
    ("largest", "count"), [(100, 6000), (1500, 1500), (2500, 1500), (20_000, 500)]
)
async def test_the_bound_holds_after_every_put(file: Path, largest: int, count: int) -> None:
    """With bodies of all sizes; each is there after its put, and the file never outgrows it."""
    chance = random.Random(largest)
    async with Answers(file, BOUND) as answers:
        for number in range(count):
            assert await answers.put(name(number), chance.randbytes(chance.randrange(largest)))
            if number % 10 == 0:
                assert await answers.get(name(number), 0) is not None
                assert used_bytes(file) <= BOUND
                assert size(file) <= BOUND
        kept = await present(answers, range(count))
    # Most of the file is answers: the overhead is honest and not a pretext.
    assert len(kept) * (largest / 2 + 40) > BOUND / 3
    assert used_bytes(file) > BOUND / 2


async def test_the_least_used_leave_first(answers: Answers, clock: Clock) -> None:
    """Those that are asked for now and then stay for as long as others come and go."""
    favourites = range(0, 50, 10)
    for number in range(1000):
        await answers.put(name(number), bytes(2000))
        clock.now += 1
        if number >= 50 and number % 50 == 0:
            assert await present(answers, favourites) == list(favourites)
    kept = await present(answers, range(1000))
    assert set(favourites) < set(kept)
    others = [number for number in kept if number not in favourites]
    assert others == list(range(others[0], 1000))


async def test_a_hit_costs_no_write(file: Path, answers: Answers, clock: Clock) -> None:
    """Not even the one that notes the use: it waits for the next write."""
    for number in range(50):
        await answers.put(name(number), b"body")
    before = contents(log_of(file))
    for _ in range(5):
        clock.now += USE_SECONDS + 1
        assert await present(answers, range(50)) == list(range(50))
    assert contents(log_of(file)) == before


async def test_noted_uses_are_bounded(file: Path, clock: Clock) -> None:
    """After so many different hits they are written, though nothing is put in."""
    async with Answers(file, 64 << 20, clock=clock) as answers:
        for number in range(_MOST_NOTED):
            await answers.put(name(number), b"")
        clock.now += USE_SECONDS
        await present(answers, range(_MOST_NOTED))
        with closing(sqlite3.connect(file)) as connection:
            (oldest,) = connection.execute("SELECT min(used) FROM answers").fetchone()
    assert oldest == clock.now


async def test_what_is_too_large_is_not_kept(answers: Answers, file: Path, tmp_path: Path) -> None:
    """One body must not drive out all others; under a tiny bound there is nothing at all."""
    for number in range(10):
        await answers.put(name(number), bytes(2000))
    assert not await answers.put(name(99), bytes(BOUND // 2))
    assert await present(answers, range(10)) == list(range(10))
    async with Answers(tmp_path / "tiny.sqlite", 30_000) as tiny:
        assert not await tiny.put(name(1), b"body")
        assert await tiny.get(name(1), 0) is None


async def test_old_answers_leave(answers: Answers, clock: Clock, file: Path) -> None:
    """In pieces, with those of a future that was none; what is young stays."""
    for number in range(900):
        await answers.put(name(number), b"old")
    clock.now += 1e6
    await answers.put(name(1000), b"too new")
    clock.now -= 1e6 - 100
    await answers.put(name(1001), b"young")
    assert await answers.expire(clock.now - 50) == 901
    assert await answers.expire(clock.now - 50) == 0
    assert await present(answers, range(1002)) == [1001]


async def test_a_smaller_bound_is_kept_from_the_next_put_on(file: Path) -> None:
    """The configuration may change from one start to the next."""
    async with Answers(file, 4 * BOUND) as answers:
        for number in range(500):
            await answers.put(name(number), bytes(3000))
    assert size(file) > BOUND
    async with Answers(file, BOUND) as answers:
        await answers.put(name(1000), b"body")
        assert used_bytes(file) <= BOUND


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_is_begun_anew(
    file: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, nothing set aside, and it works."""
    async with Answers(file, BOUND) as answers:
        for number in range(200):
            await answers.put(name(number), bytes(500))
    DAMAGES[damage](file)
    with caplog.at_level(logging.WARNING):
        async with Answers(file, BOUND) as answers:
            assert await present(answers, range(200)) == []
            assert await answers.put(name(1), b"body")
            assert await answers.get(name(1), 0) == b"body"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert sorted(os.listdir(file.parent)) == ["cache.sqlite", "cache.sqlite.lock"]


async def test_the_file_of_a_later_version_is_begun_anew(file: Path) -> None:
    """Nobody need move a cache away to install the previous version again."""
    async with Answers(file, BOUND) as answers:
        await answers.put(name(1), b"body")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")
    async with Answers(file, BOUND) as answers:
        assert await answers.get(name(1), 0) is None
        assert await answers.put(name(1), b"body")


async def test_it_may_be_deleted_at_any_time(file: Path) -> None:
    """While it is open, and between two starts, with or without its log."""
    async with Answers(file, BOUND) as answers:
        await answers.put(name(1), b"body")
        for path in file.parent.iterdir():
            path.unlink()
        assert await answers.get(name(1), 0) == b"body"
        assert await answers.put(name(2), b"body")
    async with Answers(file, BOUND) as answers:
        assert await present(answers, range(3)) == []
        assert await answers.put(name(1), b"body")
    os.unlink(file)
    async with Answers(file, BOUND) as answers:
        assert await answers.put(name(1), b"body")


async def test_a_full_disk(disk: SmallDisk) -> None:
    """Errors that say so, gets that go on, and it works again when there is room."""
    async with Answers(disk.folder / "cache.sqlite", 64 << 20) as answers:
        await answers.put(name(0), b"body")
        with disk.full():
            with pytest.raises(disk.error):
                await put_many(answers, range(1, 1000))
            assert await answers.get(name(0), 0) == b"body"
        assert await answers.put(name(1001), b"body")


async def test_a_file_that_cannot_be_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Opening does not fail, it warns once; asking does."""
    (tmp_path / "a file").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        async with Answers(tmp_path / "a file" / "cache.sqlite", BOUND) as answers:
            with pytest.raises(StoreBroken):
                await answers.get(name(1), 0)
            with pytest.raises(StoreBroken):
                await answers.put(name(1), b"body")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_no_put_waits_for_a_sync(file: Path) -> None:
    """The connection that writes does not sync its commits."""
    async with Answers(file, BOUND) as answers:
        level = await answers._write(lambda c: c.execute("PRAGMA synchronous").fetchone())
    assert level == (1,)
