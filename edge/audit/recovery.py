"""Where a log goes on: behind its signed head, and behind what a crash left there.

Lines are written before they are signed, so after a crash or a power cut some may stand behind the
head. Those that are whole, follow each other and have their contents are kept; from the first that
is not, everything goes. Both numbers are told in the log. Whoever does not stand behind the head,
but is missing before it, was taken away: that is told as well, and the log goes on all the same.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from edge.audit import chain, contents
from edge.audit.chain import ORIGIN, BadLine
from edge.audit.folder import Folder, LogFile, size_of
from edge.audit.seal import Head, PublicKey
from edge.disk import sync
from edge.errors import AuditBroken


class Place(msgspec.Struct, frozen=True):
    """Where the next line goes. head: as it has to be signed. file: None before the first.

    unsigned: lines that were behind the signed head; cut: bytes that were no whole lines.
    broken: what is wrong with all of it, empty for nothing.
    """

    head: Head
    file: LogFile | None
    unsigned: int = 0
    cut: int = 0
    broken: str = ""


def resume(folder: Folder, key: PublicKey) -> Place:
    """For whoever has the log's turn. Raises `OSError`."""
    files = folder.files()
    try:
        head = key.open(folder.head.read_bytes())
    except FileNotFoundError:
        what = "its head is gone" if files else "all of it is gone, and its key is there"
        return _begin_anew(files, Head(), what)
    except AuditBroken as error:
        return _begin_anew(files, Head(), error.message)
    _remove_needless(files, head)
    files = [file for file in files if file.number >= head.oldest]
    if not head.file:  # nothing was signed yet
        return _take_up(Place(head, None), files)
    place = next((file for file in files if file.name == head.file), None)
    if damage := _damage(place, head):
        return _begin_anew(files, head, damage)
    assert place is not None
    return _take_up(Place(head, place), [place, *(file for file in files if file > place)])


def _damage(file: LogFile | None, head: Head) -> str:
    """What the head says and the files do not."""
    if file is None:
        return f"{head.file} is gone"
    if size_of(file.path) < head.size:
        return f"{file.name} is shorter than it was"
    try:
        _, digest = chain.read_line(last_line(file.path, head.size))
    except BadLine as error:
        return f"{file.name}: its last signed line: {error}"
    return "" if digest == head.chain else f"{file.name} does not end as it was signed"


def last_line(path: Path, end: int) -> bytes:
    """The one that ends at that byte."""
    piece = 4096
    with open(path, "rb") as file:
        while True:
            start = max(0, end - piece)
            file.seek(start)
            found = file.read(end - start)
            at = found.rfind(b"\n", 0, -1)
            if at >= 0 or start == 0:
                return found[at + 1 :]
            piece *= 4


def _take_up(place: Place, files: list[LogFile]) -> Place:
    """Keep what is whole behind the head; take away the rest. files: the head's, and later ones."""
    for file in files:
        place = _tail(place, file)
    return place


def _tail(place: Place, file: LogFile) -> Place:
    """With the lines of a file that are whole and go on from there, and the others cut off."""
    head, signed = place.head, place.head if file == place.file else Head()
    said = _contents(file, signed.contents_size)
    size, contents_size = signed.size, signed.contents_size
    for line in contents.lines(file.path, signed.size):
        try:
            event, digest = chain.check_line(head.chain, line)
        except BadLine:
            break
        if event.seq != head.seq + 1 or (event.content and event.seq not in said):
            break
        size, contents_size = size + len(line), said.get(event.seq, contents_size)
        head = msgspec.structs.replace(head, seq=event.seq, chain=digest, time=event.time)
    cut = size_of(file.path) - size
    if size == 0:
        file.path.unlink()
        file.contents.unlink(missing_ok=True)
        sync(file.path.parent)
        return msgspec.structs.replace(place, cut=place.cut + cut)
    _truncate(file.path, size)
    _truncate(file.contents, contents_size)
    unsigned = place.unsigned + head.seq - place.head.seq
    head = msgspec.structs.replace(
        head, file=file.name, size=size, contents_size=min(contents_size, size_of(file.contents))
    )
    return Place(head, file, unsigned, place.cut + cut)


def _contents(file: LogFile, start: int) -> dict[int, int]:
    """Where the whole ones end, by the number of their lines."""
    ends, end = {}, start
    for line in contents.lines(file.contents, start):
        try:
            content = contents.read_line(line)
        except contents.BadContent:
            break
        end += len(line)
        ends[content.seq] = end
    return ends


def _begin_anew(files: list[LogFile], head: Head, broken: str) -> Place:
    """In a file of its own, behind all that is there, which stays as it is."""
    last = files[-1] if files else None
    seq, digest = head.seq, head.chain
    if last is not None and not seq:
        for line in contents.lines(last.path):
            try:
                event, digest = chain.read_line(line)
                seq = max(seq, event.seq)
            except BadLine:
                continue
    oldest = head.oldest if head.seq else (files[0].number if files else 1)
    before = head.before if head.seq else ORIGIN
    made = Head(seq=seq, chain=digest, oldest=oldest, before=before)
    return Place(made, last, broken=broken)


def _remove_needless(files: list[LogFile], head: Head) -> None:
    """What a crash has left of files that were cut off: the head goes first."""
    for file in files:
        if file.number < head.oldest:
            file.contents.unlink(missing_ok=True)
            file.path.unlink(missing_ok=True)


def _truncate(path: Path, size: int) -> None:
    """Where there is more."""
    if size_of(path) > size:
        os.truncate(path, size)
        sync(path)
