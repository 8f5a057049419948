"""The batcher on a real ledger, stopped at every one of its steps, with answers made up here."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from edge.access.gate import Gate
from edge.access.keyring import Keyring
from edge.api.http.errors import refusal
from edge.batches import batcher as batcher_module
from edge.batches.batcher import Batcher
from edge.config.keeping import Queue
from edge.config.tree import Config
from edge.errors import ModelNotFound, StoreFull
from edge.openai.render import Answer
from edge.store.batch import Batch, NewBatch
from edge.store.batches import Batches
from edge.store.database import Database
from edge.store.files import Files
from edge.store.intake import Bounds
from edge.store.jobs import Jobs
from edge.store.schema import MIGRATIONS
from edge.types import Request

T = TypeVar("T")
ENDPOINT = "/v1/completions"
WINDOW, LINES = 3, 9
CONFIG = Config(queue=Queue(max_jobs=4 * WINDOW))


class Killed(BaseException):
    """The process is gone; nothing in it may catch this."""


class Failing(Database):
    """Fails one write: by a kill before or after it, or with a full disk."""

    def __init__(self, path: Path, number: int = 0, how: str = "") -> None:
        super().__init__(path, MIGRATIONS)
        self.left, self.how = number, how

    async def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        self.left -= 1
        if self.left == 0 and self.how == "full":
            raise StoreFull("no room", retry_after=1.0)
        if self.left == 0 and self.how == "killed before":
            raise Killed
        result = await super().write(work, durable=durable)
        if self.left == 0 and self.how == "killed after":
            raise Killed
        return result


class Names:
    """Stands where a service and its router stand: asked for the configuration and for names."""

    config = CONFIG

    @property
    def router(self) -> Names:
        return self

    def line(self, request: Request) -> str:
        return "auto words"

    def check(self, request: Request) -> None:
        if request.model == "unknown":
            raise ModelNotFound("no such model", param="model")


class Queued:
    """Stands where a dispatcher stands."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def watch(self, ended: Callable[[str], None]) -> None:
        self.ended = ended

    def wake(self) -> None:
        self.woken = True

    async def cancel(self, job_id: str) -> bool:
        return await self.jobs.cancel(job_id)


class Appliance:
    """One life of it, on what earlier ones have left in the folder."""

    def __init__(self, folder: Path, number: int = 0, how: str = "") -> None:
        self.folder = folder
        self.database = Failing(folder / "jobs.sqlite", number, how)
        bounds = Bounds(CONFIG.queue.max_jobs, 1 << 20)
        self.jobs = Jobs(self.database, bounds, result_ttl=1000)
        self.files = Files(self.database, folder / "files", max_bytes=1 << 30, ttl=1000)
        self.batches = Batches(self.database, bounds, ttl=1000)
        service: Any = Names()
        queued: Any = Queued(self.jobs)
        self.gate = Gate(Keyring(folder / "keys"), required={"http"})
        self.batcher = Batcher(self.batches, self.files, queued, service, refusal, self.gate.owner)

    async def __aenter__(self) -> Appliance:
        await self.database.__aenter__()
        await self.files.open()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.database.__aexit__(None, None, None)

    async def begin(self, bodies: list[dict[str, Any]]) -> str:
        """A batch of these lines."""
        async with self.files.draft() as draft:
            for number, body in enumerate(bodies):
                line = {"custom_id": str(number), "method": "POST", "url": ENDPOINT, "body": body}
                await draft.write(json.dumps(line).encode() + b"\n")
            file = await self.files.keep(draft, "input", "batch")
        new = NewBatch(input=file.id, endpoint=ENDPOINT, window=60)
        return (await self.batcher.add(new)).id

    async def turn(self) -> None:
        """One turn of the loop, and then the next job is answered."""
        await self.batcher._turn()
        if job := await self.jobs.claim(0.0, ["auto words"]):
            text = msgspec.json.decode(job.request)["prompt"]
            answer = Answer(job.id, "text_completion", 0, "m", [{"text": text}])
            await self.jobs.finish(job.id, msgspec.json.encode(answer))

    async def ended(self, batch_id: str) -> Batch:
        for _ in range(100):
            batch = await self.batches.get(batch_id)
            if batch.ended is not None:
                return batch
            await self.turn()
        raise AssertionError(f"no end: {batch}")

    def read(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        return [json.loads(line) for line in self.files.path(file_id).read_bytes().splitlines()]


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "files").iterdir()}


BODIES = [
    {"prompt": f"prompt {n}", "model": "unknown" if n in (2, 8) else None} for n in range(LINES)
]


@pytest.mark.parametrize("how", ["killed before", "killed after", "full"])
async def test_a_failure_at_every_write(tmp_path: Path, how: str) -> None:
    """Whichever write it is, each line is in one output once, and nothing is left over."""
    number, failed = 0, True
    while failed:
        number, failed = number + 1, False
        folder = tmp_path / str(number)
        async with Appliance(folder) as first:
            batch_id = await first.begin(BODIES)
        async with Appliance(folder, number, how) as second:
            for _ in range(100):
                try:
                    await second.turn()
                except StoreFull:
                    pass
                except Killed:
                    break
                batch = await second.batches.get(batch_id)
                if batch.ended is not None:
                    assert names(folder) == {batch.input, batch.output, batch.error}
                    break
            failed = second.database.left <= 0
        async with Appliance(folder) as third:
            await third.jobs.requeue_running()
            batch = await third.ended(batch_id)
            assert batch.status == "completed"
            assert (batch.completed, batch.failed) == (LINES - 2, 2)
            answers, errors = third.read(batch.output), third.read(batch.error)
            assert [one["custom_id"] for one in answers] == ["0", "1", "3", "4", "5", "6", "7"]
            assert [one["custom_id"] for one in errors] == ["2", "8"]
            for one in answers:
                text = one["response"]["body"]["choices"][0]["text"]
                assert text == f"prompt {one['custom_id']}"
            assert names(folder) == {batch.input, batch.output, batch.error}
            assert len(await third.jobs.list()) == LINES - 2
    assert number > 15


async def test_a_batch_that_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not answered by then is in the error file and says so, fed or not."""
    async with Appliance(tmp_path) as appliance:
        batch_id = await appliance.begin(BODIES)
        for _ in range(5):
            await appliance.turn()
        before = await appliance.batches.get(batch_id)
        assert before.completed > 0
        assert before.unfinished > 0
        assert before.fed < LINES
        monkeypatch.setattr(batcher_module.time, "time", lambda: before.expires)
        batch = await appliance.ended(batch_id)
        assert batch.status == "expired"
        answers, errors = appliance.read(batch.output), appliance.read(batch.error)
        assert sorted(one["custom_id"] for one in answers + errors) == [
            str(n) for n in range(LINES)
        ]
        codes = {one["custom_id"]: (one["error"] or {}).get("code") for one in errors}
        assert codes.pop("2") is None
        assert set(codes.values()) == {"batch_expired"}
        assert (await appliance.jobs.counts()).unfinished_bytes == 0


async def test_only_a_window_is_queued(tmp_path: Path) -> None:
    """However long the batch is."""
    most = 0
    async with Appliance(tmp_path) as appliance:
        batch_id = await appliance.begin([{"prompt": str(n)} for n in range(20)])
        while (await appliance.batches.get(batch_id)).ended is None:
            await appliance.turn()
            most = max(most, (await appliance.batches.get(batch_id)).unfinished + 1)
    assert most == WINDOW


async def test_a_full_queue_makes_a_batch_wait(tmp_path: Path) -> None:
    """It goes on as soon as there is room."""
    async with Appliance(tmp_path) as appliance:
        first = await appliance.begin([{"prompt": "x" * 400_000}] * 4)
        for _ in range(4):
            await appliance.batcher._turn()
        batch = await appliance.batches.get(first)
        assert (batch.fed, batch.unfinished) == (2, 2)
        assert (await appliance.ended(first)).completed == 4
