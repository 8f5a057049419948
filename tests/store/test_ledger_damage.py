"""Files that are no sound database: set aside with all that is left of them, loudly."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from ledger import contents, copy, log_of, new, open_ledger, put, size

from edge.errors import StoreBroken
from edge.store.database import Database
from edge.store.file import set_aside
from edge.store.schema import MIGRATIONS


async def fill(path: Path) -> None:
    async with open_ledger(path) as ledger:
        for number in range(200):
            await ledger.jobs.add(new(request=bytes(500), client=f"plc/{number % 7}"))


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("this is no database\n" * 1000),
    "one byte": lambda path: path.write_bytes(b"S"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "magic": lambda path: overwrite(path, 0, b"XXXX"),
    "write version": lambda path: overwrite(path, 18, b"\x07"),
    "read version": lambda path: overwrite(path, 19, b"\x07"),
    "page size": lambda path: overwrite(path, 16, b"\x03\x01"),
    "schema format": lambda path: overwrite(path, 44, b"\0\0\0\x63"),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "header only": lambda path: os.truncate(path, 100),
    "schema page": lambda path: overwrite(path, 100, os.urandom(3000)),
    "pages": lambda path: overwrite(path, 3 * 4096, os.urandom(20 * 4096)),
    "zero pages": lambda path: overwrite(path, 3 * 4096, bytes(20 * 4096)),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_is_set_aside(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It keeps its bytes under a dated name, a new one works, and the log says so loudly."""
    await fill(path)
    DAMAGES[damage](path)
    before = contents(path)
    with caplog.at_level(logging.ERROR):
        async with open_ledger(path) as ledger:
            aside = ledger.database.set_aside
            assert (await ledger.jobs.counts()).jobs["queued"] == 0
            job = await ledger.jobs.add(new())
    assert aside is not None
    assert aside.name.startswith("jobs.db.damaged-2")
    assert contents(aside) == before
    assert "damaged" in caplog.text
    assert str(aside) in caplog.text
    async with open_ledger(path) as ledger:
        assert ledger.database.set_aside is None
        assert (await ledger.jobs.get(job.id)).request == b"request"


async def test_its_log_goes_with_it(path: Path, tmp_path: Path) -> None:
    """The rows that are still in the write-ahead log can be looked for later."""
    async with open_ledger(path) as ledger:
        await ledger.jobs.add(new())
        cut = tmp_path / "cut.db"
        copy(path, cut)
    log = contents(log_of(cut))
    overwrite(cut, 0, b"not a database")
    async with Database(cut, MIGRATIONS) as database:
        aside = database.set_aside
    assert aside is not None
    assert contents(log_of(aside)) == log


def test_names_do_not_collide(path: Path) -> None:
    """Two damaged files within one second are both kept."""
    names = set()
    for number in range(3):
        path.write_text(f"damaged {number}")
        names.add(set_aside(path))
    assert {name.read_text() for name in names} == {f"damaged {number}" for number in range(3)}


async def test_an_empty_file_is_an_empty_database(path: Path) -> None:
    """What a power cut leaves of a file that was being created is nothing to set aside."""
    put(path, b"")
    async with open_ledger(path) as ledger:
        assert ledger.database.set_aside is None
        await ledger.jobs.add(new())


async def test_random_damage_never_stops_the_start(path: Path) -> None:
    """Whatever bytes are overwritten, it opens: with the file, or with a new one."""
    await fill(path)
    sound, random_ = contents(path), random.Random(1)
    for number in range(40):
        damaged = bytearray(sound)
        # The header is small and matters most; `user_version` is excepted, as it can look newer.
        reach = len(sound) if number % 2 else 60
        for _ in range(random_.choice((1, 3, 100))):
            damaged[random_.randrange(reach)] = random_.randrange(256)
        put(path, damaged)
        async with open_ledger(path) as ledger:
            if ledger.database.set_aside:
                assert contents(ledger.database.set_aside) == damaged
                await ledger.jobs.add(new())
        for leftover in path.parent.iterdir():
            leftover.unlink()


async def test_rights_are_not_damage(path: Path) -> None:
    """A file that cannot be opened is an error with a hint, and stays where it is."""
    os.mkdir(path)
    with pytest.raises(StoreBroken, match=r"jobs\.db"):
        async with open_ledger(path):
            pass
    assert os.listdir(path) == []


async def test_a_lock_is_not_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's lock is an error, and the ledger stays where it is."""
    await fill(path)
    monkeypatch.setattr("edge.store.file._BUSY_SECONDS", 0.01)
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBroken, match="locked"):
            async with open_ledger(path):
                pass
    finally:
        other.close()
    async with open_ledger(path) as ledger:
        assert (await ledger.jobs.counts()).jobs["queued"] == 200


async def test_damage_under_way_is_a_typed_error(path: Path) -> None:
    """Pages that turn bad while it runs fail the calls that need them; the next start mends it."""
    await fill(path)
    async with open_ledger(path) as ledger:
        overwrite(path, 4096, os.urandom(size(path) - 4096))
        with pytest.raises(StoreBroken) as caught:
            await ledger.jobs.list(limit=1000)
        assert "restart" in (caught.value.hint or "")
    async with open_ledger(path) as ledger:
        assert ledger.database.set_aside is not None
