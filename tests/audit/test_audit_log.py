"""The log on disk: whatever is changed, taken away or moved in it is found, and crashes are not
taken for that."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.audit.event import Event
from edge.audit.folder import Folder
from edge.audit.log import Bounds, Log, Noted
from edge.audit.verify import Verdict, verify

DAYS = ("2026-11-20", "2026-11-21", "2026-11-22")


def noted(day: str, number: int = 0, who: str = "press", said: bytes = b"") -> Noted:
    event = Event(what="chat", who=who, time=f"{day}T00:00:00.{number:06d}Z", up=1.0)
    return Noted(event, said, full=number % 2 == 0)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "state")


@pytest.fixture
def log(folder: Folder) -> Iterator[Log]:
    log = Log(folder, Bounds())
    log.open()
    yield log
    log.close()


def fill(log: Log, count: int = 2, days: tuple[str, ...] = DAYS) -> None:
    for day in days:
        log.append([noted(day, i, ("press", "lab")[i % 2], b'"secret"') for i in range(count)])
        log.seal()


def look(folder: Folder, head: str | None = None) -> Verdict:
    return verify(folder, folder.public_key(), head)


def test_a_log_is_intact(log: Log, folder: Folder) -> None:
    """A file for each day, whose first line is of the log itself."""
    fill(log)
    verdict = look(folder)
    assert verdict.findings == []
    assert (verdict.lines, verdict.first, verdict.last) == (9, 1, 9)
    assert [file.day for file in folder.files()] == list(DAYS)
    assert look(folder, verdict.head).intact


def test_one_byte_changed_anywhere_is_found(log: Log, folder: Folder) -> None:
    """Every byte of every file, each with another bit. The case of a letter counts as well."""
    fill(log, count=1, days=DAYS[:2])
    key, missed = folder.public_key(), []
    for path in sorted(folder.path.iterdir()):
        original = path.read_bytes()
        for place in range(len(original)):
            bit = 0x20 if chr(original[place]).isalpha() else 1 << place % 7
            changed = bytearray(original)
            changed[place] ^= bit
            path.write_bytes(changed)
            if verify(folder, key).intact:
                missed.append((path.name, place))
        path.write_bytes(original)
    assert missed == []
    assert look(folder).intact


def cut_lines(folder: Folder) -> None:
    path = folder.files()[-1].path
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def swap_lines(folder: Folder) -> None:
    path = folder.files()[1].path
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))


def remove_day(folder: Folder, number: int) -> None:
    file = folder.files()[number]
    file.path.unlink()
    file.contents.unlink()


def remove_all(folder: Folder) -> None:
    shutil.rmtree(folder.path)
    folder.path.mkdir()


def remove_contents(folder: Folder) -> None:
    folder.files()[0].contents.unlink()


def take_day_from_elsewhere(folder: Folder) -> None:
    elsewhere = Folder(folder.path.parent / "elsewhere")
    other = Log(elsewhere, Bounds())
    other.open()
    fill(other)
    other.close()
    shutil.copy(elsewhere.files()[1].path, folder.files()[1].path)
    shutil.copy(elsewhere.files()[1].contents, folder.files()[1].contents)


def add_line(folder: Folder) -> None:
    path = folder.files()[0].path
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])


def forge_all(folder: Folder) -> None:
    """Somebody chains everything anew, and has no key to sign it with."""
    shutil.move(folder.path, folder.path.with_name("away"))
    forger = Folder(folder.path.parent / "forger")
    other = Log(forger, Bounds())
    other.open()
    fill(other)
    other.close()
    shutil.copytree(forger.path, folder.path)


TAMPERINGS: dict[str, Callable[[Folder], None]] = {
    "the last line cut off": cut_lines,
    "two lines swapped": swap_lines,
    "a line repeated": add_line,
    "the oldest day removed": lambda folder: remove_day(folder, 0),
    "a day removed": lambda folder: remove_day(folder, 1),
    "the newest day removed": lambda folder: remove_day(folder, 2),
    "a day from elsewhere": take_day_from_elsewhere,
    "everything removed": remove_all,
    "the head removed": lambda folder: folder.head.unlink(),
    "contents removed": remove_contents,
    "another log, well made": forge_all,
}


@pytest.mark.parametrize("how", TAMPERINGS)
def test_tampering_is_found(how: str, log: Log, folder: Folder) -> None:
    fill(log)
    log.close()
    TAMPERINGS[how](folder)
    verdict = look(folder)
    assert not verdict.intact


@pytest.mark.parametrize("how", TAMPERINGS)
def test_the_log_goes_on_after_tampering_and_tells_of_it(
    how: str, log: Log, folder: Folder
) -> None:
    """What is at its end is seen at the start, and noted; nothing of it makes the log fit again."""
    fill(log)
    log.close()
    TAMPERINGS[how](folder)
    other = Log(folder, Bounds())
    place = other.open()
    other.append([noted(DAYS[-1])])
    other.seal()
    other.close()
    assert not look(folder).intact
    at_the_end = {"the last line cut off", "the newest day removed", "the head removed"}
    if how in {*at_the_end, "everything removed", "another log, well made"}:
        assert place.broken


def test_going_back_to_an_earlier_state_is_found_by_a_head_noted_elsewhere(
    log: Log, folder: Folder, tmp_path: Path
) -> None:
    """All of it was signed once; only who has noted the end can tell."""
    fill(log, days=DAYS[:1])
    shutil.copytree(folder.path, tmp_path / "earlier")
    fill(log, days=DAYS[1:])
    log.close()
    head = look(folder).head
    shutil.rmtree(folder.path)
    shutil.copytree(tmp_path / "earlier", folder.path)
    assert look(folder).intact
    assert not look(folder, head).intact


def test_every_cut_of_power_is_mended(log: Log, folder: Folder, tmp_path: Path) -> None:
    """Of what was not signed yet any part may be on the disk: whole lines are kept, the rest goes,
    both are told, and neither passes for tampering."""
    fill(log, days=DAYS[:1])
    signed = (folder.files()[0].path.stat().st_size, folder.files()[0].contents.stat().st_size)
    log.append([noted(DAYS[0], i, said=b'"secret"') for i in (8, 9)])
    log.close()
    whole = tmp_path / "whole"
    shutil.copytree(folder.path, whole)
    file = folder.files()[0]
    size, contents = (whole / file.name).stat().st_size, (whole / file.contents.name).stat().st_size
    ends = {signed[0], size - size // 9, size - 1, size, signed[0] + 5}
    for end in sorted({*ends, *range(signed[0], size, 37)}):
        for contents_end in (signed[1], contents - 3, contents):
            shutil.rmtree(folder.path)
            shutil.copytree(whole, folder.path)
            os.truncate(file.path, end)
            os.truncate(file.contents, contents_end)
            other = Log(folder, Bounds())
            place = other.open()
            assert place.broken == ""
            assert (place.unsigned + place.cut > 0) == (end > signed[0])
            other.append([noted(DAYS[0])])
            other.seal()
            other.close()
            assert look(folder).findings == []


def test_pages_of_zeros_are_cut_off(log: Log, folder: Folder) -> None:
    """As file systems leave them behind a size that was written before the bytes were."""
    fill(log, days=DAYS[:1])
    log.close()
    path = folder.files()[0].path
    path.write_bytes(path.read_bytes() + bytes(4096))
    other = Log(folder, Bounds())
    place = other.open()
    other.close()
    assert (place.broken, place.unsigned, place.cut) == ("", 0, 4096)
    assert look(folder).intact


def test_a_file_begun_before_a_crash_is_taken_up(log: Log, folder: Folder) -> None:
    """A day has begun, and the head does not know of it."""
    fill(log, days=DAYS[:1])
    log.append([noted(DAYS[1])])
    log.close()
    assert len(folder.files()) == 2
    other = Log(folder, Bounds())
    assert other.open().unsigned == 2
    other.append([noted(DAYS[1], 1)])
    other.seal()
    other.close()
    assert look(folder).findings == []


def test_a_crash_before_the_first_signature(log: Log, folder: Folder) -> None:
    log.append([noted(DAYS[0])])
    log.close()
    other = Log(folder, Bounds())
    place = other.open()
    other.close()
    assert (place.broken, place.unsigned) == ("", 2)
    assert look(folder).findings == []


def test_forgetting_leaves_a_valid_chain(log: Log, folder: Folder) -> None:
    """What somebody said is gone from the disk with its salts; what the others said is not."""
    fill(log)
    log.append([noted(DAYS[-1], who="press", said=b'"unforgettable"')])
    log.seal()
    assert log.forget("press") == 4
    kept = b"".join(path.read_bytes() for path in folder.path.glob("*.content"))
    assert b'"lab"' in kept
    assert b'"press"' not in kept
    verdict = look(folder)
    assert (verdict.findings, verdict.forgotten) == ([], 4)
    log.append([noted(DAYS[-1], who="press", said=b'"again"')])
    log.seal()
    assert look(folder).intact
    remove_contents(folder)
    assert not look(folder).intact


def test_another_process_writes_in_between(log: Log, folder: Folder) -> None:
    """`edge audit forget` beside the daemon."""
    fill(log, days=DAYS[:1])
    log.append([noted(DAYS[0])])
    other = Log(folder, Bounds())
    other.open()
    other.forget("press")
    other.close()
    log.append([noted(DAYS[0], 1)])
    log.seal()
    verdict = look(folder)
    assert verdict.findings == []
    assert "forget" in b"".join(file.path.read_bytes() for file in folder.files()).decode()


def test_old_days_go_and_the_head_knows(folder: Folder) -> None:
    """Two at most with each new file, so that a clock that jumps takes no more."""
    log = Log(folder, Bounds(keep_days=2))
    log.open()
    fill(log)
    log.append([noted("2026-11-24")])
    log.seal()
    assert [file.day for file in folder.files()] == ["2026-11-22", "2026-11-24"]
    verdict = look(folder)
    assert verdict.findings == []
    assert verdict.first > 1
    log.append([noted("2099-01-01")])
    log.append([noted("2026-11-24")])
    log.seal()
    log.close()
    assert look(folder).findings == []
    assert log.cut_files == 0
    remove_day_file = folder.files()[0]
    remove_day_file.path.unlink()
    assert not look(folder).intact


def test_the_size_is_bounded_and_what_it_costs_is_told(folder: Folder) -> None:
    bounds = Bounds(most_bytes=100_000)
    log = Log(folder, bounds)
    log.open()
    for number in range(300):
        log.append([noted(DAYS[0], number, said=b'"%s"' % (b"x" * 500))])
        if number % 50 == 0:
            log.seal()
    log.seal()
    assert sum(file.bytes for file in folder.files()) <= bounds.most_bytes
    assert log.cut_files > 0
    assert b"audit.max_mb" in folder.files()[-1].path.read_bytes()
    assert look(folder).findings == []
    log.close()
