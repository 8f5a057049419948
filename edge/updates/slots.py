"""The versions that are installed beside each other, and which one is in use.

    /opt/edge/VERSION/            a slot: the program, whole once it has `.identity`
    /opt/edge/current             links to the one in use
    /opt/edge/.trial              the one to go back to, while `current` is on trial
    /opt/edge/.failed             identity of the last one that did not answer

Only scripts/install.sh and scripts/lib/trial write there; this reads.
"""

from __future__ import annotations

import datetime
import os
import re
import sys
from pathlib import Path

from edge import __version__
from edge.errors import UpdateFailed


class Slots:
    """base: the folder with all of them."""

    def __init__(self, base: Path) -> None:
        self.base = base

    @property
    def current(self) -> str:
        """Name of the slot in use. Raises `OSError`."""
        return os.readlink(self.base / "current")

    @property
    def before(self) -> str | None:
        """The one to go back to: the newest other one that is whole."""
        marks = {
            mark.stat().st_mtime: mark.parent.name
            for mark in self.base.glob("[0-9]*/.identity")
            if mark.parent.name != self.current
        }
        return marks[max(marks)] if marks else None

    @property
    def on_trial(self) -> bool:
        return (self.base / ".trial").exists()

    @property
    def failed(self) -> str | None:
        return _line(self.base / ".failed")

    def identity(self, slot: str) -> str | None:
        return _line(self.base / slot / ".identity")

    def made_at(self, slot: str) -> datetime.datetime | None:
        """When its bundle was made; None where it came from a clone."""
        said = _line(self.base / slot / "installer" / "made_at")
        return datetime.datetime.fromisoformat(said) if said else None

    def installer(self, slot: str) -> Path:
        return self.base / slot / "installer" / "scripts" / "install.sh"


def installed() -> Slots | None:
    """Those that this program is one of; None where scripts/install.sh did not install it."""
    slots = Slots(Path(sys.prefix).parent)
    return slots if (slots.base / "current").is_symlink() else None


def here() -> Slots:
    """Raises `UpdateFailed` where this program is in no slot."""
    slots = installed()
    if slots is None:
        raise UpdateFailed(
            f"this edge {__version__} was not installed by scripts/install.sh, so it has no slots",
            hint="from a clone: git pull, then ./scripts/run; in a container: a new image",
        )
    return slots


def number(slot: str) -> str:
    """The version of a slot, without what tells builds and candidates of it apart."""
    found = re.match(r"\d+(\.\d+)*", slot)
    return found[0] if found else "0"


def _line(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
