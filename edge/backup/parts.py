"""What of the state directory is backed up, and what it is called in a backup. Pure.

Weights are left out: they are large, and have come from elsewhere; the manifests with their digests
are kept. Left out as well is what is made anew: the answer cache, kept prefixes, locks, the key of
this machine's own commands.
"""

from __future__ import annotations

import re

import msgspec

CONFIG = "config/edge.yaml"

DATABASES = ("jobs.sqlite", "reports.sqlite")
"""Copied by SQLite, so that they are whole while the daemon writes."""

FILES = ("audit.key",)

FOLDERS = (
    *("files", "keys", "certs", "audit"),
    *("models/names", "models/canaries", "models/catalog.d", "models/bundles"),
)
"""All files that lie in them, and no folders."""

MODELS = "models/"
"""Before the names of what may be on a file system of its own."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]{0,250}")
_STATE = "state/"
_PASSING = (".draft", ".part", ".lock")
_OWN = "keys/own"


class Entry(msgspec.Struct, frozen=True):
    """A file in a backup. path: there. mode: its permissions."""

    path: str
    size: int
    sha256: str
    mode: int = 0o600


class Manifest(msgspec.Struct, frozen=True):
    """version: of the software that made it. made: epoch seconds. device: `device.id`."""

    format: int
    version: str
    device: str
    made: float
    entries: list[Entry]

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.entries)

    def of(self, part: str) -> list[Entry]:
        """Of a folder, or a file, of the state directory."""
        place = f"{_STATE}{part}"
        return [e for e in self.entries if e.path == place or e.path.startswith(f"{place}/")]


def is_kept(folder: str, name: str) -> bool:
    """Whether a file of one of the folders belongs into a backup."""
    return (
        _NAME.fullmatch(name) is not None
        and not name.endswith(_PASSING)
        and f"{folder}/{name}" != _OWN
    )


def path_of(place: str) -> str:
    """What a file of the state directory is called in a backup."""
    return f"{_STATE}{place}"


def place_of(path: str) -> str | None:
    """Where in the state directory a file of a backup belongs; None where nowhere."""
    place = path.removeprefix(_STATE)
    if place == path:
        return None
    folder, _, name = place.rpartition("/")
    known = place in (*DATABASES, *FILES) or (folder in FOLDERS and is_kept(folder, name))
    return place if known else None
