"""The log as it is written: lines, files, the signed end, and what goes when there is no room.

    append ─► lines, at once       seal ─► fsync of the lines, then the head, signed

Blocking. Several processes may write by turns: whoever has the turn looks first whether somebody
else has written meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, timedelta

import msgspec

from edge.audit import chain, contents, recovery
from edge.audit.event import Event, now
from edge.audit.folder import Folder, LogFile, size_of
from edge.audit.recovery import Place
from edge.audit.seal import Head, SealingKey
from edge.disk import sync, write_atomically

MOST_EXPIRED = 2
"""Files that end their time and go when a new one is begun. More than one is made for each; few,
so that a clock that jumps ahead by years takes a few days with it, and not all."""


class Noted(msgspec.Struct, frozen=True):
    """An event, and what was said, as JSON; empty for nothing. full: keep more than its digest."""

    event: Event
    said: bytes = b""
    full: bool = False


class Bounds(msgspec.Struct, frozen=True):
    """Days that are kept, and bytes at most, which go first."""

    keep_days: float = 180
    most_bytes: int = 1 << 30

    @property
    def file_bytes(self) -> int:
        """After which a new file is begun. A sixteenth of all, as the oldest goes as a whole."""
        return min(64 << 20, max(self.most_bytes // 16, 4096))


class Log:
    """See the head of this file. Methods raise `OSError`; what was not written then, the next try
    finds and mends. `AuditBroken` where the key cannot be read."""

    def __init__(self, folder: Folder, bounds: Bounds) -> None:
        self.folder = folder
        self.bounds = bounds
        self.cut_files = 0
        """That had to go before their time, since this was made."""

        self._key: SealingKey | None = None
        self._place: Place | None = None
        self._signed: tuple[int, int] | None = None
        self._handle = -1
        self._contents = -1

    def open(self) -> Place:
        """Make what is missing, and mend what a crash has left; what was found."""
        self._key = self.folder.make()
        with self.folder.turn():
            place = self._resume()
            if place.broken:
                self._add(Noted(Event(what="break", detail=place.broken, **now())))
            self._seal()
        return place

    @property
    def head(self) -> Head:
        """The end of what was written."""
        return self._current.head

    def append(self, some: Sequence[Noted]) -> None:
        """Write them all, or none."""
        with self.folder.turn():
            self._look()
            before = self._current
            try:
                for noted in some:
                    self._add(noted)
            except BaseException:
                self._take_back(before)
                raise

    def seal(self) -> None:
        """Have all that was appended on the disk, and signed."""
        with self.folder.turn():
            self._look()
            self._seal()

    def forget(self, who: str) -> int:
        """Take away what somebody said; how many lines there were of it. The log tells that it
        was done, before it is done."""
        with self.folder.turn():
            self._look()
            self._add(Noted(Event(what="forget", who=who, **now())))
            self._seal()
            self._close()
            files = [file for file in self.folder.files() if file.contents.exists()]
            gone = sum(contents.forget(file.contents, who) for file in files)
            self._reopen()
            self._seal()
        return gone

    def close(self) -> None:
        self._close()
        self._place = None

    # Whoever is below has the turn

    @property
    def _current(self) -> Place:
        assert self._place is not None, "the log is not open"
        return self._place

    def _look(self) -> None:
        """Whether another process has written, or the last try here has failed."""
        if self._place is None or self._signed != self._stamp():
            self._resume()

    def _resume(self) -> Place:
        assert self._key is not None
        self._close()
        place = self._place = recovery.resume(self.folder, self._key.public)
        if place.file is not None and not place.broken:
            self._reopen()
        self._signed = self._stamp()
        return place

    def _stamp(self) -> tuple[int, int] | None:
        try:
            facts = self.folder.head.stat()
        except FileNotFoundError:
            return None
        return facts.st_ino, facts.st_mtime_ns

    def _reopen(self) -> None:
        file = self._current.file
        assert file is not None
        self._handle = _appending(file.path)
        self.folder.give(file.path)
        self._contents = -1
        if file.contents.exists():
            self._contents = _appending(file.contents)
        size = size_of(file.contents)
        self._change(contents_size=size)

    def _close(self) -> None:
        for handle in (self._handle, self._contents):
            if handle >= 0:
                os.close(handle)
        self._handle = self._contents = -1

    def _change(self, **members: object) -> None:
        place = self._current
        head = msgspec.structs.replace(place.head, **members)
        self._place = msgspec.structs.replace(place, head=head)

    def _add(self, noted: Noted) -> None:
        if self._handle < 0 or self._is_over(noted.event):
            self._begin_file(noted.event)
        self._write(noted)

    def _is_over(self, event: Event) -> bool:
        place = self._current
        assert place.file is not None
        full = place.head.size + place.head.contents_size >= self.bounds.file_bytes
        return full or place.file.day != event.time[:10]

    def _begin_file(self, event: Event) -> None:
        """Whose first line names the end of the one before."""
        place = self._current
        number = 1 if place.file is None else place.file.number + 1
        if self._handle >= 0:
            self._seal()
        self._close()
        new = self.folder.file(number, event.time[:10])
        self._place = msgspec.structs.replace(place, file=new, broken="")
        self._change(file=new.name, size=0, contents_size=0)
        self._reopen()
        sync(self.folder.path)
        first = Event(what="file", previous=self.head.chain, time=event.time, up=event.up)
        self._write(Noted(first))
        for told in self._make_room(new):
            self._write(Noted(told))

    def _write(self, noted: Noted) -> None:
        head = self.head
        event = msgspec.structs.replace(noted.event, seq=head.seq + 1)
        contents_size = head.contents_size
        if noted.said:
            content = contents.make(event.seq, event.who, noted.said, full=noted.full)
            event = msgspec.structs.replace(event, content=content.digest)
            contents_size += self._write_content(contents.line_of(content))
        line, digest = chain.line_of(head.chain, event)
        _write_all(self._handle, line)
        size = head.size + len(line)
        self._change(
            seq=event.seq, chain=digest, time=event.time, size=size, contents_size=contents_size
        )

    def _write_content(self, line: bytes) -> int:
        if self._contents < 0:
            file = self._current.file
            assert file is not None
            self._contents = _appending(file.contents)
            self.folder.give(file.contents)
            sync(self.folder.path)
        _write_all(self._contents, line)
        return len(line)

    def _seal(self) -> None:
        assert self._key is not None
        if self._handle < 0:
            return
        try:
            if self._contents >= 0:
                os.fdatasync(self._contents)
            os.fdatasync(self._handle)
            write_atomically(self.folder.head, self._key.seal(self.head), mode=0o600)
            self.folder.give(self.folder.head)
        except OSError:
            self._place = None  # nobody knows what is on the disk: look again
            raise
        self._signed = self._stamp()

    def _take_back(self, before: Place) -> None:
        """What a disk that is full has taken of the lines; else the next look finds it."""
        current, self._place = self._place, None
        if current is None or before.file is None or current.file != before.file:
            return
        with suppress(OSError):
            os.ftruncate(self._handle, before.head.size)
            if self._contents >= 0:
                os.ftruncate(self._contents, before.head.contents_size)
            self._place = before

    # What goes

    def _make_room(self, new: LogFile) -> Iterator[Event]:
        """Remove the oldest files where they have had their time, or others need their room.

        The head tells first where the log begins from then on, so that nobody can take away more.
        """
        old = [file for file in self.folder.files() if file.number < new.number]
        last_day = (date.fromisoformat(new.day) - timedelta(days=self.bounds.keep_days)).isoformat()
        expired = [file for file in old if file.day < last_day][:MOST_EXPIRED]
        left = [file for file in old if file not in expired]
        room, early = self.bounds.most_bytes - 2 * self.bounds.file_bytes, []
        while left and sum(file.bytes for file in left) > room:
            early.append(left.pop(0))
        for gone in (expired, early):
            if gone:
                yield self._cut(gone, early=gone is early)

    def _cut(self, gone: Sequence[LogFile], *, early: bool) -> Event:
        _, ending = chain.read_line(recovery.last_line(gone[-1].path, size_of(gone[-1].path)))
        self._change(oldest=gone[-1].number + 1, before=ending)
        self._seal()
        for file in gone:
            file.contents.unlink(missing_ok=True)
            file.path.unlink()
        self.cut_files += len(gone) if early else 0
        why = "audit.max_mb" if early else "audit.keep_days"
        return Event(what="cut", detail=f"{why}: {gone[0].day} to {gone[-1].day}", **now())


@contextmanager
def opened(folder: Folder, bounds: Bounds) -> Iterator[Log]:
    """For a command beside the daemon. Raises `AuditBroken`, `OSError`."""
    log = Log(folder, bounds)
    log.open()
    try:
        yield log
    finally:
        log.close()


def _appending(path: os.PathLike[str]) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
