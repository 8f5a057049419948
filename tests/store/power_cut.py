"""What a disk holds after a power cut: told from the system calls of a process that wrote to it.

`Disk` replays a trace of strace. Writes that were synced are on the disk; of those that were not,
any may be there and any may be missing, in any order, as the kernel and the drive are free to do.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

STRACE = (
    *("strace", "-f", "-qq", "-y", "-xx", "-s", str(1 << 24), "-e", "signal=none"),
    *("-e", "trace=pwrite64,fsync,fdatasync,ftruncate,unlink,write"),
)
"""Everything that SQLite does to its files, and what is written to standard output."""

CALL = re.compile(r"(\d+) +(\w+)\((.*)")
RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>.* = (-?\d+)")
FILE = re.compile(r'(?:\d+<)?"?((?:\\x[0-9a-f]{2})+)')
WRITE = re.compile(r'\d+<(?P<path>[^>]*)>, "(?P<data>[^"]*)"(?:, (?P<size>\d+), (?P<at>\d+))?')


@dataclass
class Call:
    """One system call; `path` is where it went, `at` an offset or a length."""

    name: str
    path: str
    data: bytes = b""
    at: int = 0


@dataclass
class File:
    """`kept` is surely there; `pending` are the writes since the last sync."""

    kept: bytearray = field(default_factory=bytearray)
    pending: list[Call] = field(default_factory=list)
    synced: bool = False


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def calls(trace: Path) -> list[Call]:
    """In their order. A write counts from its beginning, a sync from its end."""
    found: list[Call] = []
    open_syncs: dict[str, Call] = {}
    for line in trace.read_text().splitlines():
        if resumed := RESUMED.match(line):
            if (sync := open_syncs.pop(resumed[1], None)) and resumed[2] == "0":
                found.append(sync)
            continue
        if not (match := CALL.match(line)):
            continue
        thread, name, rest = match.groups()
        if name in ("pwrite64", "write"):
            write = WRITE.match(rest)
            assert write, line[:200]
            path, at = unhex(write["path"]).decode(), int(write["at"] or 0)
            found.append(Call(name, path, unhex(write["data"]), at))
            continue
        named = FILE.match(rest)
        assert named, line[:200]
        call = Call(name, unhex(named[1]).decode())
        if name == "ftruncate":
            call.at = int(rest.split(", ")[1].split(")")[0])
        if "sync" in name and "<unfinished" in rest:
            open_syncs[thread] = call
        elif rest.endswith(" = 0"):
            found.append(call)
    return found


class Disk:
    """The files of a trace, as far as it was replayed."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}

    def apply(self, call: Call) -> None:
        file = self.files.setdefault(call.path, File())
        if call.name == "unlink":
            del self.files[call.path]
        elif "sync" in call.name:
            for pending in file.pending:
                _change(file.kept, pending)
            file.pending.clear()
            file.synced = True
        elif call.name in ("pwrite64", "ftruncate"):
            file.pending.append(call)

    def after_a_cut(self, chance: random.Random) -> dict[str, bytes]:
        """The files by path, each with a part of what was not synced, in any order."""
        share = chance.choice([0.0, 0.5, 0.9, 1.0])
        left: dict[str, bytes] = {}
        for path, file in self.files.items():
            if not file.synced:
                continue
            content = bytearray(file.kept)
            some = [call for call in file.pending if chance.random() < share]
            chance.shuffle(some)
            for call in some:
                _change(content, call)
            left[path] = bytes(content)
        return left


def _change(content: bytearray, call: Call) -> None:
    size = call.at + len(call.data)
    if call.name == "ftruncate":
        del content[call.at :]
    if len(content) < size:
        content.extend(bytes(size - len(content)))
    content[call.at : size] = call.data
