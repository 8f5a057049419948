"""The log for those who read it: events in their order, with what was said where it is there.

Compares nothing; whoever wants to know whether a line is as it was written asks `verify.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec

from edge.audit import chain, contents
from edge.audit.chain import BadLine
from edge.audit.contents import BadContent, Content
from edge.audit.event import Event
from edge.audit.folder import Folder, LogFile


class Wanted(msgspec.Struct, frozen=True):
    """since, until: days, `2026-11-23`, both included, empty for no bound. who: a key's name."""

    since: str = ""
    until: str = ""
    who: str | None = None

    def fits(self, event: Event) -> bool:
        day = event.time[:10]
        late = not self.since or day >= self.since
        early = not self.until or day <= self.until
        return late and early and (self.who is None or event.who == self.who)


class Line(msgspec.Struct, frozen=True):
    """said: JSON, empty where nothing is kept."""

    event: Event
    said: bytes = b""


def lines(folder: Folder, wanted: Wanted, *, said: bool = False) -> Iterator[Line]:
    """Oldest first; those that cannot be read are left out. said: with what was said.

    Raises `OSError`.
    """
    for file in folder.files():
        kept = _contents(file) if said else iter(())
        at = next(kept, None)
        for event in _events(file):
            while at is not None and at.seq < event.seq:
                at = next(kept, None)
            if wanted.fits(event):
                own = at is not None and at.seq == event.seq
                yield Line(event, bytes(at.content) if at is not None and own else b"")


def last(folder: Folder, count: int, wanted: Wanted) -> list[Event]:
    """The newest, oldest first."""
    found: deque[Event] = deque(maxlen=count)
    for file in reversed(folder.files()):
        some = [event for event in _events(file) if wanted.fits(event)]
        found.extendleft(reversed(some[-(count - len(found)) :]))
        if len(found) == count:
            break
    return list(found)


def _events(file: LogFile) -> Iterator[Event]:
    for line in contents.lines(file.path):
        try:
            yield chain.read_line(line)[0]
        except BadLine:
            continue


def _contents(file: LogFile) -> Iterator[Content]:
    for line in contents.lines(file.contents):
        try:
            yield contents.read_line(line)
        except BadContent:
            continue
