"""Whether the log is as it was written: every byte of it, from its first line to the signed end.

Reads only, and in a row; what is written meanwhile is not looked at. Says all that is wrong and not
only the first, for a log that was damaged at one place still proves the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from edge.audit import chain, contents
from edge.audit.chain import BadLine
from edge.audit.contents import BadContent, Content
from edge.audit.event import Event
from edge.audit.folder import Folder, LogFile, size_of
from edge.audit.seal import Head, PublicKey
from edge.errors import AuditBroken

MOST_FINDINGS = 100


class Finding(msgspec.Struct, frozen=True):
    """place: a file, and the number of a line in it where there is one."""

    place: str
    what: str


class Verdict(msgspec.Struct):
    """lines: that were read. first, last: their numbers; from_time, to_time: when they were.

    head: number and `chain` of the last line, for whoever notes it elsewhere. unsigned: lines
    behind the signed head, written a moment ago, or before a crash that nobody has mended yet.
    forgotten: lines whose contents were taken away by request.
    """

    lines: int = 0
    first: int = 0
    last: int = 0
    from_time: str = ""
    to_time: str = ""
    head: str = ""
    unsigned: int = 0
    forgotten: int = 0
    findings: list[Finding] = []

    @property
    def intact(self) -> bool:
        return not self.findings


def verify(folder: Folder, key: PublicKey, noted: str | None = None) -> Verdict:
    """noted: a head of earlier, `NUMBER:CHAIN`, which has to be in the log.

    Raises `AuditBroken` for a `noted` that is none, and `OSError`.
    """
    return _Reading(key, noted).read(folder)


class _Reading:
    def __init__(self, key: PublicKey, noted: str | None) -> None:
        self._key = key
        self._noted = _parsed(noted) if noted is not None else None
        self._verdict = Verdict(findings=[])
        self._chain = ""
        self._missing: dict[str, list[int]] = {}
        """Numbers of the first and the last line without contents, and how many, by who asked."""

        self._forgotten: dict[str, int] = {}
        """The last line that says so, by whose contents they were."""

    def read(self, folder: Folder) -> Verdict:
        verdict = self._verdict
        with folder.still():
            head = self._head(folder)
            files = [file for file in folder.files() if head is None or file.number >= head.oldest]
            sizes = [(file, size_of(file.path), size_of(file.contents)) for file in files]
        if folder.public.exists() and folder.public.read_bytes() != self._key.pem:
            self._find(folder.public.name, "it is another key than the one that is checked with")
        if head is not None:
            self._chain = head.before
            if head.file and head.file not in [file.name for file in files]:
                self._find(head.file, "it is gone, and the signed end of the log was in it")
        elif not files:
            self._find(str(folder.path), "there is no log")
        for number, (file, size, contents_size) in enumerate(sizes):
            if number and file.number != sizes[number - 1][0].number + 1:
                self._find(file.name, "a file between it and the one before is gone")
            if not number and head is not None and file.number != head.oldest:
                self._find(file.name, "a file before it is gone")
            try:
                self._read_file(file, size, contents_size, head)
            except FileNotFoundError:  # its time has ended while others were read
                self._chain = ""
        self._end(head)
        return verdict

    def _find(self, place: str, what: str) -> None:
        if len(self._verdict.findings) < MOST_FINDINGS:
            self._verdict.findings.append(Finding(place, what))

    def _head(self, folder: Folder) -> Head | None:
        try:
            return self._key.open(folder.head.read_bytes())
        except FileNotFoundError:
            if folder.files():
                self._find(folder.head.name, "the signed end of the log is gone")
        except AuditBroken as error:
            self._find(folder.head.name, error.message)
        return None

    def _read_file(self, file: LogFile, size: int, contents_size: int, head: Head | None) -> None:
        said = _Contents(file, contents_size, self._find)
        if not size:
            self._find(file.name, "it is empty")
        for number, line in enumerate(contents.lines(file.path, 0, size), start=1):
            place = f"{file.name}:{number}"
            try:
                event, digest = self._line(line, number)
            except BadLine as error:
                self._find(place, str(error))
                self._chain = ""
                continue
            self._take(event, digest, place, head)
            if event.content:
                self._check_content(event, said, place)
        said.end()

    def _line(self, line: bytes, number: int) -> tuple[Event, str]:
        """Behind one that could not be read, any line is taken for what it says."""
        if self._chain:
            return chain.check_line(self._chain, line)
        event, digest = chain.read_line(line)
        return (event, digest) if number > 1 else chain.check_line(event.previous, line)

    def _take(self, event: Event, digest: str, place: str, head: Head | None) -> None:
        verdict = self._verdict
        if not verdict.lines:
            verdict.first, verdict.from_time = event.seq, event.time
        elif event.seq != verdict.last + 1 and not verdict.findings:
            self._find(place, f"line {event.seq} stands behind line {verdict.last}")
        verdict.lines += 1
        verdict.last, verdict.to_time, self._chain = event.seq, event.time, digest
        if head is not None and event.seq == head.seq and digest != head.chain:
            self._find(place, "it is not the line that was signed")
        if self._noted is not None and event.seq == self._noted[0] and digest != self._noted[1]:
            self._find(place, "it is not the line that was noted elsewhere")
        if event.what == "break":
            self._find(place, f"noticed on {event.time}: {event.detail}")
        elif event.what == "forget":
            self._forgotten[event.who] = event.seq

    def _check_content(self, event: Event, said: _Contents, place: str) -> None:
        content = said.of(event.seq)
        if content is None:
            first, last, many = self._missing.get(event.who, [event.seq, event.seq, 0])
            self._missing[event.who] = [first, max(last, event.seq), many + 1]
        elif content.digest != event.content or content.who != event.who:
            self._find(place, "what was said is not what it was")

    def _end(self, head: Head | None) -> None:
        verdict = self._verdict
        for who, (first, last, many) in self._missing.items():
            if last < self._forgotten.get(who, 0):
                verdict.forgotten += many
            else:
                self._find("contents", f"of {who}, lines {first} to {last}: {many} are gone")
        if head is not None:
            if head.seq > verdict.last:
                self._find("head", f"{head.seq} lines were signed, and {verdict.last} are there")
            verdict.unsigned = max(0, verdict.last - head.seq)
        if self._noted is not None and not verdict.first <= self._noted[0] <= verdict.last:
            self._find("head", f"line {self._noted[0]}, which was noted elsewhere, is not there")
        if verdict.lines:
            verdict.head = f"{verdict.last}:{self._chain}"


class _Contents:
    """What was said in a file, in step with its lines. Lines that nobody asks for are findings."""

    def __init__(self, file: LogFile, size: int, find: Callable[[str, str], None]) -> None:
        self._name = file.contents.name
        self._lines = self._read(contents.lines(file.contents, 0, size))
        self._find = find
        self._next: Content | None = next(self._lines, None)

    def of(self, seq: int) -> Content | None:
        while self._next is not None and self._next.seq < seq:
            self._find(self._name, f"there is no line {self._next.seq} that it could be of")
            self._next = next(self._lines, None)
        if self._next is None or self._next.seq > seq:
            return None
        found, self._next = self._next, next(self._lines, None)
        return found

    def end(self) -> None:
        if self._next is not None:
            self._find(self._name, f"there is no line {self._next.seq} that it could be of")

    def _read(self, lines: Iterator[bytes]) -> Iterator[Content]:
        for number, line in enumerate(lines, start=1):
            try:
                yield contents.read_line(line)
            except BadContent as error:
                self._find(f"{self._name}:{number}", str(error))


def _parsed(noted: str) -> tuple[int, str]:
    number, _, digest = noted.partition(":")
    if not number.isdecimal() or len(digest) != 64:
        raise AuditBroken(f"{noted} is no head", hint="NUMBER:CHAIN, as verify prints it")
    return int(number), digest
