"""Files that callers upload and batches write: what is known of them in the ledger, their
contents in a folder beside it.

The contents are complete and synced before the row is written, and the row is gone before the
contents are: a row always has its contents. Contents without a row, left by a crash in between,
are removed at the next start.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from edge.disk import sync
from edge.errors import FileInUse, FileNotFound, QueueFull
from edge.store.contents import Draft, explained, remove
from edge.store.database import Database
from edge.store.file import make_folder
from edge.store.job import new_id

PREFIX = "file-"

MOST_FILES = 20_000
"""Uploads are refused beyond it: small files cost more than their bytes."""

_SOME_FILES = 100


Owners = Collection[str] | None
"""Of what is looked for; None for everybody's. What is not theirs is as if it were not there."""


class FileFacts(msgspec.Struct, frozen=True):
    """All about a file except for its contents. Times are epoch seconds, `size` is in bytes.

    owner: whose it is, by the name of his key; empty where there was none.
    """

    id: str
    name: str
    purpose: str
    size: int
    created: float
    expires: float
    owner: str = ""


_SELECT = "SELECT id, name, purpose, size, created, expires, owner FROM files"


class Files:
    """The files of the ledger in `database`, with their contents in `folder`.

    max_bytes: of all files together, when one is uploaded. ttl: seconds that a file is kept.
    Call `open` before anything else, once the database is open.
    Methods raise `FileNotFound` for an unknown id, and `StoreFull` and `StoreBroken` for the disk.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        *,
        max_bytes: int,
        ttl: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._folder = folder
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._clock = clock
        self._drafts: set[Draft] = set()

    async def open(self) -> None:
        """Make the folder, and remove what a crash has left in it.

        Beside a ledger that was damaged, and is a new one now, everything would look like that:
        then the folder is put aside too.
        """
        known: set[str] = await self._database.read(
            lambda c: {row[0] for row in c.execute("SELECT id FROM files")}
        )
        await asyncio.to_thread(self._tidy, known)

    @asynccontextmanager
    async def draft(self) -> AsyncIterator[Draft]:
        """A new file to write to; it is not there before `keep`, or `Batches.end`, is told."""
        draft = Draft(self._folder / f"{PREFIX}{new_id()}")
        async with draft:
            self._drafts.add(draft)
            try:
                yield draft
            finally:
                self._drafts.discard(draft)

    async def room(self, wanted: int) -> int:
        """Bytes that uploads may still write, those under way counted.

        Raises `QueueFull` where that is less than `wanted`.
        """
        number, kept = await self._database.read(
            lambda c: c.execute("SELECT count(*), coalesce(sum(size), 0) FROM files").fetchone()
        )
        room = self._max_bytes - kept - sum(draft.size for draft in self._drafts)
        if number >= MOST_FILES or room < wanted:
            raise QueueFull(
                f"{number} files of {kept} bytes are kept"
                f" (at most {MOST_FILES} files, {self._max_bytes} bytes: queue.max_files_mb)",
                hint="delete some, or wait until they expire",
                retry_after=60.0,
            )
        return int(room)

    async def keep(
        self, draft: Draft, name: str, purpose: str, ttl: float | None = None, owner: str = ""
    ) -> FileFacts:
        """The draft is a file from now on."""
        facts = await self.seal(draft, name, purpose, ttl, owner)
        await self._database.write(lambda c: insert(c, facts))
        return facts

    async def seal(
        self, draft: Draft, name: str, purpose: str, ttl: float | None = None, owner: str = ""
    ) -> FileFacts:
        """End the draft; the facts are to be written to the ledger together with something else."""
        await draft.seal()
        now = self._clock()
        expires = now + (self._ttl if ttl is None else ttl)
        return FileFacts(draft.path.name, name, purpose, draft.size, now, expires, owner)

    async def get(self, file_id: str, owners: Owners = None) -> FileFacts:
        query, values = f"{_SELECT} WHERE id = ? AND {OWNED}", (file_id, *owned(owners))
        row = await self._database.read(lambda c: c.execute(query, values).fetchone())
        if row is None:
            raise not_found(file_id)
        return FileFacts(*row)

    async def list(
        self,
        purpose: str | None = None,
        limit: int = 100,
        after: str | None = None,
        newest_first: bool = True,
        owners: Owners = None,
    ) -> Sequence[FileFacts]:
        """Files of one purpose or of all, from the one after id `after` on."""
        order, compare = ("DESC", "<") if newest_first else ("ASC", ">")
        first = after or (PREFIX + ("g" if newest_first else ""))
        query = (
            f"{_SELECT} WHERE (? IS NULL OR purpose = ?) AND id {compare} ? AND {OWNED}"
            f" ORDER BY id {order} LIMIT ?"
        )
        values = (purpose, purpose, first, *owned(owners), limit)
        rows = await self._database.read(lambda c: c.execute(query, values).fetchall())
        return [FileFacts(*row) for row in rows]

    def path(self, file_id: str) -> Path:
        """Where the contents are. For an id from the ledger, not from a caller."""
        return self._folder / file_id

    async def contents(self, file_id: str, owners: Owners = None) -> tuple[FileFacts, Path]:
        """A file and where its contents are. Raises `FileNotFound`, also where they are gone."""
        facts = await self.get(file_id, owners)
        path = self.path(facts.id)
        if not await asyncio.to_thread(path.exists):
            raise not_found(file_id)
        return facts, path

    async def delete(self, file_id: str, owners: Owners = None) -> None:
        """Raises `FileInUse` while a batch that has not ended needs it."""
        await self._database.write(lambda c: _delete(c, file_id, owners))
        await asyncio.to_thread(remove, self.path(file_id))

    async def expire(self, now: float) -> int:
        """Remove what was kept for long enough and is not needed; how many."""
        removed = 0
        while ids := await self._database.write(lambda c: _expire_some(c, now)):
            for file_id in ids:
                await asyncio.to_thread(remove, self.path(file_id))
            removed += len(ids)
        return removed

    def _tidy(self, known: set[str]) -> None:
        with explained(self._folder):
            aside = self._database.set_aside
            if aside is not None and self._folder.exists():
                os.rename(self._folder, self._folder.with_name(f"{aside.name}-files"))
                sync(self._folder.parent)
            make_folder(self._folder)
            for path in self._folder.iterdir():
                if path.name not in known:
                    remove(path)


def insert(connection: sqlite3.Connection, facts: FileFacts) -> None:
    connection.execute(
        "INSERT INTO files (id, name, purpose, size, created, expires, owner)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        msgspec.structs.astuple(facts),
    )


OWNED = "(? IS NULL OR owner IN (SELECT value FROM json_each(?)))"
"""Of a row of files or batches; with the two parameters of `owned`."""


def owned(owners: Owners) -> tuple[str | None, str | None]:
    names = None if owners is None else msgspec.json.encode(sorted(owners)).decode()
    return names, names


def not_found(file_id: str) -> FileNotFound:
    return FileNotFound(f"there is no file `{file_id}`", hint="files are kept until they expire")


_IN_USE = "SELECT 1 FROM batches WHERE input = files.id AND ended IS NULL"


def _delete(connection: sqlite3.Connection, file_id: str, owners: Owners) -> None:
    row = connection.execute(
        f"SELECT EXISTS ({_IN_USE}) FROM files WHERE id = ? AND {OWNED}", (file_id, *owned(owners))
    ).fetchone()
    if row is None:
        raise not_found(file_id)
    if row[0]:
        raise FileInUse(
            f"the file `{file_id}` is the input of a batch that has not ended",
            hint="cancel the batch first",
            retry_after=10.0,
        )
    connection.execute("DELETE FROM files WHERE id = ?", (file_id,))


def _expire_some(connection: sqlite3.Connection, now: float) -> Sequence[str]:
    rows = connection.execute(
        "DELETE FROM files WHERE id IN (SELECT id FROM files"
        f" WHERE expires <= ? AND NOT EXISTS ({_IN_USE}) ORDER BY expires LIMIT ?) RETURNING id",
        (now, _SOME_FILES),
    )
    return [row[0] for row in rows.fetchall()]
