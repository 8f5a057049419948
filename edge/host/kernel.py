"""Reading the small text files in which the kernel publishes its facts."""

from __future__ import annotations

from pathlib import Path


def text(path: Path) -> str | None:
    """The content without trailing newline or NUL (device tree strings end in one), or None."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None


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
