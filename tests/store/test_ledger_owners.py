"""Whose files and batches are: those of a ledger from before there were owners, and of several."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from ledger import TTL, Ledger, open_ledger

from edge.errors import BatchNotFound, FileNotFound, IdempotencyKeyReused
from edge.store.batch import NewBatch
from edge.store.batches import Batches
from edge.store.database import Database
from edge.store.files import FileFacts, Files, insert
from edge.store.intake import Bounds
from edge.store.job import new_id
from edge.store.schema import MIGRATIONS

BEFORE = 2
"""Migrations of the releases without owners."""

BOUNDS = Bounds(1000, 1 << 30)
ENDPOINT = "/v1/completions"


def stores(ledger: Ledger, folder: Path) -> tuple[Files, Batches]:
    files = Files(ledger.database, folder, max_bytes=1000, ttl=TTL, clock=ledger.clock)
    return files, Batches(ledger.database, BOUNDS, ttl=TTL, clock=ledger.clock)


async def file_of(ledger: Ledger, owner: str) -> str:
    name = f"file-{new_id()}"
    facts = FileFacts(name, "x", "batch", 1, ledger.clock.now, 9e9, owner)
    await ledger.database.write(lambda c: insert(c, facts))
    return name


async def test_what_is_older_than_owners_is_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    async with Database(path, MIGRATIONS[:BEFORE]) as database:
        await database.write(
            lambda c: (
                c.execute("INSERT INTO files VALUES ('file-1', 'x', 'batch', 1, 1.0, 9e9)").rowcount
            )
        )
        await database.write(
            lambda c: (
                c.execute(
                    "INSERT INTO batches (id, input, endpoint, key, digest, created, expires,"
                    " status) VALUES ('batch_1', 'file-1', ?, 'k', x'00', 1.0, 9e9, 'validating')",
                    (ENDPOINT,),
                ).rowcount
            )
        )
    async with open_ledger(path) as ledger:
        files, batches = stores(ledger, tmp_path / "files")
        assert (await files.get("file-1")).owner == (await batches.get("batch_1")).owner == ""
        assert await files.get("file-1", {"boss", ""}) == await files.get("file-1")
        with pytest.raises(FileNotFound):
            await files.get("file-1", {"press"})
        with pytest.raises(BatchNotFound):
            await batches.get("batch_1", {"press"})
        # Nobody's keys of idempotency hold on, and are nobody else's.
        new = NewBatch(input="file-1", endpoint=ENDPOINT, window=9.0, key="k", digest=b"\0")
        assert (await batches.add(new)).id == "batch_1"


async def test_each_owner_finds_his_own(ledger: Ledger, tmp_path: Path) -> None:
    files, batches = stores(ledger, tmp_path / "files")
    inputs = {owner: await file_of(ledger, owner) for owner in ("", "press", "it's")}
    for owner, file in inputs.items():
        new = NewBatch(input=file, endpoint=ENDPOINT, window=9.0, key="k", digest=b"d", owner=owner)
        assert (await batches.add(new, {owner})).id == new.id
    for owner in inputs:
        assert [one.owner for one in await files.list(owners={owner})] == [owner]
        assert [one.owner for one in await batches.list(owners={owner})] == [owner]
    assert len(await files.list()) == len(await batches.list()) == 3
    assert await files.list(owners=frozenset()) == []
    taken = msgspec.structs.replace(new, owner="press", input=inputs["press"], digest=b"other")
    with pytest.raises(IdempotencyKeyReused, match="'k'"):
        await batches.add(taken, {"press"})
    with pytest.raises(FileNotFound):
        await batches.add(NewBatch(input=inputs["press"], endpoint=ENDPOINT, window=9.0), {""})
    with pytest.raises(FileNotFound):
        await files.delete(inputs["press"], {""})
