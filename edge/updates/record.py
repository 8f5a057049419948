"""What became of each update: written before it begins, so that a power cut leaves a trace.

One file beside the slots, root's, which everybody may read. An entry without an outcome is one
whose command did not live to tell: what became of it shows in the slots.
"""

from __future__ import annotations

import datetime
from typing import Literal, TypeAlias

import msgspec

from edge.disk import write_atomically
from edge.errors import StoreBroken
from edge.modelstore.locks import alone
from edge.modelstore.versions import now
from edge.updates.slots import Slots

Outcome: TypeAlias = Literal["installed", "went back", "failed", "interrupted", "on trial", "runs"]

MOST = 50


class Entry(msgspec.Struct, frozen=True):
    """before, version: of the slot in use and of the one to come. source: where it came from.

    key: fingerprint of who signed it; empty where it was here already. identity: of its slot.
    digest: of its manifest. reason: what was said when it failed.
    """

    began: datetime.datetime
    before: str
    version: str
    source: str
    key: str
    identity: str
    digest: str
    outcome: Outcome | None = None
    reason: str = ""
    ended: datetime.datetime | None = None


class History:
    """Owned by whoever has the update's lock; anybody may read it."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._path = slots.base / "updates.json"
        self.lock = slots.base / ".update.lock"

    def entries(self) -> list[Entry]:
        """Oldest first, each with its outcome. Raises `StoreBroken`."""
        found = self._read()
        if found and found[-1].outcome is None:
            with alone(self.lock) as idle:
                found[-1] = self._settled(found[-1], idle)
        return found

    def last(self) -> Entry | None:
        entries = self.entries()
        return entries[-1] if entries else None

    def begin(self, entry: Entry) -> None:
        """Needs the lock."""
        found = self._read()
        if found and found[-1].outcome is None:
            found[-1] = self._settled(found[-1], True)
        self._write([*found, entry])

    def end(self, otherwise: Outcome = "interrupted", reason: str = "") -> Entry:
        """Of the one that was begun: what the slots show, else this. Needs the lock."""
        *before, entry = self._read()
        seen = self._settled(entry, True).outcome
        outcome = otherwise if seen == "interrupted" else seen
        entry = msgspec.structs.replace(entry, outcome=outcome, reason=reason, ended=now())
        self._write([*before, entry])
        return entry

    def failed_before(self, digest: str) -> Entry | None:
        """The last try of this bundle, if it did not answer then."""
        tries = [entry for entry in self.entries() if entry.digest == digest != ""]
        return tries[-1] if tries and tries[-1].outcome == "went back" else None

    def _read(self) -> list[Entry]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Entry])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            raise StoreBroken(f"{self._path} cannot be read: {error}", hint="remove it") from None

    def _settled(self, entry: Entry, idle: bool) -> Entry:
        """idle: nobody installs. Who does may still go back, whatever the slots show."""
        slots = self._slots
        outcome: Outcome = "interrupted"
        if not idle:
            outcome = "runs"
        elif slots.identity(slots.current) == entry.identity:
            outcome = "on trial" if slots.on_trial else "installed"
        elif slots.failed == entry.identity:
            outcome = "went back"
        return msgspec.structs.replace(entry, outcome=outcome)

    def _write(self, entries: list[Entry]) -> None:
        write_atomically(self._path, msgspec.json.format(msgspec.json.encode(entries[-MOST:])))
        self._path.chmod(0o644)


def begun(before: str, version: str, source: str) -> Entry:
    return Entry(now(), before, version, source, "", "", "")
