"""The daemon's side of the audit log: what is noted goes to a thread, which writes it down.

    note ──► memory, bounded ──► thread: lines, at once ──► fsync and signature, once a second

`note` never waits and never fails. What the disk does not take is tried again; once there is no
room in memory, what comes is counted, and the log tells later how much is missing and since when.
So a full disk stops nobody's work, and never goes without a trace. Owned by the event loop, but
for the log, which is the thread's.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from edge import __version__
from edge.audit.event import Event, asking, now
from edge.audit.folder import Folder
from edge.audit.log import Bounds, Log, Noted
from edge.audit.recovery import Place
from edge.audit.refusals import Refusals
from edge.config.keeping import Audit as Settings
from edge.errors import EdgeError
from edge.loops import Loop, QuietLog
from edge.metrics import Metrics

logger = logging.getLogger(__name__)

SYNC_SECONDS = 1.0
"""Lines that are older than this survive a power cut, and are signed."""

RETRY_SECONDS = 1.0
MOST_NOTED = 10_000
MOST_NOTED_BYTES = 16 << 20
"""Events that wait for a disk that is slow, broken or full."""

MOST_SAID_BYTES = 1 << 20
"""What is longer is kept as its digest alone."""

TICK = 5.0


class Audit:
    """`open` it, `run` it in a task; `stop` returns when all that was noted is written."""

    def __init__(self, folder: Folder, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._log = Log(folder, Bounds(settings.keep_days, int(settings.max_mb * 1024 * 1024)))
        self._refusals = Refusals()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._noted: deque[Noted] = deque()
        self._noted_bytes = 0
        self._lost, self._lost_since = 0, ""
        self._told_cuts = 0
        self._stopping = False
        self.head = ""
        """`NUMBER:CHAIN` of the last line that was signed, for whoever notes it elsewhere."""

        self._thread = threading.Thread(target=self._main, name="audit", daemon=True)
        self._loop = Loop("audit", self._tick, tick=TICK)

    @property
    def keeps_content(self) -> bool:
        """Whether it wants to know what was said."""
        return self._settings.content != "none"

    def open(self) -> None:
        """From here on there is somebody who writes. A log that cannot be opened is tried again."""
        self._thread.start()

    def note(self, event: Event, said: Callable[[], Any] | None = None) -> None:
        """Write it down some time. said: gives what was said, ready for JSON, if it is wanted."""
        if (current := asking.get()) is not None:
            current.noted = True
            event = msgspec.structs.replace(event, origin=event.origin or current.origin)
        if event.what == "refused" and not self._refusals.tell(event.origin):
            return
        content = b""
        if said is not None and self.keeps_content:
            content = msgspec.json.encode(said())
        full = self._settings.content == "full" and len(content) <= MOST_SAID_BYTES
        self._put(Noted(msgspec.structs.replace(event, **now()), content, full))

    async def run(self) -> None:
        await self._loop.run()

    async def stop(self) -> None:
        self._loop.stop()
        self.note(Event(what="stop"))
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    async def _tick(self) -> None:
        for address, count in self._refusals.untold(time.monotonic()).items():
            event = Event(what="refused", origin=address, detail=f"{count} more", **now())
            self._put(Noted(event))
        if not self._thread.is_alive() and not self._stopping:
            raise RuntimeError("the thread of the audit log has ended")

    def _put(self, noted: Noted) -> None:
        with self._lock:
            if len(self._noted) >= MOST_NOTED or self._noted_bytes > MOST_NOTED_BYTES:
                self._lost_since = self._lost_since or noted.event.time
                self._lost += 1
                self._metrics.audit_lost.inc()
                return
            self._noted.append(noted)
            self._noted_bytes += len(noted.said)
        self._wake.set()

    # On the thread

    def _main(self) -> None:
        log, opened = QuietLog("audit log"), False
        due: float | None = None
        while True:
            stopping = self._stopping
            try:
                if not opened:
                    self._begin()
                    opened = True
                if self._write_all() and due is None:
                    due = time.monotonic() + SYNC_SECONDS
                if due is not None and (stopping or time.monotonic() >= due):
                    self._log.seal()
                    due = None
                    self._measure()
                    log.recovered()
            except (OSError, EdgeError) as error:
                log.error(error)
                if stopping:
                    break
                time.sleep(RETRY_SECONDS)
                continue
            if stopping:
                break
            self._wake.wait(None if due is None else max(0.0, due - time.monotonic()))
            self._wake.clear()
        self._log.close()

    def _begin(self) -> None:
        place = self._log.open()
        detail = f"edge {__version__}"
        if place.unsigned or place.cut:
            detail += f"; behind the signed end {place.unsigned} lines were kept"
            detail += f" and {place.cut} bytes that are no line cut off"
        self._log.append([Noted(Event(what="start", detail=detail, **now()))])
        self._log.seal()
        _tell(place)
        self._measure()

    def _write_all(self) -> bool:
        """True if there was something."""
        with self._lock:
            some, lost, since = list(self._noted), self._lost, self._lost_since
        if lost:
            detail = f"{lost} events since {since}: there was no room for them"
            some.append(Noted(Event(what="lost", detail=detail, **now())))
        if not some:
            return False
        self._log.append(some)
        with self._lock:
            for noted in some[: len(some) - bool(lost)]:
                self._noted.popleft()
                self._noted_bytes -= len(noted.said)
            self._lost -= lost
            self._lost_since = self._lost_since if self._lost else ""
        self._metrics.audit_events.inc(len(some))
        return True

    def _measure(self) -> None:
        head = self._log.head
        self.head = f"{head.seq}:{head.chain}"
        files = self._log.folder.files()
        self._metrics.audit_bytes.set(sum(file.bytes for file in files))
        self._metrics.audit_days.set(len({file.day for file in files}))
        self._metrics.audit_cut.set(self._log.cut_files)
        if self._log.cut_files > self._told_cuts:
            logger.warning(
                "audit log: %d files went before audit.keep_days (%d), for audit.max_mb has no room"
                " for them",
                *(self._log.cut_files - self._told_cuts, self._settings.keep_days),
            )
        self._told_cuts = self._log.cut_files


def _tell(place: Place) -> None:
    if place.broken:
        logger.error(
            "THE AUDIT LOG IS NOT AS IT WAS LEFT (%s): a new file is begun behind it; edge audit"
            " verify tells more",
            place.broken,
        )
    elif place.unsigned or place.cut:
        logger.warning(
            "audit log: behind its signed end %d lines were kept and %d bytes cut off, as a crash"
            " or a power cut leaves them",
            *(place.unsigned, place.cut),
        )
    logger.info("audit log: line %d, %s", place.head.seq, place.head.chain)
