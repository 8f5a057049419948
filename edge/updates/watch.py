"""The daemon's side of updates: it tells what became of the last one, and never makes one.

The command that installs may have ended with the power, and a version that did not answer says
nothing any more. So whichever version runs looks at the record and the slots, notes each outcome in
the audit log once, and has it ready for status and telemetry. Owned by the event loop.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edge.audit.audit import Audit
from edge.audit.event import Event
from edge.disk import write_atomically
from edge.errors import StoreBroken, UpdateFailed
from edge.loops import Loop
from edge.updates.record import Entry, History
from edge.updates.slots import Slots

TICK = 10.0
NOT_YET = ("runs", "on trial")

logger = logging.getLogger(__name__)


class UpdateWatch:
    """`run` it in a task. last: the latest update, None where there was none.

    slots: None where this was not installed into any. state: where it is kept what was told.
    """

    def __init__(self, slots: Slots | None, audit: Audit | None, state: Path) -> None:
        self.last: Entry | None = None
        self._history = None if slots is None else History(slots)
        self._audit = audit
        self._mark, self._told = state / "update-told", ""
        self._loop = Loop("updates", self.look, tick=TICK)

    async def run(self) -> None:
        await self._loop.run()

    async def stop(self) -> None:
        self._loop.stop()

    async def look(self) -> None:
        """Raises `OSError`."""
        if self._history is None:
            return
        try:
            self.last = self._history.last()
        except StoreBroken as error:
            logger.warning("%s", error.message)
            return
        if self.last is not None and self.last.outcome not in NOT_YET:
            self._tell(self.last)

    def _tell(self, entry: Entry) -> None:
        mark = f"{entry.began.isoformat()} {entry.outcome}\n"
        if mark == self._told or (self._mark.exists() and self._mark.read_text() == mark):
            return
        self._told = mark  # a disk that takes no mark does not make it news again
        detail = f"edge {entry.before} to {entry.version}: {entry.outcome}"
        detail += f", signed with {entry.key}" if entry.key else ""
        detail += f": {entry.reason}" if entry.reason else ""
        good = entry.outcome == "installed"
        logger.log(logging.INFO if good else logging.WARNING, "update: %s", detail)
        if self._audit is not None:
            status = "ok" if good else UpdateFailed.code
            self._audit.note(
                Event(what="update", origin=entry.source, status=status, detail=detail)
            )
        write_atomically(self._mark, mark.encode(), mode=0o600)
