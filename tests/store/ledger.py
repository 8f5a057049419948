"""What the ledger's tests share: a ledger on a real file with a clock that stands still."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.store.database import Database
from edge.store.deliveries import Deliveries
from edge.store.intake import Bounds
from edge.store.job import Idempotency, Job, NewJob
from edge.store.jobs import Jobs
from edge.store.schema import MIGRATIONS

START = 1_700_000_000.0
TTL = 1000.0
LINE = "local small"


@dataclass
class Clock:
    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass
class Ledger:
    database: Database
    jobs: Jobs
    deliveries: Deliveries
    clock: Clock

    async def claim(self) -> Job:
        """The next job, which must be there."""
        job = await self.jobs.claim(self.clock.now, [LINE])
        assert job is not None
        return job

    async def finished(self, **wanted: Any) -> Job:
        """A job that was added, claimed and done."""
        added = await self.jobs.add(new(**wanted))
        assert (await self.claim()).id == added.id
        assert await self.jobs.finish(added.id, b"result")
        return await self.jobs.get(added.id)


@asynccontextmanager
async def open_ledger(path: Path, bounds: Bounds | None = None) -> AsyncIterator[Ledger]:
    clock = Clock()
    async with Database(path, MIGRATIONS) as database:
        jobs = Jobs(database, bounds or Bounds(1000, 1 << 30), result_ttl=TTL, clock=clock)
        yield Ledger(database, jobs, Deliveries(database, clock=clock), clock)


def new(**wanted: Any) -> NewJob:
    """A job that is like any other but for what is wanted."""
    return NewJob(
        **{"line": LINE, "client": "plc", "door": "mqtt", "kind": "chat", "request": b"request"}
        | wanted
    )


def keyed(key: str, body: str, **more: Any) -> NewJob:
    """A job with an idempotency key; its digest is the body itself."""
    return new(
        request=body.encode(),
        idempotency=Idempotency("scope", key, body.encode(), **more),
    )


class Gate:
    """Keeps a database's writer busy until it is opened, so that calls gather behind it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, connection: object) -> None:
        self.entered.set()
        assert self.opened.wait(60)


# The linter wants no blocking file calls in a coroutine; between steps of a test they are right.


def contents(path: Path) -> bytes:
    return path.read_bytes()


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def size(path: Path) -> int:
    """In bytes; -1 if there is no such file."""
    return path.stat().st_size if path.exists() else -1


def log_of(path: Path) -> Path:
    return Path(f"{path}-wal")


def copy(path: Path, to: Path) -> None:
    """The files of a database as they lie, open or not."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{to}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
