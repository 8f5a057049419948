"""Reading the small text files in which the kernel publishes its facts."""

from __future__ import annotations

import os
from pathlib import Path


def text(path: Path) -> str | None:
    """The content without trailing newline or NUL (device tree strings end in one), or None.

    Not `read_text`: a sensor whose part has no power answers EAGAIN, of which Python's text files
    make a TypeError. Nothing is waited for that is no file of the kernel's, such as a pipe.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        pieces = []
        while piece := os.read(file, 1 << 16):
            pieces.append(piece)
    except OSError:
        return None
    finally:
        os.close(file)
    return b"".join(pieces).decode(errors="replace").strip("\0\n ")


def number(path: Path) -> int | None:
    """The one integer in the file; None also where the kernel writes a word such as `max`."""
    content = text(path)
    try:
        return int(content) if content is not None else None
    except ValueError:
        return None


def field(path: Path, key: str, separator: str = ":") -> str | None:
    """The value behind the first line that starts with `key`, as in /proc/meminfo."""
    for line in (text(path) or "").splitlines():
        name, found, value = line.partition(separator)
        if found and name.strip() == key:
            return value.strip()
    return None


def numbered(folder: Path, pattern: str) -> list[Path]:
    """What matches in a folder, in the order of the numbers in the names: 2 comes before 10."""
    try:
        return sorted(folder.glob(pattern), key=lambda path: (_number_in(path.name), path.name))
    except OSError:
        return []


def _number_in(name: str) -> int:
    digits = "".join(letter for letter in name if letter.isdigit())
    return int(digits) if digits else -1
