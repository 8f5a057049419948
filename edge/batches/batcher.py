"""The loop that takes batches on: files looked through, lines fed to the queue, outputs written.

Owned by the event loop: one task that takes each batch that has not ended one step further. What
is known is in the ledger alone, and each step is one transaction of it, so that it does not matter
when the appliance dies. Only a window of a batch's lines is in the queue at any time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from edge.access.visitor import Visitor
from edge.batches.lines import Lines, Refusal
from edge.errors import EdgeError, FileNotFound, InvalidKey, JobNotFound, QueueFull
from edge.jobs.dispatcher import Dispatcher
from edge.loops import Loop
from edge.openai.batch import BatchError, Errors, Scan
from edge.openai.render import encode
from edge.service import Service
from edge.store.batch import Batch, NewBatch
from edge.store.batches import Batches
from edge.store.contents import Draft, Line, read_lines, remove
from edge.store.files import FileFacts, Files, Owners

logger = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between looks at the batches when nobody says that there is something new."""

UPKEEP_SECONDS = 60.0

WINDOW = 64
"""Lines of one batch in the queue at most; more are fed when half of them have been answered."""

SOME_LINES, SOME_BYTES = 500, 4 << 20
"""Read from an input file at once."""

SOME_OUTCOMES = 32
"""Read from the ledger at once, with their answers."""

PURPOSE = "batch_output"
"""Of the files that are written here."""


class Batcher:
    """`run` it in a task, once `files` is open. The doors add and cancel batches here.

    Methods raise what the ledger raises: `BatchNotFound`, `FileNotFound`, `QueueFull`,
    `StoreFull`, `StoreBroken`.
    """

    def __init__(
        self,
        batches: Batches,
        files: Files,
        dispatcher: Dispatcher,
        service: Service,
        refusal: Refusal,
        owner: Callable[[str], Visitor],
    ) -> None:
        """owner: `Gate.owner`, as a line may ask only for what its batch's owner may by then."""
        self._batches = batches
        self._files = files
        self._dispatcher = dispatcher
        self._lines = Lines(service, refusal)
        self._owner = owner
        # The longest line is the largest request, and some room for what is around it.
        self._longest = int(service.config.limits.max_body_mb * 1024 * 1024) + 4096
        # Others find room in the queue too, however small it is.
        self._window = max(1, min(WINDOW, service.config.queue.max_jobs // 4))
        self._loop = Loop("batches", self._turn, tick=TICK)
        self._task: asyncio.Task[None] | None = None
        self._busy = False
        self._upkeep_at = 0.0
        dispatcher.watch(self._job_ended)

    async def add(self, new: NewBatch, owners: Owners = None) -> Batch:
        """owners: whose files may be its input."""
        batch = await self._batches.add(new, owners)
        self._loop.wake()
        return batch

    async def get(self, batch_id: str, owners: Owners = None) -> Batch:
        return await self._batches.get(batch_id, owners)

    async def recent(self, limit: int, after: str | None, owners: Owners = None) -> Sequence[Batch]:
        """The latest first; `after` is the last id of the page before."""
        return await self._batches.list(limit, after, owners)

    async def cancel(self, batch_id: str, owners: Owners = None) -> Batch:
        """The batch, which answers nothing more; as it is if it was at its end before."""
        await self.get(batch_id, owners)
        if await self._batches.cancel(batch_id):
            self._loop.wake()
        return await self.get(batch_id)

    async def run(self) -> None:
        """Go on with the batches there are, until `stop`."""
        self._task = asyncio.current_task()
        await self._loop.run()

    async def stop(self) -> None:
        """Leave off where it is: the ledger knows how to go on."""
        self._loop.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _job_ended(self, _: str) -> None:
        if self._busy:
            self._loop.wake()

    async def _turn(self) -> None:
        """Each batch one step further; one that cannot go on does not stop the others."""
        now = time.time()
        if now >= self._upkeep_at:
            await self._files.expire(now)
            await self._batches.expire(now)
            await self._batches.release()
            self._upkeep_at = now + UPKEEP_SECONDS
        failure: Exception | None = None
        unfinished = await self._batches.unfinished()
        self._busy = bool(unfinished)
        for batch in unfinished:
            try:
                if await self._step(batch, now):
                    self._loop.wake()
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure

    async def _step(self, batch: Batch, now: float) -> bool:
        """True where the next step need not wait for anything."""
        if batch.status == "validating":
            return await self._validate(batch)
        if batch.status != "in_progress":
            return await self._finish(batch)
        if now >= batch.expires:
            return await self._batches.finalize(batch.id, "expired")
        if batch.fed < batch.total:
            return batch.unfinished <= self._window // 2 and await self._feed(batch)
        if batch.unfinished:
            return False
        if batch.failed and await self._revive(batch):
            return False
        return await self._batches.finalize(batch.id, "completed")

    async def _validate(self, batch: Batch) -> bool:
        scan, last = Scan(batch.endpoint), Line(0, b"", 0)
        try:
            while not scan.over and (lines := await self._read(batch, last, SOME_LINES)):
                await asyncio.to_thread(_look, scan, lines)
                last = lines[-1]
        except FileNotFound:
            return await self._batches.reject(batch.id, _gone())
        scan.finish()
        if scan.errors:
            logger.info("%s: its file has errors: %s", batch.id, scan.errors[0].message)
            return await self._batches.reject(batch.id, encode(Errors(scan.errors)).decode())
        return await self._batches.start(batch.id, scan.total)

    async def _feed(self, batch: Batch) -> bool:
        """Put some lines into the queue, as many as there is room for; none while their owner has
        used all tokens of the day."""
        try:
            owner = self._owner(batch.owner)
        except InvalidKey as error:
            logger.info("%s: %s", batch.id, error.message)
            return await self._batches.finalize(batch.id, "failed", _keyless(error))
        if owner.exhausted:
            return False
        here = Line(batch.line, b"", batch.position)
        try:
            lines = await self._read(batch, here, self._window - batch.unfinished)
        except FileNotFound:
            lines = []
        if not lines:
            return await self._batches.finalize(batch.id, "failed", _gone())
        feeds = await self._lines.feeds(batch, lines, owner)
        while lines:
            try:
                fed = await self._batches.feed(batch, feeds, lines[-1].number, lines[-1].end)
                self._dispatcher.wake()
                return fed
            except QueueFull:
                lines = lines[: len(lines) // 2]
                feeds = [feed for feed in feeds if lines and feed.line <= lines[-1].number]
        return False

    async def _revive(self, batch: Batch) -> bool:
        """True where lines that gave way to newer work are queued again, or have to wait for it."""
        try:
            return await self._batches.revive(batch.id, self._window) > 0
        except QueueFull:
            return True

    async def _finish(self, batch: Batch) -> bool:
        """Stop what runs, and then write the outputs."""
        if batch.unfinished:
            await self._batches.cancel_queued(batch.id)
            waiting = await self._batches.waiting(batch.id)
            for job_id in waiting:
                with suppress(JobNotFound):
                    await self._dispatcher.cancel(job_id)
            return bool(waiting) or (await self.get(batch.id)).unfinished == 0
        async with self._files.draft() as output, self._files.draft() as error:
            completed, failed = await self._write(batch, output, error)
            sealed: list[FileFacts | None] = []
            for draft, number, name in ((output, completed, "output"), (error, failed, "error")):
                name = f"{batch.id}_{name}.jsonl"
                facts = None
                if number:
                    ttl, owner = batch.output_ttl, batch.owner
                    facts = await self._files.seal(draft, name, PURPOSE, ttl, owner)
                sealed.append(facts)
            ended = False
            try:
                ended = await self._batches.end(batch, completed, failed, *sealed)
            except EdgeError:
                await self._remove(sealed)
                raise
        if not ended:
            await self._remove(sealed)
            return True
        logger.info("%s %s: %d answers, %d errors", batch.id, batch.ending, completed, failed)
        await self._batches.release()
        return False

    async def _write(self, batch: Batch, output: Draft, error: Draft) -> tuple[int, int]:
        """All lines in the order of the input, each in one of the two files; how many in which."""
        completed = failed = last = 0
        while outcomes := await self._batches.outcomes(batch.id, last, SOME_OUTCOMES):
            written = await asyncio.to_thread(
                lambda some: [self._lines.answered(batch, one) for one in some], outcomes
            )
            for answered, text in written:
                await (output if answered else error).write(text)
                completed, failed = completed + answered, failed + (not answered)
            last = outcomes[-1].line
        here = Line(batch.line, b"", batch.position)
        with suppress(FileNotFound):
            while batch.fed < batch.total and (lines := await self._read(batch, here, SOME_LINES)):
                for line in lines:
                    if line.text:
                        await error.write(self._lines.never_fed(batch, line))
                        failed += 1
                here = lines[-1]
        return completed, failed

    async def _read(self, batch: Batch, after: Line, most: int) -> list[Line]:
        """Some lines of the input. Raises `FileNotFound` where somebody took it away."""
        return await asyncio.to_thread(
            read_lines,
            self._files.path(batch.input),
            after.end,
            after.number,
            most=most,
            most_bytes=SOME_BYTES,
            longest=self._longest,
        )

    async def _remove(self, files: list[FileFacts | None]) -> None:
        for facts in files:
            if facts is not None:
                await asyncio.to_thread(remove, self._files.path(facts.id))


def _look(scan: Scan, lines: list[Line]) -> None:
    for line in lines:
        scan.look(line.number, line.text)
        if scan.over:
            break


def _keyless(error: InvalidKey) -> str:
    return encode(Errors([BatchError(error.code, error.message)])).decode()


def _gone() -> str:
    error = BatchError("file_not_found", "the contents of the input file are gone")
    return encode(Errors([error])).decode()
