"""Files beside the ledger: whole or not there, bounded, and gone when their time is over."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledger import START, TTL, Ledger, open_ledger

from edge.errors import FileInUse, FileNotFound, QueueFull, StoreBroken
from edge.store.batch import NewBatch
from edge.store.batches import Batches
from edge.store.contents import read_lines
from edge.store.files import FileFacts, Files
from edge.store.intake import Bounds


def over(ledger: Ledger, folder: Path, max_bytes: int = 1000) -> Files:
    return Files(ledger.database, folder, max_bytes=max_bytes, ttl=TTL, clock=ledger.clock)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
async def files(ledger: Ledger, folder: Path) -> Files:
    opened = over(ledger, folder)
    await opened.open()
    return opened


async def keep(files: Files, *pieces: bytes, ttl: float | None = None) -> FileFacts:
    async with files.draft() as draft:
        for piece in pieces:
            await draft.write(piece)
        return await files.keep(draft, "name", "batch", ttl)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_kept(files: Files) -> None:
    """What was written is there, in the order it came, with its facts."""
    pieces = [bytes([number]) * 700_000 for number in range(4)]
    facts = await keep(files, *pieces)
    assert files.path(facts.id).read_bytes() == b"".join(pieces)
    assert (facts.size, facts.created, facts.expires) == (2_800_000, START, START + TTL)
    assert await files.get(facts.id) == facts


async def test_a_draft_is_nothing_yet(files: Files, folder: Path) -> None:
    """One that is given up leaves no row and no bytes."""
    async with files.draft() as draft:
        await draft.write(b"x" * (2 << 20))
        assert await files.list() == []
        assert len(names(folder)) == 1
    assert names(folder) == set()


async def test_what_a_crash_leaves_is_removed(ledger: Ledger, files: Files, folder: Path) -> None:
    """Drafts, and contents whose row was not written; not what is known."""
    facts = await keep(files, b"known")
    (folder / "file-1.draft").write_bytes(b"half")
    (folder / "file-2").write_bytes(b"whole")
    again = over(ledger, folder)
    await again.open()
    assert names(folder) == {facts.id}


async def test_beside_a_ledger_that_was_damaged(tmp_path: Path) -> None:
    """The contents are put aside with it, and not removed."""
    path, folder = tmp_path / "jobs.db", tmp_path / "files"
    async with open_ledger(path) as ledger:
        files = over(ledger, folder)
        await files.open()
        facts = await keep(files, b"precious")
    path.write_bytes(b"rubbish" * 1000)
    async with open_ledger(path) as ledger:
        files = over(ledger, folder)
        await files.open()
        assert names(folder) == set()
        aside = ledger.database.set_aside
        assert aside is not None
        moved = folder.with_name(f"{aside.name}-files") / facts.id
        assert moved.read_bytes() == b"precious"


async def test_listed_in_pages(files: Files) -> None:
    """In either order, of one purpose or of all."""
    ids = [(await keep(files, b"x")).id for _ in range(3)]
    assert [one.id for one in await files.list()] == ids[::-1]
    assert [one.id for one in await files.list(limit=1, after=ids[2])] == [ids[1]]
    assert [one.id for one in await files.list(after=ids[0], newest_first=False)] == ids[1:]
    assert await files.list("batch_output") == []


async def test_the_bound_on_all(files: Files) -> None:
    """What is kept and what is being written count; beyond it there is no room."""
    await keep(files, b"x" * 400)
    assert await files.room(1) == 600
    async with files.draft() as draft:
        await draft.write(b"x" * 500)
        assert await files.room(100) == 100
        with pytest.raises(QueueFull):
            await files.room(101)
    assert await files.room(1) == 600


async def test_deleted(files: Files, folder: Path) -> None:
    """Row and contents, once."""
    facts = await keep(files, b"x")
    await files.delete(facts.id)
    assert names(folder) == set()
    for call in (files.get, files.delete):
        with pytest.raises(FileNotFound):
            await call(facts.id)


async def test_what_a_batch_needs_stays(ledger: Ledger, files: Files) -> None:
    """Until it has ended, whatever its age."""
    facts = await keep(files, b"x")
    batches = Batches(ledger.database, Bounds(9, 9), ttl=TTL, clock=ledger.clock)
    batch = await batches.add(NewBatch(input=facts.id, endpoint="/v1/completions", window=60))
    with pytest.raises(FileInUse):
        await files.delete(facts.id)
    assert await files.expire(START + TTL) == 0
    await batches.reject(batch.id, "{}")
    assert await files.expire(START + TTL) == 1


async def test_expired(files: Files, folder: Path) -> None:
    """Each after its own time."""
    soon, later = await keep(files, b"x", ttl=10), await keep(files, b"y")
    assert await files.expire(START + 10) == 1
    assert names(folder) == {later.id}
    with pytest.raises(FileNotFound):
        await files.get(soon.id)


async def test_a_folder_that_cannot_be_used(ledger: Ledger, tmp_path: Path) -> None:
    """A typed error, and nothing half open."""
    (tmp_path / "files").write_bytes(b"")
    with pytest.raises(StoreBroken):
        await over(ledger, tmp_path / "files").open()


def read_all(path: Path, **bounds: int) -> list[tuple[int, bytes | None]]:
    """All lines, however many each call gives."""
    found: list[tuple[int, bytes | None]] = []
    wanted = {"most": 2, "most_bytes": 1000, "longest": 10} | bounds
    position = number = 0
    while lines := read_lines(path, position, number, **wanted):
        found += [(line.number, line.text) for line in lines]
        position, number = lines[-1].end, lines[-1].number
    return found


@pytest.mark.parametrize("bounds", [{}, {"most": 1}, {"most": 100}, {"most_bytes": 1}])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_lines(tmp_path: Path, bounds: dict[str, int], end: bytes) -> None:
    """The same lines with the same numbers, whatever pieces they are read in."""
    path = tmp_path / "lines"
    middle = b"\n".join([b" one\r", b"", b"x" * 10, b"x" * 11, b"x" * 3_000_000, b"last"])
    path.write_bytes(b"\xef\xbb\xbf" + middle + end)
    assert read_all(path, **bounds) == [
        *((1, b"one"), (2, b""), (3, b"x" * 10), (4, None), (5, None), (6, b"last")),
    ]
