"""Tells headquarters of finished work: counts and times, and only if asked to what was said.

    note ──► memory ──(at once, in groups)──► store/reports.py ──(now and then)──► POST
                                                     ▲                              │
                                                     └──────── removed by a 2xx ────┘

A record is sent until somebody has taken it: at least once, and its `id` tells that it is the
same. `note` never waits; a record is lost only if the process ends before its group is written,
or with the last second before a power cut. Owned by the event loop; two tasks of its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque

import httpx
import msgspec

from edge.cloud.failure import retry_after
from edge.cloud.throttle import Throttle
from edge.config.doors import Device
from edge.config.keeping import Sync as Settings
from edge.errors import ConfigError, EdgeError
from edge.loops import Backoff, Loop
from edge.metrics import Metrics
from edge.store.reports import Books, Reports, Row
from edge.sync.receiver import Receiver
from edge.types import Attempt, Prompt, Request, Route

logger = logging.getLogger(__name__)

SYNC_SECONDS = 1.0
"""Records that are older than this survive a power cut."""

MOST_NOTED = 10_000
MOST_NOTED_BYTES = 16 << 20
"""Records that wait for a store that is broken or full; then the oldest give way."""

MOST_BATCH_BYTES = 1 << 20
LONGEST_POST = 600.0
"""Seconds for one batch, which may have to go through a slow line."""

FIRST_RETRY = 1.0
LONGEST_RETRY = 300.0

TOO_BUSY = {429, 503}
REFUSED = {400, 413, 422}


class Content(msgspec.Struct):
    prompts: list[Prompt]
    answers: list[str]


class Record(msgspec.Struct, kw_only=True):
    """One finished request, a line of a report.

    id: unique for ever, so that a record that comes twice is known. time: epoch seconds of the
    end. status: `ok` or the error's code. seconds: from the request's arrival to its end.
    energy_joules: what the answer told, None where unknown.
    The last four are filled in by `Reporter.note`.
    is_historical: it was made while reports could not be delivered.
    """

    id: str
    time: float
    door: str
    route: Route
    model: str
    status: str
    seconds: float
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    energy_joules: float | None = None
    attempts: list[Attempt] = []
    device: str = ""
    site: str = ""
    is_historical: bool = False
    content: Content | msgspec.UnsetType = msgspec.UNSET


class Reporter:
    """`run` it in a task; `stop` returns when all that was noted is written."""

    def __init__(
        self,
        reports: Reports,
        settings: Settings,
        device: Device,
        metrics: Metrics,
        throttle: Throttle | None = None,
    ) -> None:
        self._reports = reports
        self._settings = settings
        self._device = device
        self._metrics = metrics
        self._receiver = Receiver(settings, throttle)
        self._enabled = settings.report_url is not None and settings.report != "none"
        self._noted: deque[Row] = deque()
        self._noted_bytes = 0
        self._pending: int | None = None
        self._unsynced_since: float | None = None
        self._saver = Loop("reports", self._save, tick=SYNC_SECONDS)
        self._sender = Loop("reporting", self._report, tick=settings.interval_seconds)
        self._tasks: list[asyncio.Task[None]] = []
        # Batches on their way: a refused one becomes two halves. Kept while they cannot be
        # delivered, so that a batch that comes again is the same, with the same key.
        self._batches: deque[list[Row]] = deque()
        self._backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)
        self._retry: asyncio.TimerHandle | None = None
        self._offline = False

    def note(self, record: Record, request: Request, answers: list[str]) -> None:
        """Report it some time. Waits for nothing and never fails.

        answers: their texts. They and the prompts are reported with `sync.report: full` only, and
        never where the request had to stay on this machine.
        """
        if not self._enabled:
            return
        content: Content | msgspec.UnsetType = msgspec.UNSET
        if self._settings.report == "full" and request.route != "local":
            content = Content(request.prompts, answers)
        record = msgspec.structs.replace(
            record,
            device=self._device.id,
            site=self._device.site,
            is_historical=self._offline,
            content=content,
        )
        row = Row(record.id, record.time, msgspec.json.encode(record))
        self._noted.append(row)
        self._noted_bytes += len(row.body)
        self._bound_noted()
        self._saver.wake()

    @property
    def pending(self) -> int:
        """Records that headquarters does not have."""
        return len(self._noted) + (self._pending or 0)

    async def run(self) -> None:
        async with self._receiver:
            loops = (self._saver, self._sender)
            self._tasks = [asyncio.create_task(loop.run(), name=loop.name) for loop in loops]
            try:
                done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    if not task.cancelled():
                        task.result()
            finally:
                await self._end_tasks()

    async def stop(self) -> None:
        """What was not taken yet is sent after the next start."""
        self._saver.stop()
        self._sender.stop()
        if self._retry is not None:
            self._retry.cancel()
        await self._end_tasks()
        try:
            await self._save()
            await self._reports.sync()
        except EdgeError as error:
            logger.warning("%d records of finished work are lost: %s", len(self._noted), error)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Writing down

    async def _save(self) -> None:
        """Write what was noted; what was written is synced once a second."""
        if self._pending is None:
            await self._begin()
        if self._noted:
            rows = list(self._noted)
            books = await self._reports.add(rows)
            # Noted meanwhile, or given way meanwhile: what was written is at the front.
            written = {row.id for row in rows}
            while self._noted and self._noted[0].id in written:
                self._noted_bytes -= len(self._noted.popleft().body)
            self._account(books)
            if self._unsynced_since is None:
                self._unsynced_since = time.monotonic()
            if books.pending >= self._settings.batch:
                self._sender.wake()
        since = self._unsynced_since
        if since is not None and time.monotonic() - since >= SYNC_SECONDS:
            await self._reports.sync()
            self._unsynced_since = None

    async def _begin(self) -> None:
        """What an earlier run has left is sent, or removed when reports were turned off since."""
        if not self._enabled:
            await self._reports.clear()
        self._account(await self._reports.books())

    def _bound_noted(self) -> None:
        while len(self._noted) > MOST_NOTED or self._noted_bytes > MOST_NOTED_BYTES:
            self._noted_bytes -= len(self._noted.popleft().body)
            self._metrics.reports_dropped.labels("full").inc()

    def _account(self, books: Books) -> None:
        self._pending = books.pending
        self._metrics.reports_pending.set(books.pending)
        if books.dropped:
            self._metrics.reports_dropped.labels("full").inc(books.dropped)

    # Sending

    async def _report(self) -> None:
        """Send all there is; of the last batch, which may be small, no more than one."""
        if self._retry is not None or not self._enabled:
            return
        while True:
            if not self._batches:
                rows = await self._reports.oldest(self._settings.batch, MOST_BATCH_BYTES)
                if not rows:
                    return
                self._batches.append(rows)
            if not await self._deliver(self._batches[0]):
                return
            if not self._batches and (self._pending or 0) < self._settings.batch:
                return

    async def _deliver(self, rows: list[Row]) -> bool:
        """Send a batch and act on the answer. False if it has to wait for better times."""
        try:
            answer = await asyncio.wait_for(self._receiver.post(rows), LONGEST_POST)
        except (httpx.HTTPError, httpx.InvalidURL, ConfigError) as error:
            return self._delay(str(error) or type(error).__name__)
        except asyncio.TimeoutError:
            return self._delay(f"not taken within {LONGEST_POST:.0f} s")
        status = answer.status_code
        if status in REFUSED:
            await self._split(rows, status)
        elif answer.is_success:
            self._account(await self._reports.remove(rows))
            self._metrics.reports_sent.inc(len(rows))
            self._batches.popleft()
        else:
            wanted = retry_after(answer.headers) if status in TOO_BUSY else None
            return self._delay(f"status {status}", wanted)
        if self._offline:
            logger.info("reports are delivered again")
        self._offline = False
        self._backoff.reset()
        return True

    async def _split(self, rows: list[Row], status: int) -> None:
        """Find the record that is the reason of a refusal, and give up no other."""
        if len(rows) > 1:
            self._batches.popleft()
            half = len(rows) // 2
            self._batches.extendleft([rows[half:], rows[:half]])
            return
        logger.error(
            "the report of request %r is refused with status %d and IS DROPPED", rows[0].id, status
        )
        self._account(await self._reports.remove(rows))
        self._metrics.reports_dropped.labels("refused").inc()
        self._batches.popleft()

    def _delay(self, reason: str, wanted: float | None = None) -> bool:
        """Nothing is sent for a while: for the seconds that were wanted, or more each time."""
        delay = self._backoff.next()
        if wanted is not None:
            # All appliances of a site are told the same, and should not come back as one.
            delay = max(FIRST_RETRY, wanted) * random.uniform(1.0, 1.1)
        if not self._offline:
            logger.warning("reports cannot be delivered (%s): they are kept until they can", reason)
        self._offline = True
        self._retry = asyncio.get_running_loop().call_later(delay, self._again)
        return False

    def _again(self) -> None:
        self._retry = None
        self._sender.wake()
